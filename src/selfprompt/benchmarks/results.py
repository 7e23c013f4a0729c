"""Reading and averaging the results of cells; imports no torch."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from selfprompt.benchmarks.cells import ERROR, RESULT, error_summary
from selfprompt.benchmarks.hits import Hits, check_hits, check_same_images
from selfprompt.benchmarks.strict import STRICT
from selfprompt.metrics import Metrics, harmonic_mean
from selfprompt.recipes.renamed import with_present_keys
from selfprompt.utils.json_files import read_json
from selfprompt.utils.validation import check_types

ADVICE = "Delete it; selfprompt bench runs that cell again."

Scores = Mapping[int, float]
"""Accuracies in percent, in [0, 100], by seed."""


@dataclass(frozen=True)
class CellResult:
    """The result of one cell.

    Attributes:
        protocol: Name of the protocol.
        suite: Name of the suite.
        dataset: The task that was trained on.
        row: The row as the user wrote it.
        seed: The seed.
        shots: Training images per class; 0 for all or none.
        id: The cell's id.
        label: The row's name in tables: the row, with whatever distinguishes it from other rows of that name.
        evaluations: Metrics by name; None where the method has no scores for those classes.
        record: The whole content of the file.
    """

    protocol: str
    suite: str
    dataset: str
    row: str
    seed: int
    shots: int
    id: str
    label: str
    evaluations: Mapping[str, Metrics | None]
    record: Mapping[str, Any] = field(repr=False)

    @property
    def trained(self) -> bool:
        """Whether the method used training images."""
        return bool(self.record["images"]["train"])

    @property
    def supports(self) -> str:
        """How a strict protocol drew the training images; empty for other protocols."""
        return str(self.record.get("supports") or "")

    def hits(self, name: str) -> Hits | None:
        """Return which images of an evaluation were classified correctly; None if that was not recorded."""
        found = self.record.get("hits", {}).get(name)
        return None if found is None else Hits.from_json(found)


@dataclass(frozen=True)
class Spread:
    """A percentage over several seeds.

    Attributes:
        values: One value per seed.
        centre: The value to show, if it is not the mean of the values (H is computed from the means, as in papers).
        note: A restriction of it, such as "4 of 6 data sets".
        overlap: If each seed drew its test images from one set of images, the number of test images per other image.
            The values are then correlated, and the interval is wider.
    """

    values: tuple[float, ...]
    centre: float | None = None
    note: str = ""
    overlap: float = 0.0

    limits: ClassVar[tuple[float, float]] = (0.0, 100.0)

    @property
    def mean(self) -> float:
        """The value to show, in percent."""
        return statistics.fmean(self.values) if self.centre is None else self.centre

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the values (n - 1); None for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of the mean by Student's t, within the limits; None below three values.

        Source of the correction for overlap: Nadeau and Bengio 2003 (Machine Learning 52:239), section 3.1.
        """
        if len(self.values) < 3 or self.deviation is None:
            return None
        from scipy.special import stdtrit

        count = len(self.values)
        reach = float(stdtrit(count - 1, 0.975)) * self.deviation * math.sqrt(1 / count + self.overlap)
        lowest, highest = self.limits
        return max(lowest, self.mean - reach), min(highest, self.mean + reach)


class Difference(Spread):
    """Percentage points by which a method is ahead of another one on the same images, over several seeds."""

    limits = (-100.0, 100.0)


@dataclass(frozen=True)
class _Record:
    """The part of a result file that tables and plots read."""

    id: str
    protocol: Literal[
        "base-to-new",
        "few-shot",
        "cross-dataset",
        "domain-generalization",
        "vtab",
        "fgvc",
        "holdout",
        "strict",
        "strict-few-shot",
    ]
    suite: Literal["embedded", "coop", "vtab", "fgvc", "folder"]
    dataset: str
    row: str
    seed: int
    shots: int
    preprocessing: str
    overrides: Mapping[str, Any]
    evaluations: Mapping[str, Any]
    images: Mapping[str, Any]
    classes: tuple[str, ...]
    trainable_parameters: int
    train_seconds: float
    seconds: float
    peak_memory: Mapping[str, Any]
    eval_batch_size: int
    sample_wise: bool
    backbone: Mapping[str, Any]
    finished: str


@dataclass(frozen=True)
class _StrictRecord:
    """What the result of a strict protocol also has."""

    supports: Literal["balanced", "marginal", "marginal-absent", "dirichlet", "files"]
    hits: Mapping[str, Any]
    openworld_auc: float | None


@dataclass(frozen=True)
class _RecordedBackbone:
    name: str
    fingerprint: str
    note: str


