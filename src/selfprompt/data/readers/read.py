"""`read_dataset`: whatever the user has becomes splits of labelled images, class names, and notes on it."""

import dataclasses
import os
import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from selfprompt.data.class_names import ClassNames, Naming, clean_name, name_classes
from selfprompt.data.dataset import SPLITS, Dataset, ImageTable, IndexedSource, Item, Source, Split, listing, plural
from selfprompt.data.duplicates import Copies, find_copies, notes_on_copies
from selfprompt.data.label_spelling import sorted_labels, tidy_labels
from selfprompt.data.loading.store import OnBad
from selfprompt.data.readers.folders import OnEmptyClass, read_class_folders, read_folder
from selfprompt.data.readers.manifest import SUFFIXES, read_manifest
from selfprompt.data.readers.objects import read_object
from selfprompt.data.readers.splits import UNKNOWN_SPLIT, Part, split_word
from selfprompt.data.readers.unsorted import advice, find_labels
from selfprompt.data.suites import SUITES, list_tasks, load_task, nearest

__all__ = ["Dataset", "ImageTable", "IndexedSource", "Item", "align_classes", "hold_out", "read_dataset"]


def read_dataset(
    source: str | Path | Any,
    *,
    classes: ClassNames | None = None,
    holdout: float = 0.25,
    seed: int = 1,
    known: Collection[str] = (),
    on_empty: OnEmptyClass = "skip",
    on_bad: OnBad = "skip",
) -> Dataset:
    """Read labelled images; opens none of them where labels can be had without.

    Args:
        source: A folder with a folder of images for each class; a folder with train, (val,) and test folders
            of that kind; a manifest (.csv, .tsv, .parquet) with columns path, label and perhaps split; a
            torchvision or Hugging Face data set; a list of (PIL image or path, label or class name); or a
            dict of split -> any of these. Where there is no such path, the name of a suite's task, "embedded/animals".
        classes: Class names: a list, a mapping label -> name, or a file of either (see
            `names.read_class_file`). A file classes.txt in the folder (or beside the manifest) is used by
            itself.
        holdout: The part of each class that is held out for testing where there is no test split; 0 for none.
        seed: Seed of that choice.
        known: The classes of a classifier that is to be tried on the images: one of them is then enough.
        on_empty: Leave out class folders without images and say so ("skip"), or refuse them ("fail").
        on_bad: What to do with an item of a data-set object that cannot be read, so that its label is unknown.

    Returns:
        The data set. Classes are numbered in the order of their labels: as numbers where all are whole numbers, else
        as text, case-sensitively, as torchvision's ``ImageFolder`` does; unless the source or ``classes`` fixes an
        order. `Dataset.notes` tells every choice.

    Raises:
        ValueError: If there is nothing to read, or something does not fit; the message names the file or
            folder.
        TypeError: If ``source`` is of no known kind.
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must lie in [0, 1), got {holdout}.")
    if on_empty not in ("skip", "fail"):
        raise ValueError(f"on_empty must be 'skip' or 'fail', got {on_empty!r}.")
    notes: list[str] = []
    if is_task(source):
        return rename(_shipped(str(source)), classes)
    if isinstance(source, (str, Path)):
        path = Path(source)
        parts = _read_path(path, on_empty, known)
        name = path.stem if path.is_file() else path.resolve().name
        beside = (path.parent if path.is_file() else path) / "classes.txt"
        if classes is None and beside.is_file():
            classes = beside
            notes.append(f"Class names are from {beside.name}.")
    elif isinstance(source, Mapping):
        parts, name = _read_splits(source, on_empty, on_bad), "images"
    else:
        parts = {"train": read_object(source, on_bad)}
        name = "images" if isinstance(source, (list, tuple)) else type(source).__name__
    place = str(source) if isinstance(source, (str, Path)) else name
    parts, spelling = tidy_labels(place, parts)
    notes += [*(note for part in parts.values() for note in part.notes), *spelling]
    naming = name_classes(_labels(place, parts), _given_names(parts), classes)
    if len(naming.names) < (1 if known else 2):
        told = ""
        if isinstance(source, (str, Path)) and Path(source).is_dir():
            told = " If its class folders lie deeper, give the folder that holds them."
            if find_labels(Path(source)) is not None:
                told = f" {advice(Path(source))}"
        got = listing(list(naming.names)) or "none"
        raise ValueError(f"A classifier needs at least 2 classes, got {got} in {place}.{told}")
    dataset = _build(name, parts, naming, notes)
    copies = find_copies(item.source for item in dataset.select("all"))
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *notes_on_copies(dataset, copies)))
    return dataset if dataset.test or not holdout else hold_out(dataset, holdout, seed, copies)


def is_task(source: Any) -> bool:
    """Whether a source is the name of a suite's task, and no file or folder of that name exists."""
    named = isinstance(source, str) and source.partition("/")[0] in SUITES and "/" in source
    return named and not os.path.exists(source)


