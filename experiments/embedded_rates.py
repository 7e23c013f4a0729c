"""Select a learning rate for each method on the embedded suite, on validation images of base classes only.

Published rates belong to long trainings of large backbones. Every method is tuned on the base classes with a few rates
and evaluated on the validation images of those classes; test images and new classes are never read. The best rates are
in ``src/selfprompt/benchmarks/settings.yaml``.

    python -m experiments.embedded_rates
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import track

from selfprompt.benchmarks.protocols import cell_recipe, make_cell
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.suites import load_task
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

SGD = (0.006, 0.02, 0.06, 0.2)
RATES: dict[str, Sequence[float]] = {
    **dict.fromkeys(("coop", "kgcoop", "prograd", "cocoop", "maple", "ivlp", "promptsrc", "vpt-clip"), SGD),
    "tcp": (0.002, 0.006, 0.02),
    "sep": (0.0025, 0.006, 0.02),
    "clip-lora": (0.0002, 0.001, 0.005),
}


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--methods", default=",".join(RATES))
    parser.add_argument("--datasets", default="animals,objects")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/embedded_rates.json"))
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.is_file() else []
    finished = {(run["method"], run["rate"], run["dataset"]) for run in done}
    runs = [
        (method, rate, dataset)
        for method in options.methods.split(",")
        for rate in RATES[method]
        for dataset in options.datasets.split(",")
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for run in track([run for run in runs if run not in finished], "tuning"):
        done.append(measure_rate(*run, options.shots, options.seed))
        write_json(options.out, done)
    print(table(done))


def measure_rate(method: str, rate: float, dataset: str, shots: int, seed: int) -> dict[str, Any]:
    """Tune with a learning rate; records the accuracy in percent on the validation images of the base classes."""
    task = load_task(f"embedded/{dataset}")
    (row,) = parse_rows(f"{method}[lr={rate}]")
    cell = make_cell("base-to-new", "embedded", dataset, row, seed, shots, {})
    recipe = cell_recipe(cell, task, shots * len(select_base_new(task.dataset, "base").classes))
    dataset_with_val_as_test = replace(task.dataset, val=(), test=task.dataset.val)
    accuracy = tune(dataset_with_val_as_test, recipe=recipe).results["tuned"]["accuracy"]
    return {"method": method, "rate": rate, "dataset": dataset, "accuracy": accuracy}


def table(done: Sequence[dict[str, Any]]) -> str:
    """Format a Markdown table of the mean over data sets for every rate, the best of each method in bold."""
    lines = ["| method | rates: mean validation accuracy |", "|---|---|"]
    for method in dict.fromkeys(run["method"] for run in done):
        means = {
            rate: statistics.mean(run["accuracy"] for run in done if (run["method"], run["rate"]) == (method, rate))
            for rate in dict.fromkeys(run["rate"] for run in done if run["method"] == method)
        }
        best = max(means, key=lambda rate: means[rate])
        cells = [
            f"**{rate:g}: {mean:.1f}**" if rate == best else f"{rate:g}: {mean:.1f}" for rate, mean in means.items()
        ]
        lines.append(f"| {method} | {' · '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
