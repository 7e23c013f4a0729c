"""Paired comparisons of the rows of a strict grid, image by image: differences with bootstrap intervals; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfprompt.benchmarks.bootstrap import Floats, Interval, Units, most_influential, resampled_accuracy, seed_weights
from selfprompt.benchmarks.hits import Hits
from selfprompt.benchmarks.results import CellResult

Quantity = Literal["H", "union accuracy", "ACA", "accuracy"]
"""H of base and new accuracy, accuracy among base and new classes together, mean accuracy of the classes, accuracy."""
EVALUATIONS: dict[Quantity, tuple[str, ...]] = {
    "H": ("base", "new"),
    "union accuracy": ("union",),
    "ACA": ("test",),
    "accuracy": ("test",),
}
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Lead:
    """By how many percentage points one row is ahead of another.

    Attributes:
        difference: Mean over tasks of the differences, in points.
        interval: Its bootstrap distribution.
        task: The task whose removal changes the difference most; empty if there is only one task.
        others: The mean over the other tasks; None if there are none.
        others_interval: Its bootstrap distribution.
    """

    difference: float
    interval: Interval
    task: str = ""
    others: float | None = None
    others_interval: Interval | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether both intervals are above 0."""
        return self.others_interval is not None and min(self.interval.low, self.others_interval.low) > 0

    @property
    def is_behind(self) -> bool:
        """Whether both intervals are below 0: the other row is ahead."""
        return self.others_interval is not None and max(self.interval.high, self.others_interval.high) < 0


@dataclass(frozen=True)
class Comparison:
    """One quantity of several rows on the same tasks, seeds and images.

    Attributes:
        rows: Labels of the M rows.
        tasks: Names of the D tasks.
        seeds: The seeds that all rows have; empty if no row was trained.
        values: The quantity in percent, (D, M).
        samples: The quantity in each bootstrap replicate, (D, M, R).
    """

    rows: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    samples: Floats

    def lead(self, row: str, rival: str) -> Lead:
        """Return by how much a row is ahead of a rival."""
        first, second = self.rows.index(row), self.rows.index(rival)
        values = self.values[:, first] - self.values[:, second]
        samples = self.samples[:, first] - self.samples[:, second]
        whole = float(values.mean()), Interval.of(samples.mean(axis=0))
        if len(values) < 2:
            return Lead(*whole)
        left_out = most_influential(values)
        others, kept = np.delete(values, left_out), np.delete(samples, left_out, axis=0)
        return Lead(*whole, self.tasks[left_out], float(others.mean()), Interval.of(kept.mean(axis=0)))


def compare(results: Sequence[CellResult], tasks: Sequence[str], quantity: Quantity) -> Comparison | None:
    """Compare the rows that have the quantity on all tasks; None if there are fewer than two, or no common seed.

    A method without training has the same hits for every seed.

    Args:
        results: Results of one strict protocol, suite, way of drawing and number of shots.
        tasks: Tasks of the comparison.
        quantity: What to compare.
    """
    parts = EVALUATIONS[quantity]
    hits = {(r.dataset, r.label, r.seed): found for r in results if (found := _all_hits(r, parts)) is not None}
    trained = {result.label for result in results if result.trained}
    seeds_of = {
        (task, row): {seed for name, label, seed in hits if (name, label) == (task, row)}
        for task in tasks
        for row in dict.fromkeys(result.label for result in results)
    }
    rows = tuple(row for row in dict.fromkeys(r.label for r in results) if all(seeds_of[task, row] for task in tasks))
    common = [seeds_of[task, row] for task in tasks for row in rows if row in trained]
    seeds = tuple(sorted(set.intersection(*common))) if common else ()
    if len(rows) < 2 or not tasks or (common and not seeds):
        return None
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    weights = seed_weights(max(1, len(seeds)), generator)
    values, samples = [], []
    for task in tasks:
        chosen = [
            [hits[task, row, seed] for seed in (seeds if row in trained and seeds else seeds_of[task, row])]
            for row in rows
        ]
        value, sample = _resample(chosen, max(1, len(seeds)), weights, generator, quantity)
        values.append(value)
        samples.append(sample)
    return Comparison(rows, tuple(tasks), seeds, np.stack(values), np.stack(samples))


def _all_hits(result: CellResult, parts: Sequence[str]) -> tuple[Hits, ...] | None:
    """Return the hits of all evaluations; None if one is missing."""
    found = [result.hits(name) for name in parts]
    have = tuple(hits for hits in found if hits is not None)
    return have if len(have) == len(parts) else None


def _resample(
    rows: Sequence[Sequence[tuple[Hits, ...]]],
    seeds: int,
    weights: Floats,
    generator: np.random.Generator,
    quantity: Quantity,
) -> tuple[Floats, Floats]:
    """Return the quantity of each row, (M,), and in each replicate, (M, R), on one task."""
    values, samples = [], []
    for part in range(len(EVALUATIONS[quantity])):
        right = np.stack([np.stack([one[part].array for one in (row * seeds)[:seeds]]) for row in map(list, rows)])
        labels = np.asarray(rows[0][0][part].labels) if quantity == "ACA" else None
        units = Units.of(np.asarray(rows[0][0][part].groups), labels)
        values.append(_accuracy(right, labels))
        samples.append(resampled_accuracy(right, weights, generator, units))
    if quantity == "H":
        return _harmonic(*values), _harmonic(*samples)
    return values[0], samples[0]


def _accuracy(right: np.ndarray, labels: np.ndarray | None) -> Floats:
    """Return the accuracy of each row in percent, (M,), from hits (M, S, N): of the images, or mean of the classes."""
    by_image: Floats = right.mean(axis=1)
    if labels is None:
        whole: Floats = 100 * by_image.mean(axis=1)
        return whole
    by_class = [by_image[:, labels == label].mean(axis=1) for label in np.unique(labels)]
    mean: Floats = 100 * np.mean(by_class, axis=0)
    return mean


def _harmonic(base: Floats, new: Floats) -> Floats:
    """Return the harmonic mean, 0 where both are 0."""
    total = base + new
    result: Floats = 2 * base * new / np.where(total > 0, total, 1)
    return result
