"""Does the search for a learning rate help? The published rate against the searched one, on the embedded suite.

    python -m experiments.folder_rates

Each method is tuned as ``selfprompt train --method NAME`` tunes it, once with its recipe's rate and once with that of
``training/rate_search.py``, whether the former learns the training images or not; the accuracy is that on the test
images. The rule takes the searched rate where the published one has not learnt them.
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.progress import track

from selfprompt.data.fewshot import draw_few_shot
from selfprompt.data.suites import load_task
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training.floors import LEAST_TRAINING_ACCURACY
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

METHODS = {
    **dict.fromkeys(("linear", "vpt-deep", "spt-deep"), "embedded/mae"),
    **dict.fromkeys(("coop", "kgcoop", "clip-lora", "sep"), "embedded/clip"),
}


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--tasks", default="animals,objects,icons")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/folder_rates.json"))
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.is_file() else []
    finished = {(row["method"], row["task"], row["shots"]) for row in done}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = [(method, task, options.shots) for method in options.methods.split(",") for task in options.tasks.split(",")]
    for method, task, shots in track([run for run in runs if run not in finished], "tuning"):
        done.append({"method": method, "task": task, "shots": shots, **compare(method, task, shots)})
        write_json(options.out, done)
    print(table(done))


def compare(method: str, task: str, shots: int) -> dict[str, Any]:
    """Return the test accuracy with the published rate and with the searched one, and the training accuracy."""
    dataset, backbone = load_task(f"embedded/{task}").dataset, load_backbone(METHODS[method])
    dataset = replace(dataset, train=draw_few_shot(dataset.train, (), shots, 1)[0], val=())
    lr = load_recipe(method).train.lr
    settings: dict[str, Any] = {"method": method, "backbone": backbone, "shots": 0, "calibrate": "never"}
    published = tune(dataset, **settings, lr=lr)
    with patch("selfprompt.training.tune.LEAST_TRAINING_ACCURACY", math.inf):
        searched = tune(dataset, **settings)
    return {
        "published": published.results["tuned"]["accuracy"],
        "learnt": published.results["training_accuracy"],
        "searched": searched.results["tuned"]["accuracy"],
        "factor": searched.recipe["lr"] / lr,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table: one row per method and number of shots, means over the tasks."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        rule = row["published"] if row["learnt"] >= LEAST_TRAINING_ACCURACY else row["searched"]
        groups[row["method"], row["shots"]].append({**row, "rule": rule})
    lines = ["| method | shots | tasks | learnt | published rate | searched rate | rule | factors |",
             "|---|---:|---:|---:|---:|---:|---:|---|"]  # fmt: skip
    for (method, shots), group in groups.items():
        means = [statistics.mean(row[key] for row in group) for key in ("learnt", "published", "searched", "rule")]
        factors = ", ".join(f"{row['factor']:.3g}" for row in group)
        numbers = " | ".join(f"{mean:.1f}" for mean in means)
        lines.append(f"| {method} | {shots} | {len(group)} | {numbers} | {factors} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
