"""A cell of a grid: one recipe on one data set, its id, and the state of its folder; imports no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from selfprompt.benchmarks.rows import row_slug
from selfprompt.benchmarks.strict import SplitFile
from selfprompt.recipes.options import LATER_OPTIONS
from selfprompt.recipes.recipe import Recipe
from selfprompt.recipes.renamed import with_former_names
from selfprompt.utils.json_files import parse_json

RESULT, ERROR, SPLIT = "result.json", "error.txt", "split.json"
"""The files in a cell's folder."""
NOT_IN_ID = (
    *("memory", "feature_cache", "device", "devices", "float32", "workers"),
    *("checkpoint_every", "keep_every", "log_to"),
)
"""Values of a recipe that change a result by rounding at most; a cell's id leaves them out."""


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        protocol: Name of the protocol.
        suite: Name of the suite.
        dataset: The task that is trained on.
        row: The row of the table, as the user wrote it.
        recipe: Everything that fixes the run, including seed and shots. Texts for class names and the epochs that
            amount to ``steps`` are filled in when the cell runs.
        overrides: Values that the command line sets for all rows; runs that differ in them are different rows.
        custom_texts: Whether the user chose the texts for class names, so that the data set's do not replace them.
        targets: Further evaluations: other tasks (cross-dataset) or domains (domain-generalization).
        preprocessing: Name of a published preprocessing of VTAB's images; empty for the backbone's.
        steps: Training steps that the epochs should amount to, whatever the number of images; 0 to use the recipe's
            epochs.
        contents: Hash of the images of a folder of the user's; empty for suites, whose names say what they hold.
        supports: How a strict protocol draws training images: one of ``SUPPORTS``, or ``FROM_FILES``; else empty.
        split_file: The list of the training images; None to draw them.
    """

    protocol: str
    suite: str
    dataset: str
    row: str
    recipe: Recipe
    overrides: Mapping[str, Any] = field(default_factory=dict)
    custom_texts: bool = False
    targets: tuple[str, ...] = ()
    preprocessing: str = ""
    steps: int = 0
    contents: str = ""
    supports: str = ""
    split_file: SplitFile | None = None

    @property
    def seed(self) -> int:
        """Seed of the few-shot draw and of every random initialisation."""
        return self.recipe.seed

    @property
    def shots(self) -> int:
        """Training images per class; 0 for all of them, or none if the method uses no training images."""
        return self.recipe.data.shots

    @cached_property
    def id(self) -> str:
        """Hash of protocol, data, recipe and seed; cells with the same id measure the same."""
        flat = {key: value for key, value in self.recipe.flat().items() if key not in NOT_IN_ID}
        flat["options"] = with_former_names(self.recipe.method, self.recipe.options)
        recipe = {key: value for key, value in flat.items() if (key, value) not in LATER_OPTIONS.items()}
        facts = [self.protocol, self.suite, self.dataset, self.targets, self.preprocessing, self.custom_texts, recipe]
        facts += [self.steps] if self.steps else []
        facts += [self.contents] if self.contents else []
        facts += [f"supports {self.supports}"] if self.supports else []
        facts += [f"split {self.split_file.digest}"] if self.split_file else []
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Its folder below the output folder; the last eight characters keep changed recipes apart."""
        shots = f"-shots{self.shots}" if self.shots else ""
        run = f"seed{self.seed}{shots}-{self.id[:8]}"
        return Path(self.protocol, f"{self.suite}-{self.dataset}", row_slug(self.row), run)

    def __str__(self) -> str:
        shots = f", {self.shots} shots" if self.shots else ""
        return f"{self.dataset}  {self.row}  seed {self.seed}{shots}"

    def facts(self) -> dict[str, Any]:
        """Return what a result records about its cell, as JSON values."""
        return {
            "id": self.id,
            "protocol": self.protocol,
            "suite": self.suite,
            "dataset": self.dataset,
            "row": self.row,
            "seed": self.seed,
            "shots": self.shots,
            "preprocessing": self.preprocessing,
            "contents": self.contents,
            "supports": self.supports,
            "overrides": dict(self.overrides),
        }


def is_done(folder: Path, cell_id: str) -> bool:
    """Return whether a folder holds the result of a cell; an unreadable result does not count."""
    try:
        return bool(parse_json((folder / RESULT).read_bytes())["id"] == cell_id)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def has_failed(folder: Path) -> bool:
    """Return whether the cell ended in an error."""
    return (folder / ERROR).exists()


def error_summary(folder: Path) -> str:
    """Return the last line of a cell's traceback."""
    try:
        return (folder / ERROR).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
    except (OSError, IndexError):
        return "unknown error"
