"""Results of the candidates that ``auto`` compares, their table, and the file that a resumed comparison reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from selfprompt.data.dataset import Dataset
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.selection import Shares, standard_error
from selfprompt.utils.files import write_json
from selfprompt.utils.json_files import read_json

SELECTION = "selection.json"
STORED = ("name", "seconds", "cost", "shares", "note", "lr")


@dataclass(frozen=True)
class Result:
    """The cross-validation of one candidate.

    Attributes:
        name: The candidate.
        seconds: Time that it took.
        cost: 0 for a method that needs only features and no epochs, 1 for one that is trained.
        shares: For each image in a fold, the share of repetitions that classified it correctly; None for an image that
            it was not tested on, or for all of them if the candidate was not compared.
        note: Why it was not.
        lr: The learning rate that was searched for it; None if none was.
        logits: Cross-fitted logits of the first repetition, (N, C), NaN for an image in no fold; None if they are not
            known: they are not stored in the file.
    """

    name: str
    seconds: float
    cost: int
    shares: list[float | None] | None = None
    note: str = ""
    lr: float | None = None
    logits: Tensor | None = field(default=None, compare=False)


def shares_of(results: Sequence[Result]) -> Shares:
    """Return the shares of candidates that were compared, (M, N), NaN where one was not tested."""
    return np.array([result.shares for result in results], dtype=np.float64)


def table_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the table of the comparison as JSON values; accuracy and standard error in percent."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"name": result.name, "seconds": round(result.seconds, 1), "note": result.note}
        if result.shares is not None:
            shares = np.array(result.shares, dtype=np.float64)
            row |= {"accuracy": 100 * float(np.nanmean(shares)), "standard_error": 100 * float(standard_error(shares))}
            if untested := np.count_nonzero(np.isnan(shares)):  # then it is compared on fewer images than the others
                row["note"] = f"tested on {len(shares) - untested} of {len(shares)} images"
        rows.append(row)
    return rows


def comparison_identity(recipe: Recipe, names: Sequence[str], backbone: Backbone, dataset: Dataset) -> str:
    """Return a hash of everything that a comparison depends on."""
    facts: list[Any] = [recipe.to_yaml(), list(names), backbone.fingerprint, list(dataset.classes)]
    facts += [asdict(one) for one in dataset.descriptions]
    items = [(str(item.source), item.label) for item in dataset.train]
    return hashlib.sha256(json.dumps([facts, items]).encode()).hexdigest()


def write_results(folder: Path | None, identity: str, results: Sequence[Result]) -> None:
    """Write the results so far, without logits; None writes nothing."""
    if folder is not None:
        rows = [{name: getattr(result, name) for name in STORED} for result in results]
        write_json(folder / SELECTION, {"identity": identity, "candidates": rows})


def read_results(folder: Path | None, identity: str) -> dict[str, Result]:
    """Return the results of an interrupted comparison by name; none if there was none, or one of other data or options.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder and folder / SELECTION
    if path is None or not path.exists():
        return {}
    record = read_json(path, advice="Delete it to compare the candidates again.")
    if not isinstance(record, dict) or record.get("identity") != identity:
        return {}
    try:
        return {row["name"]: Result(**row) for row in record["candidates"] if row["shares"] is not None}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Delete it to compare the candidates again.") from error