@dataclass(frozen=True)
class GridResults:
    """The results in an output folder.

    Attributes:
        results: The finished cells; of several with the same position in a table, the latest.
        failed: Folders of failed cells, each with the last line of its traceback.
        notes: What a reader must know about the results, one sentence each.
    """

    results: tuple[CellResult, ...]
    failed: Mapping[str, str]
    notes: tuple[str, ...]


def read_results(runs: Path) -> GridResults:
    """Read all results below a folder.

    Raises:
        ValueError: If the folder does not exist, or holds no result or a damaged one.
    """
    if not runs.is_dir():
        raise ValueError(f"{runs} is not a folder; give the one that selfprompt bench wrote to (--out).")
    records = [record for path in sorted(runs.rglob(RESULT)) if (record := _read(path)) is not None]
    failed = {
        str(path.parent.relative_to(runs)): error_summary(path.parent)
        for path in sorted(runs.rglob(ERROR))
        if not (path.parent / RESULT).exists()
    }
    if not records:
        tail = f", only {len(failed)} failed cells" if failed else ""
        raise ValueError(f"{runs} holds no results of selfprompt bench{tail}.")
    latest, notes = select_latest(records)
    check_same_images(record for record in latest if record["protocol"] in STRICT)
    return GridResults(tuple(to_results(latest)), failed, (*notes, *result_notes(latest)))


def _read(path: Path) -> dict[str, Any] | None:
    """Read the result of a cell; None if the file is another command's."""
    record = read_json(path, advice=ADVICE)
    if not isinstance(record, dict) or "protocol" not in record:
        return None
    try:
        _check_types(_Record, record)
        _check_types(_RecordedBackbone, record["backbone"])
        if not record["evaluations"]:
            raise ValueError("evaluations must not be empty")
        for metrics in record["evaluations"].values():
            if metrics is not None:
                _check_types(Metrics, {"confusion": [], "reliability": [], "calibration": None, **metrics})
                _check_tables(Metrics.from_json({"confusion": [], **metrics}))
        record["images"]["train"]
        if record["protocol"] in STRICT:
            _check_types(_StrictRecord, record)
            check_hits(record)
        return {**record, "overrides": with_present_keys(record["overrides"], log=False)}
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} is damaged: {reason}. {ADVICE}") from error


