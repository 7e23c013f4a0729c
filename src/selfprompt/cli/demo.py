"""``selfprompt demo``: the whole job on scikit-learn's handwritten digits, with a backbone that ships."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.predict import prediction_table
from selfprompt.cli.show import ACCURACY_COLUMNS, Show, accuracy_cells, table

if TYPE_CHECKING:
    from selfprompt.classifier import Classifier

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# One training for all three, so that only the method differs.
TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2e-2,
    "warmup_epochs": 1,
    "decay": "weights",
    "weight_decay": 1e-2,
    "head_weight_decay": 1e-2,
    "batch_size": 16,
    "augment": "none",  # a mirrored digit is another sign
}
RUNS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "linear", "epochs": 16},
    "VPT-deep: prompts start at random": {"method": "vpt-deep", "epochs": 16, "options": {"dropout": 0.0}},
    "SPT-deep: prompts start from the data": {"method": "spt-deep", "epochs": 16},
}
SHOWN = "SPT-deep: prompts start from the data"
BACKBONE = "embedded/mae"


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=str, default="demo-output", help="folder for the images, classifiers and picture")
    parser.add_argument("--shots", type=int, default=16, help="training images per class")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random choice")
    parser.add_argument("--fast", action="store_true", help="two epochs each: to see that everything works")


def demo(options: Namespace) -> int:
    """Run the command."""
    show = Show()
    out = Path(options.out)
    photos = out / "digits"
    show.console.rule("1. A folder of images, one folder a class")
    write_digits(photos, per_class=60)
    show.say(f"{photos}: 600 scans of handwritten digits (scikit-learn's copy of a UCI set), 10 classes")
    show.console.rule("2. Tune a frozen backbone to them")
    classifiers = {name: tuned(name, run, photos, out, options, show) for name, run in RUNS.items()}
    runs = {name: classifier.results for name, classifier in classifiers.items()}
    show.console.rule("3. Use the saved classifier")
    predict_three(folder_of(SHOWN, out), photos, show)
    show.console.rule("4. Results")
    rows = [[name, *accuracy_cells(results["tuned"])] for name, results in runs.items()]
    show.console.print(table(f"{options.shots} training images a class", ACCURACY_COLUMNS, rows))
    note = runs[SHOWN]["backbone_note"]
    if note:
        show.say(f"Note: {note}")
    show.say("With a real backbone: selfprompt train PHOTOS --out OUT --backbone open_clip/ViT-B-16/openai")
    from selfprompt.report.plots import summary_picture

    picture = out / "demo.png"
    shown = pictures(classifiers[SHOWN], photos, options.seed)
    summary_picture(picture, runs, shown, f"Pictures: test images and what {SHOWN.split(':')[0]} says of them.\n{note}")
    show.say(f"Picture: {picture.resolve()}")
    return 0


def write_digits(folder: Path, per_class: int) -> None:
    """Write the digits as PNG files, one folder a class; files that exist are kept."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    written = [0] * 10
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        if written[digit] == per_class:
            continue
        written[digit] += 1
        path = folder / DIGITS[digit] / f"{number:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 - pixels * 15.9).astype("uint8")).resize((64, 64), Image.Resampling.BICUBIC).save(path)


def folder_of(name: str, out: Path) -> Path:
    """Where the demo saves a run."""
    return out / RUNS[name]["method"]


def tuned(name: str, run: dict[str, Any], photos: Path, out: Path, options: Namespace, show: Show) -> "Classifier":
    """Tune one method and save it, in place of an earlier demo's."""
    from selfprompt.tuning import tune

    show.say(f"\n{name}\n$ selfprompt train {photos} --method {run['method']} --backbone {BACKBONE} ...")
    classifier = tune(
        photos,
        **{**run, **TRAINING, **({"epochs": 2} if options.fast else {})},
        backbone=BACKBONE,
        shots=options.shots,
        seed=options.seed,
        progress=True,
        watcher=show,
    )
    classifier.save(folder_of(name, out))
    return classifier


def predict_three(folder: Path, photos: Path, show: Show) -> None:
    """Load a saved classifier and show what it says of three images."""
    from selfprompt.classifier import load

    paths = [sorted((photos / digit).glob("*.png"))[-1] for digit in ("zero", "three", "eight")]
    show.say(f"$ selfprompt predict {folder} {' '.join(map(str, paths))} --top 2")
    show.console.print(prediction_table(load(folder).predict(paths, top=2)))


def pictures(classifier: "Classifier", photos: Path, seed: int) -> list[tuple[Any, str, str]]:
    """Some test images with the true and the predicted class."""
    from selfprompt.data.sources import read_dataset

    dataset = read_dataset(photos, seed=seed)  # the same images are held out as in training
    items = random.Random(seed).sample(dataset.test, 16)
    images = [item.load() for item in items]
    said = classifier.predict(images)
    return [
        (image, dataset.classes[item.label], prediction.label)
        for image, item, prediction in zip(images, items, said, strict=True)
    ]
