"""How small a difference between two methods shows in the embedded benchmark?

    python -m experiments.benchmark_resolution --methods zero-shot,kgcoop,tcp,coop --seeds 10

Methods are tuned on the base classes of each task, 16 images per class. Half of the 95 % interval of the difference of
their H (harmonic mean of the accuracies on base and new classes, averaged over tasks, in points) comes from a bootstrap
of seeds, and of what else could have been otherwise: the views of each drawing; the images, as if each were a drawing
of its own; or the drawings, each with all its views. A drawing is what one set shows of one class.
"""

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from selfprompt.benchmarks.bootstrap import Interval, seed_weights
from selfprompt.benchmarks.protocols import UNTRAINED, cell_recipe, make_cell
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.data.dataset import Dataset
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.suites import embedded, list_tasks, load_task
from selfprompt.data.suites.task import SuiteTask
from selfprompt.inference.classifier import compute_logits
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

Floats = NDArray[np.float64]
Unit = Literal["nothing", "views", "images", "drawings"]
UNITS: tuple[Unit, ...] = ("nothing", "views", "images", "drawings")
SHOTS = 16
REPLICATES = 2000
GOAL = 0.5
"""Half of an interval in points, for which the necessary views are estimated."""


@dataclass(frozen=True)
class Half:
    """The test images of one half of a task's classes.

    Attributes:
        right: Whether each method classifies an image correctly, (M, S, N): methods, seeds, images.
        drawings: Number of the drawing that an image is a view of, (N,).
        further: Whether an image is one of the further test images, (N,).
    """

    right: NDArray[np.bool_]
    drawings: NDArray[np.int64]
    further: NDArray[np.bool_]

    def select(self, chosen: NDArray[np.bool_]) -> "Half":
        """Return some of the images."""
        return Half(self.right[..., chosen], self.drawings[chosen], self.further[chosen])


def with_more_test(task: SuiteTask) -> Dataset:
    """Return the data set of a task with all its test images, those of today first."""
    return replace(task.dataset, test=task.dataset.test + task.more_test)


def list_drawings(task: SuiteTask) -> NDArray[np.int64]:
    """Return the number of the drawing of each image of `with_more_test`, (N,): its class and its set."""
    rows = embedded.read_index(embedded.FOLDER / task.name)["images"]
    sets = [row[3] for row in rows if row[2] == "test"]
    sets += [Path(str(item.source)).stem.rpartition("-")[0] for item in task.more_test]
    labels = [item.label for item in with_more_test(task).test]
    _, numbers = np.unique([f"{label} {name}" for label, name in zip(labels, sets, strict=True)], return_inverse=True)
    return numbers.astype(np.int64)


def classify(task: SuiteTask, method: str, seed: int, store: ImageStore, features: FeatureStore) -> str:
    """Tune a method on the base classes; returns 1 or 0 for each image of `with_more_test`: right or wrong."""
    (row,) = parse_rows(method)
    cell = make_cell("base-to-new", "embedded", task.name, row, seed, SHOTS, {})
    data = with_more_test(task)
    base = select_base_new(data, "base")
    recipe = cell_recipe(cell, task, min(SHOTS * len(base.classes), len(base.train)))
    classifier = tune(replace(task.dataset, val=(), test=()), recipe=recipe)
    right: dict[Any, bool] = {}
    for part in (base, select_base_new(data, "new")):
        adapted = classifier.with_classes(part.described_classes, check=False)
        logits = compute_logits(adapted.method, adapted.batches(part.test, store, features))
        said = logits.argmax(dim=1).tolist()
        right |= {item.source: label == item.label for item, label in zip(part.test, said, strict=True)}
    return "".join(str(int(right[item.source])) for item in data.test)


def read_halves(task: SuiteTask, right: Mapping[str, Sequence[str]]) -> list[Half]:
    """Return both halves of a task.

    Args:
        task: The task.
        right: By method, `classify` for each seed; one seed stands for all if there is one.
    """
    seeds = max(map(len, right.values()))
    rows = [
        [[letter == "1" for letter in found[seed % len(found)]] for seed in range(seeds)] for found in right.values()
    ]
    further = np.arange(len(rows[0][0])) >= len(task.dataset.test)
    whole = Half(np.array(rows), list_drawings(task), further)
    labels = np.array([item.label for item in with_more_test(task).test])
    base = labels < (len(task.dataset.classes) + 1) // 2
    return [whole.select(base), whole.select(~base)]


