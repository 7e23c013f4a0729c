"""Measure how much the accuracy of the released SEP depends on the composition of test batches.

``sep-authors`` fuses tokens across the images of a batch, so a test set sorted by class gives it batches of one class.
The same tuned classifier is evaluated on each test set sorted and shuffled, with several batch sizes; ``sep``, whose
predictions depend on one image each, is evaluated for comparison.

    python -m experiments.sep_batches --seeds 1,2,3 --shots 8
"""

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from selfprompt.benchmarks.protocols import cell_recipe, make_cell
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.data.dataset import Item
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.suites import list_tasks, load_task
from selfprompt.inference.classifier import Classifier
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

ORDERS = ("by class", "shuffled")
SIZES = (1, 32, 500)


def main() -> None:
    """Run the experiment and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--datasets", default=",".join(list_tasks("embedded")))
    parser.add_argument("--methods", default="sep-authors,sep")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/sep_batches.json"))
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.is_file() else []
    runs = [
        (dataset, method, int(seed))
        for dataset in options.datasets.split(",")
        for method in options.methods.split(",")
        for seed in options.seeds.split(",")
    ]
    finished = {(entry["dataset"], entry["method"], entry["seed"]) for entry in done}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for run in track([run for run in runs if run not in finished], "tuning and evaluating"):
        done += measure_orders(*run, options.shots)
        write_json(options.out, done)
    print(table(done))


def measure_orders(dataset: str, method: str, seed: int, shots: int) -> list[dict[str, Any]]:
    """Tune once; records the accuracy for every order and batch size."""
    task = load_task(f"embedded/{dataset}")
    (row,) = parse_rows(method)
    cell = make_cell("few-shot", "embedded", dataset, row, seed, shots, {})
    recipe = cell_recipe(cell, task, shots * len(task.dataset.classes))
    classifier = tune(task.dataset, recipe=recipe)
    records = []
    for order in ORDERS:
        items = arrange(task.dataset.test, order, seed)
        for size in SIZES:
            accuracy = accuracy_of(classifier, items, size)
            facts = {"dataset": dataset, "method": method, "seed": seed, "shots": shots}
            records.append({**facts, "order": order, "batch": size, "accuracy": accuracy})
    return records


def arrange(items: Sequence[Item], order: str, seed: int) -> list[Item]:
    """Return test images sorted by class, or in a seeded random order."""
    listed = sorted(items, key=lambda item: item.label)
    if order == "shuffled":
        random.Random(seed).shuffle(listed)
    return listed


def accuracy_of(classifier: Classifier, items: Sequence[Item], batch: int) -> float:
    """Return the accuracy in percent with a batch size, for images in the given order."""
    return replace(classifier, batch_size=batch).evaluate(items, ImageStore("1GB")).accuracy


def table(done: Sequence[dict[str, Any]]) -> str:
    """Format a Markdown table of the mean over data sets and seeds, with the standard deviation over seeds."""
    by_seed: dict[tuple[str, str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in done:
        by_seed[entry["method"], entry["order"], entry["batch"]][entry["seed"]].append(entry["accuracy"])
    lines = ["| method | test images | " + " | ".join(f"batch {size}" for size in SIZES) + " |"]
    lines.append("|---|---|" + "---:|" * len(SIZES))
    for method in dict.fromkeys(entry["method"] for entry in done):
        for order in ORDERS:
            cells = [
                format_spread([statistics.mean(v) for v in by_seed[method, order, size].values()]) for size in SIZES
            ]
            lines.append(f"| {method} | {order} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_spread(values: Sequence[float]) -> str:
    """Format mean and sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
