"""Reading results and averaging them: result files in, frozen records out; imports no torch."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from selfprompt.benchmarks.cell_state import ERROR, RESULT, last_line
from selfprompt.metrics import Metrics, harmonic_mean
from selfprompt.utils.json_files import read_json
from selfprompt.utils.validation import check_kinds

ADVICE = "Delete it; selfprompt bench makes it anew."

Scores = Mapping[int, float]
"""An accuracy in percent, or a mean of some, by seed."""


@dataclass(frozen=True)
class Measured:
    """The result of one cell.

    Attributes:
        protocol, suite, dataset, row, seed, shots, id: Its cell's.
        label: The row's name in tables: the row, and what tells it from others of that name.
        evaluations: Metrics by name; None where the method cannot tell those classes apart.
        record: All that the file says.
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
        """Whether it saw training images."""
        return bool(self.record["images"]["train"])


@dataclass(frozen=True)
class Spread:
    """A percentage over several seeds.

    Attributes:
        values: One a seed.
        centre: What is shown; the mean of the values unless given (H is that of the means, as papers print it).
        note: What restricts it, "4 of 6 data sets".
    """

    values: tuple[float, ...]
    centre: float | None = None
    note: str = ""

    @property
    def mean(self) -> float:
        """What is shown, in percent."""
        return statistics.fmean(self.values) if self.centre is None else self.centre

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation of the values (n - 1); None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t; None below three values."""
        if len(self.values) < 3 or self.deviation is None:
            return None
        from scipy.special import stdtrit

        reach = float(stdtrit(len(self.values) - 1, 0.975)) * self.deviation / math.sqrt(len(self.values))
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True)
class _Record:
    """What tables and plots read from the result of a cell; the file says more."""

    id: str
    protocol: Literal["base-to-new", "cross-dataset", "domain-generalization", "few-shot", "vtab", "fgvc"]
    suite: Literal["embedded", "coop", "vtab", "fgvc"]
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
class _RecordedBackbone:
    name: str
    fingerprint: str
    note: str


@dataclass(frozen=True)
class Found:
    """What a folder of runs holds.

    Attributes:
        results: The finished cells, of cells with the same place the last one.
        broken: Folders of broken cells with what went wrong.
        notes: What a reader must know of the results, one sentence each.
    """

    results: tuple[Measured, ...]
    broken: Mapping[str, str]
    notes: tuple[str, ...]


def read_results(runs: Path) -> Found:
    """Read all results below a folder.

    Raises:
        ValueError: If there is no folder, or no result in it.
    """
    if not runs.is_dir():
        raise ValueError(f"{runs} is no folder; give the one that selfprompt bench wrote to (--out).")
    records = [record for path in sorted(runs.rglob(RESULT)) if (record := _read(path)) is not None]
    broken = {
        str(path.parent.relative_to(runs)): last_line(path.parent)
        for path in sorted(runs.rglob(ERROR))
        if not (path.parent / RESULT).exists()
    }
    if not records:
        tail = f", but {len(broken)} broken cells" if broken else ""
        raise ValueError(f"{runs} holds no results of selfprompt bench{tail}.")
    kept, notes = newest(records)
    return Found(tuple(measured(kept)), broken, (*notes, *warnings(kept)))


def _read(path: Path) -> dict[str, Any] | None:
    """A result of a cell; None for another command's result."""
    record = read_json(path, advice=ADVICE)
    if not isinstance(record, dict) or "protocol" not in record:
        return None
    try:
        _check_kinds(_Record, record)
        _check_kinds(_RecordedBackbone, record["backbone"])
        if not record["evaluations"]:
            raise ValueError("evaluations must have an entry")
        for metrics in record["evaluations"].values():
            if metrics is not None:
                _check_kinds(Metrics, {"confusion": [], "reliability": [], **metrics})
                _check_tables(Metrics.from_json({"confusion": [], **metrics}))
        record["images"]["train"]
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} is damaged: {reason}. {ADVICE}") from error
    return record


def _check_kinds(record: type, values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values have all of a record's names, and its kinds."""
    missing = [entry.name for entry in fields(record) if entry.name not in values]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    check_kinds(record, values)


def _check_tables(metrics: Metrics) -> None:
    """Raise ValueError unless the confusion matrix is square, of counts, and each bin of the reliability has images."""
    rows, bins = metrics.confusion, metrics.reliability
    if not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        raise ValueError("confusion must have as many columns as rows")
    if not all(isinstance(count, int) and count >= 0 for row in rows for count in row):
        raise ValueError("confusion must hold numbers of images")
    for entry in bins:
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, (int, float)) for x in entry)):
            raise ValueError("reliability must hold three numbers a bin")
        if entry[2] <= 0:
            raise ValueError("reliability must hold bins with images only")


