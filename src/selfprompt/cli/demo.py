"""``selfprompt demo``: the whole job on scikit-learn's handwritten digits, with the backbones that ship."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from selfprompt.cli.show import ACCURACY_COLUMNS, Show, accuracy_cells, table

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RUNS: dict[str, dict[str, Any]] = {
    "linear probe": {"method": "linear", "backbone": "embedded/mae", "epochs": 20, "lr": 1e-2},
    "VPT, random start": {"method": "vpt-deep", "backbone": "embedded/mae", "epochs": 20},
    "SPT, start from the data's tokens": {"method": "spt-deep", "backbone": "embedded/mae", "epochs": 20},
    "SEP on CLIP": {"method": "sep", "backbone": "embedded/clip", "epochs": 15},
}


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
    show.say(
        f"{photos}: 600 scans of handwritten digits (scikit-learn's copy of the UCI set), 60 for each of 10 classes"
    )
    show.console.rule("2. Tune a frozen backbone to them")
    classifiers = {name: tuned(name, run, photos, out, options, show) for name, run in RUNS.items()}
    runs = {name: classifier.results for name, classifier in classifiers.items()}
    rows = [[name, *accuracy_cells(results["tuned"])] for name, results in runs.items()]
    zero_shot = runs["SEP on CLIP"]["zero_shot"]
    rows.insert(-1, ["zero-shot CLIP", *accuracy_cells(zero_shot)])
    show.console.rule("3. Use it")
    best = max(classifiers, key=lambda name: runs[name]["tuned"]["accuracy"])
    shown = pictures(classifiers[best], photos, options.seed)
    command = f"selfprompt predict {folder_of(best, out)} {photos}/three --top 2"
    show.say(f"$ {command}")
    show.console.print(prediction_table(classifiers[best], photos))
    show.say("New class names need no training where a method reads them:")
    show.console.print(renamed_table(classifiers["SEP on CLIP"], photos))
    show.console.rule("4. Results")
    show.console.print(table(f"{options.shots} training images a class", ACCURACY_COLUMNS, rows))
    note = "; ".join(sorted({results["backbone_note"] for results in runs.values() if results["backbone_note"]}))
    from selfprompt.report.plots import summary_picture

    picture = out / "demo.png"
    summary_picture(picture, runs, shown, f"Predictions of: {best}. {note.replace('; ', chr(10))}")
    for line in note.split("; "):
        show.say(f"Note: {line}")
    show.say("For a real backbone: selfprompt train PHOTOS --out OUT --backbone open_clip/ViT-B-16/openai")
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


def tuned(name: str, run: dict[str, Any], photos: Path, out: Path, options: Namespace, show: Show) -> Any:
    """Tune one method and save it, in place of an earlier demo's."""
    from selfprompt.tuning import tune

    show.say(f"\n[{name}]  selfprompt train {photos} --method {run['method']} --backbone {run['backbone']} ...")
    settings = {**run, "epochs": 2} if options.fast else run
    classifier = tune(
        photos,
        **settings,
        shots=options.shots,
        seed=options.seed,
        augment="none",  # a mirrored digit is another sign
        progress=True,
        watcher=show,
    )
    classifier.save(folder_of(name, out))
    return classifier


def pictures(classifier: Any, photos: Path, seed: int) -> list[tuple[Any, str, str]]:
    """Some images with the true and the predicted class."""
    from PIL import Image

    paths = sorted(photos.rglob("*.png"))
    chosen = random.Random(seed).sample(paths, 16)
    said = classifier.predict(chosen)
    return [
        (Image.open(path).convert("RGB"), path.parent.name, prediction.label)
        for path, prediction in zip(chosen, said, strict=True)
    ]


def prediction_table(classifier: Any, photos: Path) -> Table:
    """What `selfprompt predict` shows for three images."""
    paths = sorted((photos / "three").glob("*.png"))[:3]
    rows = [
        [str(p.image) if rank == 0 else "", label, f"{100 * score:.1f} %"]
        for p in classifier.predict(paths, top=2)
        for rank, (label, score) in enumerate(p.top)
    ]
    return table("", ["image", "class", "probability"], rows)


def renamed_table(classifier: Any, photos: Path) -> Table:
    """The same images among names that were never trained."""
    names = ["a round sign", "a straight line", "three bows", "a hook"]
    paths = [sorted((photos / digit).glob("*.png"))[0] for digit in ("zero", "one", "three")]
    rows = [[p.image, p.label, f"{100 * p.score:.1f} %"] for p in classifier.with_classes(names).predict(paths)]
    return table("", ["image", "best of four new names", "probability"], rows)