def _shipped(name: str) -> Dataset:
    """The images of a task that ships; a sentence about the others, whose folder is not known here."""
    if not name.startswith("embedded/") and name.partition("/")[2] in list_tasks(name.partition("/")[0]):
        raise ValueError(
            f"{name} does not ship with the package, and its images have a layout of their own: name their folder in "
            f"`selfprompt bench PROTOCOL --suite {name.partition('/')[0]} --root FOLDER`, or in Python give "
            f"`load_task({name!r}, FOLDER).dataset` (from selfprompt.data.suites)."
        )
    return load_task(name).dataset


def nearest_task(name: str) -> str:
    """A question after the task that ships whose name is most like ``name``, or nothing."""
    return nearest(name, [f"embedded/{task}" for task in list_tasks("embedded")])


def rename(dataset: Dataset, classes: ClassNames | None) -> Dataset:
    """A ready data set under the user's class names; as it is without any."""
    if classes is None:
        return dataset
    naming = name_classes(dataset.classes, {}, classes)
    train, val, test = (
        tuple(Item(item.source, naming.index[dataset.classes[item.label]]) for item in dataset.select(split))
        for split in SPLITS
    )
    notes = (*dataset.notes, *naming.notes)
    return dataclasses.replace(dataset, classes=naming.names, train=train, val=val, test=test, notes=notes, ids=())


def hold_out(dataset: Dataset, part: float, seed: int, copies: Copies | None = None) -> Dataset:
    """Move a part of each class from train to test.

    Of a class with n >= 2 training images ``round(part * n)`` are moved, at least 1 and never all; a single
    image stays. Which ones depends on the seed and n only: renaming, adding or reordering classes moves none.
    Copies of one picture count as one image and stay together; those that stand under several labels stay in train.

    Args:
        dataset: Whose training images are parted.
        part: How much of each class.
        seed: Seed of the choice.
        copies: What `find_copies` found among the images; found anew by default.
    """
    copies = find_copies(item.source for item in dataset.train) if copies is None else copies
    pictures: dict[Source, list[int]] = defaultdict(list)  # -> indices of the training images that show it
    for index, item in enumerate(dataset.train):
        pictures[copies.get(item.source, item.source)].append(index)
    members: dict[int, list[list[int]]] = defaultdict(list)  # label -> pictures that have this label only
    for indices in pictures.values():
        labels = {dataset.train[index].label for index in indices}
        if len(labels) == 1:
            members[labels.pop()].append(indices)
    chosen: set[int] = set()
    for own in members.values():
        count = min(max(1, round(part * len(own))), len(own) - 1)
        chosen.update(chain.from_iterable(random.Random(f"{seed}:{len(own)}").sample(own, count)))
    single = [
        dataset.classes[label] for label in sorted({item.label for item in dataset.train}) if len(members[label]) < 2
    ]
    train = tuple(item for index, item in enumerate(dataset.train) if index not in chosen)
    test = tuple(item for index, item in enumerate(dataset.train) if index in chosen)
    notes = [
        f"There is no test split: held out {plural(len(test), 'image')} of {len(dataset.train)} for testing "
        f"({part:.0%} of each class, seed {seed})."
    ]
    if single:
        notes.append(f"A single image, kept for training, so none to test on: {listing(single)}.")
    return dataclasses.replace(dataset, train=train, test=test, notes=(*dataset.notes, *notes), held_out=True)


