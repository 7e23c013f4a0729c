"""Is ``auto`` as good as the best single method? On the tasks of the embedded suite, digits, and any folders.

    python -m experiments.auto_versus_heads [FOLDER ...]

For each data set, backbone and number of shots, ``auto`` and each method are trained on the same images, and tested on
the same test images. "mixed" is an unbalanced data set: 16 images of every other class, and 4 of the others. A method
that was measured before, in the file --out, is not run again.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from selfprompt.methods.registry import find_method, make_options
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training.tune import tune
from selfprompt.utils.files import write_json

HEADS = ("simpleshot", "ridge", "logistic", "ss-text", "gda")
DIGITS = "digits"
NOT_METHODS = ("data", "backbone", "shots", "seed", "chosen", "seconds")
BACKBONES = ("embedded/clip", "embedded/mae")
SHOTS = ("1", "4", "16", "mixed")


def main() -> None:
    """Run what is not done yet and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders with train/ and test/")
    tasks = ",".join((DIGITS, *list_tasks("embedded")))
    parser.add_argument("--tasks", default=tasks, help=f"{DIGITS}, and tasks of the embedded suite")
    parser.add_argument("--shots", default=",".join(SHOTS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--methods", default=",".join(HEADS), help="methods to hold against auto")
    parser.add_argument("--budget", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/auto_versus_heads.json"))
    options = parser.parse_args()
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.is_file() else []
    known = {(row["data"], row["backbone"], row["shots"], row["seed"]): row for row in done}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs = [
        (dataset, backbone, shots, seed)
        for dataset in datasets(options.tasks.split(","), options.folders)
        for shots in options.shots.split(",")
        for backbone in BACKBONES
        for seed in map(int, options.seeds.split(","))
    ]
    for dataset, backbone, shots, seed in track(runs, "tuning"):
        key = (dataset.name, backbone, shots, seed)
        if key not in known:
            known[key] = dict(zip(("data", "backbone", "shots", "seed"), key, strict=True))
        row, model = known[key], load_backbone(backbone)
        names = [name for name in ("auto", *options.methods.split(",")) if runs_on(name, model) and name not in row]
        row |= accuracies(draw(dataset, shots, seed), model, seed, options.budget, names)
        write_json(options.out, list(known.values()))
    print(table(list(known.values())))


def runs_on(name: str, backbone: Backbone) -> bool:
    """Return whether a method or recipe runs on a backbone."""
    if name == "auto":
        return True
    recipe = load_recipe(name)
    method = find_method(recipe.method)
    return backbone.text is not None or not method.traits_for(make_options(method, recipe.options)).needs_text


def datasets(tasks: list[str], folders: list[Path]) -> Iterator[Dataset]:
    """Yield the data sets: scikit-learn's digits, tasks of the embedded suite, and the folders."""
    for name in filter(None, tasks):
        yield digits() if name == DIGITS else replace(load_task(f"embedded/{name}").dataset, name=name)
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
    return replace(dataset, train=tuple(train), test=tuple(rest), name=DIGITS)


def draw(dataset: Dataset, shots: str, seed: int) -> Dataset:
    """Return the data set with so many training images a class, or an unbalanced one."""
    train, _ = draw_few_shot(dataset.train, (), 16 if shots == "mixed" else int(shots), seed)
    if shots == "mixed":
        few, _ = draw_few_shot(dataset.train, (), 4, seed)
        train = tuple(i for i in train if i.label % 2 == 0) + tuple(i for i in few if i.label % 2)
    return replace(dataset, train=train, val=())


def accuracies(dataset: Dataset, backbone: Backbone, seed: int, budget: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the test accuracy in percent of each method, and of ``auto`` what it chose and its time."""
    common: dict[str, Any] = {"backbone": backbone, "seed": seed, "shots": 0, "calibrate": "never"}
    found: dict[str, Any] = {}
    for name in names:
        options = {"budget": budget} if name == "auto" else None
        results = tune(dataset, method=name, options=options, **common).results
        found[name] = results["tuned"]["accuracy"]
        if name == "auto":
            found |= {"chosen": results["selection"]["chosen"], "seconds": results["seconds"]}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean accuracies over data sets and seeds as Markdown, one row per backbone and number of shots."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["backbone"], row["shots"]].append(row)
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in NOT_METHODS]
    lines = [f"| backbone | shots | data sets | {' | '.join(names)} |", f"|---|---|{'---:|' * (len(names) + 1)}"]
    for (backbone, shots), group in groups.items():
        means = [f"{np.mean([row[n] for row in group]):.1f}" if all(n in row for row in group) else "" for n in names]
        lines.append(f"| {backbone} | {shots} | {len(group)} | {' | '.join(means)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