def _check_types(record: type, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values have all fields of a record, with the right types."""
    missing = [entry.name for entry in fields(record) if entry.name not in values]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    check_types(record, values)


def _check_tables(metrics: Metrics) -> None:
    """Raise ValueError unless the confusion matrix is a square of counts and each reliability bin has images."""
    rows, bins = metrics.confusion, metrics.reliability
    if not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        raise ValueError("confusion must have as many columns as rows")
    if not all(isinstance(count, int) and count >= 0 for row in rows for count in row):
        raise ValueError("confusion must hold counts")
    for entry in bins:
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, (int, float)) for x in entry)):
            raise ValueError("reliability must hold three numbers per bin")
        if entry[2] <= 0:
            raise ValueError("reliability must not hold empty bins")


def select_latest(records: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Keep the latest of the records with the same position in a table; returns a note if others were dropped."""
    latest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        latest[(*_row_key(record), record["dataset"], record["seed"], record["shots"])] = record
    older = len(records) - len(latest)
    note = f"{older} results of earlier recipes with the same name are left out; only the latest of each counts."
    return list(latest.values()), [note] if older else []


def _row_key(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what identifies a row of a table among the user's choices."""
    changed = json.dumps(record["overrides"], sort_keys=True)
    names = ("protocol", "suite", "row", "preprocessing")
    return (*(record[name] for name in names), record.get("supports", ""), record["backbone"]["name"], changed)


def to_results(records: Sequence[Mapping[str, Any]]) -> list[CellResult]:
    """Convert records, giving different labels to different rows."""
    return [
        CellResult(
            **{name: record[name] for name in ("protocol", "suite", "dataset", "row", "seed", "shots", "id")},
            label=_label(record, records),
            evaluations={
                name: m and Metrics.from_json({"confusion": [], **m}) for name, m in record["evaluations"].items()
            },
            record=record,
        )
        for record in records
    ]


def _label(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """Return the row's name, followed by its differences from other rows of that name."""
    namesakes = [r for r in records if all(r[key] == record[key] for key in ("protocol", "suite", "row"))]
    all_choices, choices = [_choices(r) for r in namesakes], _choices(record)
    keys = dict.fromkeys(key for each in all_choices for key in each)
    differing = [key for key in keys if len({json.dumps(each.get(key)) for each in all_choices}) > 1]
    shown = [f"{key} {choices[key]}" if key in choices else f"{key} as in the recipe" for key in differing]
    return f"{record['row']} ({', '.join(shown)})" if shown else str(record["row"])


def _choices(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user chose for a row: backbone, preprocessing, overrides."""
    choices = {"backbone": record["backbone"]["name"], **record["overrides"]}
    return {**choices, "preprocessing": record["preprocessing"]} if record["preprocessing"] else choices


def result_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on toy backbones, weights or images that changed, and methods that mix the images of a batch."""
    notes = list(dict.fromkeys(record["backbone"]["note"] for record in records if record["backbone"]["note"]))
    fingerprints: dict[str, set[str]] = {}
    for record in records:
        backbone = record["backbone"]
        size = f" at {backbone['image_size']} pixels" if backbone.get("image_size") else ""
        fingerprints.setdefault(f"{backbone['name']}{size}", set()).add(backbone["fingerprint"])
    notes += [
        f"Results of {name} come from {len(prints)} different weights: run the older cells again."
        for name, prints in fingerprints.items()
        if len(prints) > 1
    ]
    contents: dict[tuple[str, str], set[str]] = {}
    for record in records:
        contents.setdefault((record["suite"], record["dataset"]), set()).add(record.get("contents", ""))
    notes += [
        f"Results on {name} come from different images or class names: run all of its cells again."
        for (_, name), hashes in contents.items()
        if len(hashes) > 1
    ]
    mixing = sorted({f"{r['row']} (batches of {r['eval_batch_size']})" for r in records if not r["sample_wise"]})
    if mixing:
        notes.append(f"Predictions depend on the other images of the batch: {', '.join(mixing)}.")
    return notes


def accuracy_by_seed(
    results: Iterable[CellResult], name: str, key: Literal["accuracy", "macro"] = "accuracy"
) -> dict[int, float]:
    """Return the accuracy of one evaluation by seed, or the mean accuracy of its classes; empty if there is none."""
    by_seed = {result.seed: result.evaluations.get(name) for result in results}
    return {seed: float(getattr(found, key)) for seed, found in sorted(by_seed.items()) if found is not None}


def auc_by_seed(results: Iterable[CellResult]) -> dict[int, float]:
    """Return OpenworldAUC in percent by seed; empty if there is none."""
    by_seed = {result.seed: result.record.get("openworld_auc") for result in results}
    return {seed: float(value) for seed, value in sorted(by_seed.items()) if value is not None}


def mean_scores(scores: Sequence[Scores]) -> dict[int, float]:
    """Return the unweighted mean over data sets, for the seeds that all of them have."""
    if not scores:
        return {}
    seeds = sorted(set.intersection(*(set(entry) for entry in scores)))
    return {seed: statistics.fmean(entry[seed] for entry in scores) for seed in seeds}


def spread(scores: Scores, note: str = "") -> Spread | None:
    """Return the spread over seeds; None if there is no score."""
    return Spread(tuple(scores[seed] for seed in sorted(scores)), note=note) if scores else None


def harmonic_spread(base: Scores, new: Scores, note: str = "") -> Spread | None:
    """Return H of the mean base and mean new accuracy, with the spread of H over seeds; None unless both exist."""
    seeds = sorted(set(base) & set(new))
    if not seeds:
        return None
    centre = harmonic_mean(*(statistics.fmean(scores[seed] for seed in seeds) for scores in (base, new)))
    return Spread(tuple(harmonic_mean(base[seed], new[seed]) for seed in seeds), centre, note)


def mean_of_spreads(spreads: Sequence[Spread | None], note: str = "") -> Spread | None:
    """Return the unweighted mean of spreads over the same seeds; None if one is missing or their seeds differ."""
    given = [spread for spread in spreads if spread is not None]
    if not given or len(given) < len(spreads) or len({len(spread.values) for spread in given}) > 1:
        return None
    values = tuple(statistics.fmean(of_seed) for of_seed in zip(*(spread.values for spread in given), strict=True))
    return Spread(values, statistics.fmean(spread.mean for spread in given), note)


def spread_over_draws(scores: Scores, results: Sequence[CellResult], note: str = "") -> Spread | None:
    """Return the spread over seeds that held out test images; its interval allows for images that the seeds share."""
    shares = [r.record["recipe"]["holdout"] for r in results if r.record.get("held_out")]
    found = spread(scores, note)
    if found is None or not shares:
        return found
    return replace(found, overlap=statistics.fmean(share / (1 - share) for share in shares))


def difference(results: Sequence[CellResult], ground: Sequence[CellResult]) -> Difference | None:
    """Return by how many points results are ahead of others on the same images, over the seeds that both have."""
    ours, theirs = accuracy_by_seed(results, "test"), accuracy_by_seed(ground, "test")
    scores = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
    found = spread_over_draws(scores, results)
    return None if found is None else Difference(found.values, overlap=found.overlap)