def image_weights(drawings: NDArray[np.int64], unit: Unit, generator: np.random.Generator, count: int) -> Floats:
    """Draw the weight of each image in each replicate, (R, N); the sum of a replicate is 1."""
    _, numbers, sizes = np.unique(drawings, return_inverse=True, return_counts=True)
    weights = np.ones((count, len(drawings)))
    if unit == "drawings":
        weights[:] = _times_drawn(len(sizes), generator, count)[:, numbers]
    elif unit == "images":
        weights[:] = _times_drawn(len(drawings), generator, count)
    elif unit == "views":
        for number, size in enumerate(sizes):
            weights[:, numbers == number] = _times_drawn(size, generator, count)
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _times_drawn(size: int, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw as many of some things as there are, with replacement; returns how often each was drawn, (R, size)."""
    return generator.multinomial(size, np.full(size, 1 / size), count)


def resampled_h(tasks: Sequence[Sequence[Half]], unit: Unit) -> Floats:
    """Return H averaged over tasks in percent, (M, R): each replicate draws seeds, and views, images or drawings."""
    generator = np.random.default_rng(0)
    seeds = seed_weights(tasks[0][0].right.shape[1], generator, REPLICATES)
    found = []
    for halves in tasks:
        weights = [image_weights(half.drawings, unit, generator, REPLICATES) for half in halves]
        found.append(harmonic_means(halves, seeds, weights))
    mean: Floats = np.mean(found, axis=0)
    return mean


def measured_h(tasks: Sequence[Sequence[Half]]) -> Floats:
    """Return H averaged over tasks in percent, (M,)."""
    count = tasks[0][0].right.shape[1]
    seeds = np.full((1, count), 1 / count)
    found = [
        harmonic_means(halves, seeds, [np.full((1, len(half.drawings)), 1 / len(half.drawings)) for half in halves])
        for halves in tasks
    ]
    mean: Floats = np.mean(found, axis=0)[:, 0]
    return mean


def harmonic_means(halves: Sequence[Half], seeds: Floats, weights: Sequence[Floats]) -> Floats:
    """Return H of a task in percent, (M, R), under the weights of seeds, (R, S), and of each half's images, (R, N)."""
    base, new = (accuracies(half, seeds, drawn) for half, drawn in zip(halves, weights, strict=True))
    return 200 * base * new / np.maximum(base + new, 1e-9)


def accuracies(half: Half, seeds: Floats, weights: Floats) -> Floats:
    """Return accuracies, (M, R), under the weights of seeds, (R, S), and of images, (R, N)."""
    methods, count, images = half.right.shape
    by_seed = weights @ half.right.reshape(-1, images).T.astype(np.float64)
    mean: Floats = np.einsum("rms,rs->mr", by_seed.reshape(-1, methods, count), seeds)
    return mean


@dataclass(frozen=True)
class Comparison:
    """Two methods: the difference of their H in points, images that one of them alone classifies correctly in percent,
    and half of the 95 % interval by what was resampled besides seeds, in points."""

    difference: float
    discordance: float
    widths: Mapping[Unit, float]

    def views_for(self, goal: float, views: float) -> float:
        """Estimate the views of each drawing with which half of the interval is ``goal``; infinity if none suffice.

        Args:
            goal: Half of an interval in points, of seeds and views.
            views: Views of each drawing now.
        """
        seeds = self.widths["nothing"] ** 2
        if goal**2 <= seeds:
            return float("inf")
        return views * max(0.0, self.widths["views"] ** 2 - seeds) / (goal**2 - seeds)


def compare(tasks: Sequence[Sequence[Half]], methods: Sequence[str]) -> dict[tuple[str, str], Comparison]:
    """Compare each pair of methods, in the order of ``right``'s first axis."""
    measured = measured_h(tasks)
    values = {unit: resampled_h(tasks, unit) for unit in UNITS}
    found = {}
    for (i, first), (j, second) in itertools.combinations(enumerate(methods), 2):
        intervals = {unit: Interval.of(values[unit][j] - values[unit][i]) for unit in UNITS}
        differs = [(half.right[i] != half.right[j]).mean() for halves in tasks for half in halves]
        found[first, second] = Comparison(
            float(measured[j] - measured[i]),
            100 * float(np.mean(differs)),
            {unit: (interval.high - interval.low) / 2 for unit, interval in intervals.items()},
        )
    return found


def table(tasks: Sequence[Sequence[Half]], methods: Sequence[str]) -> str:
    """Return a table with a row for each pair of methods."""
    drawings = sum(len(np.unique(half.drawings)) for halves in tasks for half in halves)
    images = sum(len(half.drawings) for halves in tasks for half in halves)
    lines = [
        f"{images:,} images, {drawings} drawings",
        "",
        "| methods | difference of H | discordant, % | seeds | seeds, views | seeds, images | seeds, drawings "
        f"| views for ± {GOAL} |",
        "|---|" + "---:|" * 7,
    ]
    for (first, second), found in compare(tasks, methods).items():
        widths = " | ".join(f"± {found.widths[unit]:.2f}" for unit in UNITS)
        views = found.views_for(GOAL, images / drawings)
        needed = "more seeds" if math.isinf(views) else f"{views:.0f}"
        lines.append(
            f"| {second} - {first} | {found.difference:+.2f} | {found.discordance:.1f} | {widths} | {needed} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the experiment, which resumes, and print two tables: the test images alone, and with the further ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(list_tasks("embedded")))
    parser.add_argument("--methods", default="zero-shot,kgcoop,tcp,coop")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_resolution.json"))
    options = parser.parse_args()
    tasks = {name: load_task(f"embedded/{name}") for name in options.datasets.split(",")}
    methods = options.methods.split(",")
    right = run_all(tasks, methods, options.seeds, options.out)
    halves = [
        read_halves(task, {method: right[f"{name} {method}"] for method in methods}) for name, task in tasks.items()
    ]
    present = [[half.select(~half.further) for half in pair] for pair in halves]
    print(f"The test images: {table(present, methods)}\n\nWith the further test images: {table(halves, methods)}")


def run_all(tasks: Mapping[str, SuiteTask], methods: Sequence[str], seeds: int, out: Path) -> dict[str, list[str]]:
    """Return `classify` for each seed, by task and method; writes the file after each method."""
    done: dict[str, list[str]] = json.loads(out.read_text()) if out.is_file() else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, method in track(list(itertools.product(tasks, methods)), "tuning and classifying"):
        store, features = ImageStore("1GB"), FeatureStore("1GB")
        found = done.setdefault(f"{name} {method}", [])
        for seed in range(len(found) + 1, 2 if method in UNTRAINED else seeds + 1):
            found.append(classify(tasks[name], method, seed, store, features))
        write_json(out, done)
    return {key: found[:seeds] for key, found in done.items()}


if __name__ == "__main__":
    main()
