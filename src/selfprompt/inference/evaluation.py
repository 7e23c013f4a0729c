"""Chooses the images on which a saved classifier is evaluated, so that none of them was used for training."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.fewshot import draw_few_shot, select_base_new
from selfprompt.data.loading.check_images import OnBad, check_images, unseen_images
from selfprompt.data.loading.image_files import BadImage
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.relabel import align_classes, keep_classes
from selfprompt.utils.progress import Progress

EvaluationSplit = Literal["auto", "test", "val", "train", "all"]


@dataclass(frozen=True)
class LabelledImages:
    """Images with the labels of a classifier's classes.

    Attributes:
        items: The images of ``split``.
        split: The requested split, or the one that "auto" selected.
        training: The classifier's training images, if ``items`` may contain copies of them.
    """

    items: tuple[Item, ...]
    split: str
    training: tuple[Item, ...] = ()


def find_images(
    data: Any,
    classes: Sequence[str],
    recipe: Mapping[str, Any],
    results: Mapping[str, Any],
    *,
    split: EvaluationSplit = "auto",
    class_names: str | Path | None = None,
    say: Callable[[str], None],
) -> LabelledImages:
    """Read labelled data and choose the split to evaluate on; opens no image.

    "auto" is the test split if the data have one. For the data that the classifier was trained on, that is the part
    held out then; other data without splits are used as a whole.

    Args:
        data: A folder, a manifest, a task or an object, as for ``read_dataset``.
        classes: The classifier's class names; the labels of the result count these.
        recipe: The classifier's recipe.
        results: The record of its training, which says which data it was trained on.
        split: Which images to use.
        class_names: A classes.txt or classes.yaml with the class names of the data.
        say: Receives one sentence for each choice that the user should know of.

    Raises:
        ValueError: If the data cannot be read, or have a class that the classifier does not know.
    """
    key = data_key(data)
    trained_on = key != "" and results.get("data_key") == key
    names = class_names or (recipe.get("class_names") if trained_on else None)
    dataset = read_dataset(
        data,
        classes=None if names is None else Path(names),
        holdout=recipe["holdout"] if trained_on else 0.0,
        seed=recipe["seed"] if trained_on else 0,
        known=classes,
    )
    if class_names is not None and dataset.descriptions:
        say(
            f"{class_names} names the classes of the data; the classifier keeps its own texts (--classes changes them)."
        )
    training: tuple[Item, ...] = ()
    if trained_on:
        dataset, training = _as_trained(dataset, classes, recipe, say)
    selected = _choose_split(dataset, trained_on, say) if split == "auto" else split
    aligned = align_classes(dataset, classes)
    return LabelledImages(aligned.select(selected), selected, training if selected == "test" else ())


def readable_images(
    images: LabelledImages,
    store: ImageStore,
    *,
    on_bad: OnBad,
    progress: Progress | None,
    say: Callable[[str], None],
) -> tuple[tuple[Item, ...], list[BadImage]]:
    """Decode the images once; leave out unreadable ones, and copies of training images.

    Raises:
        ValueError: If no image is left, or with "fail" if an image cannot be read.
    """
    items, bad = check_images(images.items, store, on_bad=on_bad, progress=progress, say=say)
    items = unseen_images(items, images.training, store) if images.training else items
    if not items:
        kind = "images that are not copies of training images" if images.training else "readable images"
        raise ValueError(f"The data have no {kind} in the split {images.split!r}.")
    return items, bad


def data_key(data: Any) -> str:
    """Return a hash of the path of the data, to recognise the data that a classifier was trained on; "" for objects."""
    if not isinstance(data, (str, Path)):
        return ""
    return hashlib.sha256(os.fsencode(Path(data).resolve())).hexdigest()


def _as_trained(
    dataset: Dataset, classes: Sequence[str], recipe: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[Dataset, tuple[Item, ...]]:
    """Return the data set with the classes of the training, and its training images if test images were held out."""
    drawn, _ = draw_few_shot(dataset.train, dataset.val, recipe["shots"], recipe["seed"])
    training = select_base_new(replace(dataset, train=drawn), recipe["classes"]).train if dataset.held_out else ()
    dataset = select_base_new(dataset, recipe["classes"])
    known = [label for label, name in enumerate(dataset.classes) if name in classes]
    if len(known) < len(dataset.classes):
        removed = [name for name in dataset.classes if name not in classes]
        say(f"Leaving out classes that the classifier was not trained on: {', '.join(removed)}.")
        dataset = keep_classes(dataset, known)
    return dataset, training


def _choose_split(dataset: Dataset, trained_on: bool, say: Callable[[str], None]) -> Literal["test", "all"]:
    if dataset.test:
        if trained_on:
            say("The classifier was trained on these data, so only their test images are used.")
        return "test"
    say("The data have no test split, so all images are used.")
    if trained_on:
        say("The classifier was trained on these images, so its accuracy on new images is unknown.")
    return "all"