def newest(records: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Of records with the same place in a table the last one, and a note if there were others."""
    latest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        latest[(*_line(record), record["dataset"], record["seed"], record["shots"])] = record
    older = len(records) - len(latest)
    note = f"{older} results of earlier recipes of the same name are left out; the latest of each counts."
    return list(latest.values()), [note] if older else []


def _line(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes results one row of a table, as far as the user stated it."""
    changed = json.dumps(record["overrides"], sort_keys=True)
    names = ("protocol", "suite", "row", "preprocessing")
    return (*(record[name] for name in names), record["backbone"]["name"], changed)


def measured(records: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """The records with labels that differ where the rows differ."""
    return [
        Measured(
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
    """The row's name, with what differs from other rows of that name."""
    same = [r for r in records if all(r[key] == record[key] for key in ("protocol", "suite", "row"))]
    facts = [_stated(entry) for entry in same]
    own = _stated(record)
    keys = dict.fromkeys(key for entry in facts for key in entry)
    differing = [key for key in keys if len({json.dumps(entry.get(key)) for entry in facts}) > 1]
    shown = [f"{key} {own[key]}" if key in own else f"{key} as in the recipe" for key in differing]
    return f"{record['row']} ({', '.join(shown)})" if shown else str(record["row"])


def _stated(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the user chose for a row: backbone, preprocessing, changed values."""
    chosen = {"backbone": record["backbone"]["name"], **record["overrides"]}
    return {**chosen, "preprocessing": record["preprocessing"]} if record["preprocessing"] else chosen


def warnings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know: toy backbones, weights that changed meanwhile, methods that mix a batch's images."""
    notes = list(dict.fromkeys(record["backbone"]["note"] for record in records if record["backbone"]["note"]))
    prints: dict[str, set[str]] = {}
    for record in records:
        prints.setdefault(record["backbone"]["name"], set()).add(record["backbone"]["fingerprint"])
    notes += [
        f"Results of {name} come from {len(found)} different weights: run the older ones again."
        for name, found in prints.items()
        if len(found) > 1
    ]
    mixing = sorted({f"{r['row']} (batches of {r['eval_batch_size']})" for r in records if not r["sample_wise"]})
    if mixing:
        notes.append(f"Predictions depend on the other images of the batch: {', '.join(mixing)}.")
    return notes


def accuracies(results: Iterable[Measured], name: str) -> dict[int, float]:
    """The accuracy of one evaluation by seed; empty where there is none."""
    found = {result.seed: result.evaluations.get(name) for result in results}
    return {seed: metrics.accuracy for seed, metrics in sorted(found.items()) if metrics is not None}


def average(scores: Sequence[Scores]) -> dict[int, float]:
    """The unweighted mean over data sets, for the seeds that all of them have."""
    if not scores:
        return {}
    seeds = sorted(set.intersection(*(set(entry) for entry in scores)))
    return {seed: statistics.fmean(entry[seed] for entry in scores) for seed in seeds}


def spread(scores: Scores, note: str = "") -> Spread | None:
    """The spread over seeds; None without any."""
    return Spread(tuple(scores[seed] for seed in sorted(scores)), note=note) if scores else None


def harmonic(base: Scores, new: Scores, note: str = "") -> Spread | None:
    """H of the mean base and the mean new accuracy, with the spread of the seeds' own H; None unless both are there."""
    seeds = sorted(set(base) & set(new))
    if not seeds:
        return None
    centre = harmonic_mean(*(statistics.fmean(scores[seed] for seed in seeds) for scores in (base, new)))
    return Spread(tuple(harmonic_mean(base[seed], new[seed]) for seed in seeds), centre, note)


def average_of(spreads: Sequence[Spread | None], note: str = "") -> Spread | None:
    """The unweighted mean of spreads over the same seeds; None unless all are there and have as many values."""
    found = [entry for entry in spreads if entry is not None]
    if not found or len(found) < len(spreads) or len({len(entry.values) for entry in found}) > 1:
        return None
    values = tuple(statistics.fmean(entry) for entry in zip(*(entry.values for entry in found), strict=True))
    return Spread(values, statistics.fmean(entry.mean for entry in found), note)