def align_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """The data set with the labels of another class list, to evaluate a model that was trained on that list.

    Raises:
        ValueError: If the data set has images of a class that is not in the list.
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
    return dataclasses.replace(dataset, classes=tuple(names), train=train, val=val, test=test, ids=())


def _read_path(path: Path, on_empty: OnEmptyClass, known: Collection[str]) -> dict[Split, Part]:
    if os.path.isdir(path):
        return read_folder(path, on_empty=on_empty, known=known)
    if not os.path.exists(path):
        kinds = f"a folder of images or a manifest ({', '.join(SUFFIXES)})"
        raise ValueError(f"{path} does not exist: give {kinds}.{nearest_task(path.as_posix())}")
    if path.suffix.lower() in SUFFIXES:
        return read_manifest(path)
    raise ValueError(f"{path} must be a folder or a manifest ({', '.join(SUFFIXES)}).")


def _read_splits(source: Mapping[str, Any], on_empty: OnEmptyClass, on_bad: OnBad) -> dict[Split, Part]:
    """A dict of split -> data set object or folder of class folders."""
    parts: dict[Split, Part] = {}
    for word, value in source.items():
        split = split_word(str(word))
        if split is None or split in parts:
            fault = "Unknown" if split is None else "Repeated"
            raise ValueError(f"{fault} split {word!r} among {listing(list(map(str, source)))}. {UNKNOWN_SPLIT}")
        is_path = isinstance(value, (str, Path))
        parts[split] = read_class_folders(Path(value), on_empty=on_empty) if is_path else read_object(value, on_bad)
    return {split: parts[split] for split in SPLITS if split in parts}


def _labels(place: str, parts: Mapping[Split, Part]) -> list[str]:
    """All labels in order; train must know them all; messages name the place."""
    orders = {part.order for part in parts.values()}
    if len(orders) > 1:
        held = {
            split: sorted_labels(set(part.labels)) if part.order is None else part.order
            for split, part in parts.items()
        }
        told = "; ".join(f"{split} has {listing(list(labels), 5)}" for split, labels in held.items())
        raise ValueError(f"All splits of {place} must have the same classes, numbered alike, but {told}.")
    order = orders.pop() if orders else None
    if order is not None:
        return list(order)
    found = {split: set(part.labels) for split, part in parts.items()}
    if "train" in found:
        for split, labels in found.items():
            strange = labels - found["train"]
            if strange:
                names = listing(sorted(strange))
                alike = [label for label in found["train"] if _letters(label) in set(map(_letters, strange))]
                told = f" train has {listing(sorted(alike))}: call a class alike in all splits." if alike else ""
                raise ValueError(f"Every class of {place} needs training images; only in {split}: {names}.{told}")
    return sorted_labels(set().union(*found.values()))


def _letters(label: str) -> str:
    """What is left of a label's letters in small ones: one word for "0_Hot dog" and "hot_dog"."""
    return "".join(filter(str.isalpha, label.casefold()))


def _given_names(parts: Mapping[Split, Part]) -> dict[str, str]:
    """The names that the source itself gives; all splits must agree."""
    names: dict[str, str] = {}
    for part in parts.values():
        for label, name in part.names.items():
            if names.setdefault(label, name) != name:
                raise ValueError(f"All splits must name classes alike; {label} is {names[label]!r} and {name!r}.")
    return names


def _build(name: str, parts: Mapping[Split, Part], naming: Naming, notes: Sequence[str]) -> Dataset:
    splits: dict[Split, tuple[Item, ...]] = {}
    for split, part in parts.items():
        pairs = zip(part.sources, part.labels, strict=True)
        splits[split] = tuple(Item(source, naming.index[label]) for source, label in pairs)
    train, val, test = (splits.get(split, ()) for split in SPLITS)
    return Dataset(name, naming.names, train, val, test, (*notes, *naming.notes))
