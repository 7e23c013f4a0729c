"""``selfprompt eval``: how good is a saved classifier on these labelled images?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from selfprompt.cli.predict import class_names
from selfprompt.cli.show import ACCURACY_COLUMNS, Show, accuracy_cells, table

if TYPE_CHECKING:
    from selfprompt.classifier import Classifier
    from selfprompt.data.items import Dataset


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("classifier", type=str, help="folder that `selfprompt train` wrote, or a hub repository")
    parser.add_argument("data", type=str, help="labelled images, as for `selfprompt train`")
    parser.add_argument(
        "--split",
        type=Literal["auto", "test", "val", "train", "all"],
        default="auto",
        help="auto: the test images where the data have them, else all images",
    )
    parser.add_argument("--class_names", type=str | None, help="a classes.txt with the names of the classes")
    parser.add_argument("--classes", type=str | None, help="other class names, a,b,c; no training needed")
    parser.add_argument("--batch_size", type=int | None, help="images a batch, for methods that mix a batch's images")
    parser.add_argument("--backbone", type=str | None, help="where the backbone is now, if it has moved")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--format", type=Literal["table", "json"], default="table", help="form of the output")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="leave out unreadable images, or stop",
    )


def eval(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.classifier import load
    from selfprompt.data.loader import ImageStore, check_images

    show = Show(Console(stderr=True, highlight=False))
    with show.stage("loading"):
        classifier = load(options.classifier, backbone=options.backbone, device=options.device)
    if classifier.method.backbone.note:
        show.say(f"Note: {classifier.method.backbone.note}")
    if options.classes:
        classifier = classifier.with_classes(class_names(options.classes))
    if options.batch_size is not None:
        classifier.batch_size = options.batch_size
    dataset, split = labelled_images(options, classifier, show)
    store = ImageStore()
    with show.stage("reading images") as progress:
        items, bad = check_images(dataset.select(split), store, on_bad=options.on_bad_image, progress=progress)
    for image in bad:
        show.say(f"skipped {image}")
    if not items:
        raise ValueError(f"{options.data} has no readable images in its split {split!r}.")
    with show.stage("evaluating") as progress:
        metrics = classifier.evaluate(items, store, progress=progress).to_json()
    if options.format == "json":
        print(
            json.dumps({**metrics, "split": split, "batch_size": classifier.batch_size}, indent=2, ensure_ascii=False)
        )
        return 0
    console = Console(highlight=False)
    console.print(
        table(
            f"{options.data}: {split} images",
            ACCURACY_COLUMNS,
            [[classifier.method.name, *accuracy_cells(metrics)]],
        )
    )
    worst = sorted(metrics["per_class"].items(), key=lambda pair: pair[1])[:10]
    console.print(table("hardest classes", ["class", "accuracy"], [[name, f"{value:.1f} %"] for name, value in worst]))
    return 0


def labelled_images(options: Namespace, classifier: "Classifier", show: Show) -> "tuple[Dataset, Any]":
    """The data with the classifier's labels, and which split to use.

    "auto" is the test split where the data have one. For the very data that the classifier was tuned on it is the part
    that was held out then, and for other data without splits it is all of them.
    """
    from selfprompt.data.sources import align_classes, read_dataset
    from selfprompt.tuning import data_key

    names = None if options.class_names is None else Path(options.class_names)
    same = classifier.results.get("data_key") == data_key(options.data)
    holdout = classifier.recipe["holdout"] if same else 0.0
    dataset = read_dataset(options.data, classes=names, holdout=holdout, seed=classifier.recipe["seed"])
    split = options.split
    if split == "auto":
        split = "test" if dataset.test else "all"
        if same:
            show.say("These are the data that the classifier was tuned on: only the images held out then are used.")
        elif split == "all":
            show.say("The data have no test split: all images are used.")
    return align_classes(dataset, classifier.classes), split
