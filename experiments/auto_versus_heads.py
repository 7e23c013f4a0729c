"""Is ``auto`` as good as the best single head? On the tasks of the embedded suite, digits, and any folders.

    python -m experiments.auto_versus_heads [FOLDER ...]

For each data set, backbone and number of shots, ``auto`` and each head are trained on the same images, and tested on
the same test images. "mixed" is an unbalanced data set: 16 images of every other class, and 4 of the others.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from selfprompt.data.dataset import Dataset
from selfprompt.data.fewshot import draw_few_shot
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.suites import list_tasks, load_task
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

HEADS = ("simpleshot", "ridge", "logistic", "ss-text", "gda")
BACKBONES = ("embedded/clip", "embedded/mae")
SHOTS = ("1", "4", "16", "mixed")


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders with train/ and test/")
    parser.add_argument("--tasks", default=",".join(list_tasks("embedded")), help="tasks of the embedded suite")
    parser.add_argument("--shots", default=",".join(SHOTS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--budget", default="90s")
    parser.add_argument("--out", type=Path, default=Path("runs/auto_versus_heads.json"))
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.is_file() else []
    finished = {(row["data"], row["backbone"], row["shots"], row["seed"]) for row in done}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = [
        (dataset, backbone, shots, seed)
        for dataset in datasets(options.tasks.split(","), options.folders)
        for shots in options.shots.split(",")
        for backbone in BACKBONES
        for seed in map(int, options.seeds.split(","))
        if (dataset.name, backbone, shots, seed) not in finished
    ]
    for dataset, backbone, shots, seed in track(runs, "tuning"):
        row = {"data": dataset.name, "backbone": backbone, "shots": shots, "seed": seed}
        done.append(row | accuracies(draw(dataset, shots, seed), backbone, seed, options.budget))
        write_json(options.out, done)
    print(table(done))


def datasets(tasks: list[str], folders: list[Path]) -> Iterator[Dataset]:
    """Yield the data sets: scikit-learn's digits, tasks of the embedded suite, and the folders."""
    yield digits()
    for name in filter(None, tasks):
        yield replace(load_task(f"embedded/{name}").dataset, name=name)
    for folder in folders:
        yield replace(read_dataset(folder), name=folder.name)


def digits() -> Dataset:
    """Return scikit-learn's digits, 20 training images and 40 test images of each class."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    pairs = [(Image.fromarray((16 * row.reshape(8, 8)).clip(0, 255).astype(np.uint8)), words[k])
             for row, k in zip(pixels, labels, strict=True)]  # fmt: skip
    dataset = read_dataset(pairs)
    train, rest = [], []
    for label in range(10):
        images = [item for item in dataset.train if item.label == label]
        train += images[:20]
        rest += images[20:60]
    return replace(dataset, train=tuple(train), test=tuple(rest), name="digits")


def draw(dataset: Dataset, shots: str, seed: int) -> Dataset:
    """Return the data set with so many training images a class, or an unbalanced one."""
    train, _ = draw_few_shot(dataset.train, (), 16 if shots == "mixed" else int(shots), seed)
    if shots == "mixed":
        few, _ = draw_few_shot(dataset.train, (), 4, seed)
        train = tuple(i for i in train if i.label % 2 == 0) + tuple(i for i in few if i.label % 2)
    return replace(dataset, train=train, val=())


def accuracies(dataset: Dataset, backbone: str, seed: int, budget: str) -> dict[str, Any]:
    """Return the test accuracy in percent of ``auto`` and of every head, what was chosen, and the time."""
    model = load_backbone(backbone)
    heads = HEADS if model.text is not None else HEADS[:3]
    common: dict[str, Any] = {"backbone": model, "seed": seed, "shots": 0, "calibrate": "never"}
    found: dict[str, Any] = {}
    for name in heads:
        found[name] = tune(dataset, method=name, **common).results["tuned"]["accuracy"]
    chosen = tune(dataset, method="auto", options={"budget": budget}, **common).results
    return {
        **found,
        "auto": chosen["tuned"]["accuracy"],
        "chosen": chosen["selection"]["chosen"],
        "seconds": chosen["seconds"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean accuracies over data sets and seeds as Markdown, one row per backbone and number of shots."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["backbone"], row["shots"]].append(row)
    names = ("auto", *HEADS)
    lines = [f"| backbone | shots | data sets | {' | '.join(names)} |", f"|---|---|{'---:|' * (len(names) + 1)}"]
    for (backbone, shots), group in groups.items():
        means = [f"{np.mean([row[n] for row in group]):.1f}" if n in group[0] else "" for n in names]
        lines.append(f"| {backbone} | {shots} | {len(group)} | {' | '.join(means)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
