"""The labelled images on which commands measure a saved classifier: their options, and reading them."""

from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output

if TYPE_CHECKING:
    from selfprompt.data.dataset import Item
    from selfprompt.data.loading.store import ImageStore
    from selfprompt.inference.classifier import Classifier


def add_selection_options(parser: ArgumentParser) -> None:
    """Declare which images of the data are used, and what their classes are called."""
    parser.add_argument(
        "--split",
        type=Literal["auto", "test", "val", "train", "all"],
        default="auto",
        help="auto: the test images if the data have any, otherwise all images",
    )
    parser.add_argument(
        "--class_names", type=str | None, help="classes.txt or classes.yaml with the class names of the data"
    )


def read_labelled_images(
    options: Namespace,
    classifier: "Classifier",
    store: "ImageStore",
    output: Output,
    *,
    on_bad_image: Literal["skip", "fail"] = "skip",
) -> tuple[tuple["Item", ...], str]:
    """Read the images of ``options.data`` that the options choose, and report the unreadable ones.

    Returns:
        The images with the classifier's labels, and the split that they are.

    Raises:
        ValueError: If the data cannot be read, or no image is left.
    """
    from selfprompt.inference.evaluation import find_images, readable_images

    images = find_images(
        options.data,
        classifier.classes,
        classifier.recipe,
        classifier.results,
        split=options.split,
        class_names=options.class_names,
        say=output.message,
    )
    with output.stage("reading images") as progress:
        items, bad = readable_images(images, store, on_bad=on_bad_image, progress=progress, say=output.message)
    for image in bad:
        output.message(f"skipped {image}")
    return items, images.split
