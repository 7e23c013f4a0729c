"""Changes the class list of a data set: to some of its classes, to other names, or to a model's list."""

import dataclasses
from collections.abc import Sequence

from selfprompt.data.class_names import ClassNames, clean_name, name_classes
from selfprompt.data.dataset import SPLITS, Dataset, Item
from selfprompt.utils.wording import listing


def keep_classes(dataset: Dataset, labels: Sequence[int], *notes: str) -> Dataset:
    """Return the data set with some of its classes, renumbered from 0 in the order given, and with further notes."""
    renumbered = {label: number for number, label in enumerate(labels)}
    train, val, test = (
        tuple(Item(item.source, renumbered[item.label]) for item in dataset.select(split) if item.label in renumbered)
        for split in SPLITS
    )
    classes = tuple(dataset.classes[label] for label in labels)
    ids = tuple(dataset.ids[label] for label in labels) if dataset.ids else ()
    descriptions = tuple(dataset.descriptions[label] for label in labels) if dataset.descriptions else ()
    return dataclasses.replace(
        dataset,
        classes=classes,
        train=train,
        val=val,
        test=test,
        notes=(*dataset.notes, *notes),
        ids=ids,
        descriptions=descriptions,
    )


def rename_classes(dataset: Dataset, classes: ClassNames | None) -> Dataset:
    """Return the data set with the user's class names; unchanged for None.

    Raises:
        ValueError: If the names do not fit the classes.
    """
    if classes is None:
        return dataset
    mapping = name_classes(dataset.classes, {}, classes)
    train, val, test = (
        tuple(Item(item.source, mapping.index[dataset.classes[item.label]]) for item in dataset.select(split))
        for split in SPLITS
    )
    return dataclasses.replace(
        dataset,
        classes=mapping.names,
        train=train,
        val=val,
        test=test,
        notes=(*dataset.notes, *mapping.notes),
        ids=(),
        descriptions=mapping.descriptions,
    )


def align_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return the data set with the labels of another class list, to evaluate a model trained on that list.

    Raises:
        ValueError: If the data set has images of a class that is not in the list, or the list repeats a name.
    """
    if tuple(names) == dataset.classes:
        return dataset
    index = {clean_name(name): label for label, name in enumerate(names)}
    present = {item.label for item in dataset.select("all")}
    unknown = [dataset.classes[label] for label in sorted(present) if dataset.classes[label] not in index]
    if unknown:
        raise ValueError(f"Every class must be among the {len(names)} known ones; not among them: {listing(unknown)}.")
    if len(index) < len(names):
        raise ValueError("Class names must differ from one another to be matched by name.")
    train, val, test = (
        tuple(Item(item.source, index[dataset.classes[item.label]]) for item in dataset.select(split))
        for split in SPLITS
    )
    return dataclasses.replace(dataset, classes=tuple(names), train=train, val=val, test=test, ids=(), descriptions=())
