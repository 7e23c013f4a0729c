"""``selfprompt eval``: evaluates a saved classifier on labelled images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, make_console, table
from selfprompt.cli.saved_classifier import (
    CLASSES_HELP,
    add_classifier_argument,
    add_loading_options,
    load_saved_classifier,
    parse_class_names,
)
from selfprompt.cli.usage import check_at_least
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_cells
from selfprompt.utils.files import to_json

if TYPE_CHECKING:
    from selfprompt.data.dataset import Dataset, Item
    from selfprompt.inference.classifier import Classifier


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    add_classifier_argument(parser)
    parser.add_argument("data", type=str, help="labelled images, as for `selfprompt train`")
    parser.add_argument(
        "--split",
        type=Literal["auto", "test", "val", "train", "all"],
        default="auto",
        help="auto: the test images if the data have any, otherwise all images",
    )
    parser.add_argument("--class_names", type=str | None, help="classes.txt with the class names of the data")
    parser.add_argument("--classes", type=str | None, help=CLASSES_HELP)
    parser.add_argument(
        "--batch_size", type=int | None, help="images per batch, for methods that mix the images of a batch"
    )
    add_loading_options(parser)
    parser.add_argument("--format", type=Literal["table", "json"], default="table", help="output format")
    parser.add_argument(
        "--on_bad_image",
        type=Literal["skip", "fail"],
        default="skip",
        help="skip unreadable images and report them, or stop",
    )


def eval(options: Namespace) -> int:
    """Run the command."""
    check_at_least(options, 1, "batch_size")
    from selfprompt.data.loading.check_images import check_images, unseen_images
    from selfprompt.data.loading.loader import ImageStore

    output = Output(make_console(stderr=True))
    classifier = load_saved_classifier(options, output)
    if options.classes is not None:
        classifier = classifier.with_classes(parse_class_names(options.classes))
    if options.batch_size is not None:
        classifier.batch_size = options.batch_size
    output.note(classifier.method, classifier.batch_size)
    dataset, seen, split = labelled_images(options, classifier, output)
    store = ImageStore()
    with output.stage("reading images") as progress:
        items, bad = check_images(
            dataset.select(split), store, on_bad=options.on_bad_image, progress=progress, say=output.message
        )
        items = unseen_images(items, seen, store) if seen else items
    for image in bad:
        output.message(f"skipped {image}")
    if not items:
        kind = "images that are not copies of training images" if seen else "readable images"
        raise ValueError(f"{options.data} has no {kind} in its split {split!r}.")
    with output.stage("evaluating") as progress:
        metrics = classifier.evaluate(items, store, progress=progress).to_json()
    if options.format == "json":
        print(to_json({**metrics, "split": split, "batch_size": classifier.batch_size}, indent=2))
        return 0
    console = make_console()
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


def labelled_images(
    options: Namespace, classifier: "Classifier", output: Output
) -> "tuple[Dataset, Sequence[Item], Any]":
    """Return the data with the classifier's labels, the training images among them, and the split to use.

    "auto" is the test split if the data have one. For the data that the classifier was tuned on, that is the part held
    out then; other data without splits are used as a whole.
    """
    from selfprompt.data.fewshot import draw_few_shot, select_base_new
    from selfprompt.data.readers.read import read_dataset
    from selfprompt.data.relabel import align_classes, keep_classes
    from selfprompt.training.tune import data_key

    recipe = classifier.recipe
    same = classifier.results.get("data_key") == data_key(options.data)
    names = options.class_names or (recipe.get("class_names") if same else None)
    dataset = read_dataset(
        options.data,
        classes=None if names is None else Path(names),
        holdout=recipe["holdout"] if same else 0.0,
        seed=recipe["seed"] if same else 0,
        known=classifier.classes,
    )
    seen: Sequence[Item] = ()
    if same and options.classes is None:
        drawn, _ = draw_few_shot(dataset.train, dataset.val, recipe["shots"], recipe["seed"])
        seen = select_base_new(replace(dataset, train=drawn), recipe["classes"]).train if dataset.held_out else ()
        dataset = select_base_new(dataset, recipe["classes"])
        known = [label for label, name in enumerate(dataset.classes) if name in classifier.classes]
        if len(known) < len(dataset.classes):
            removed = [name for name in dataset.classes if name not in classifier.classes]
            output.message(f"Leaving out classes that the classifier was not tuned on: {', '.join(removed)}.")
            dataset = keep_classes(dataset, known)
    split = options.split
    if split == "auto":
        split = "test" if dataset.test else "all"
        if split == "all":
            output.message("The data have no test split, so all images are used.")
            if same:
                output.message("The classifier was tuned on these images, so its accuracy on new images is unknown.")
        elif same:
            output.message("The classifier was tuned on these data, so only their test images are used.")
    return align_classes(dataset, classifier.classes), seen if split == "test" else (), split
