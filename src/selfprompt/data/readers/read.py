"""`read_dataset`: whatever the user has becomes splits of labelled images, class names, and notes on it."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfprompt.data.class_names import ClassNames, Naming, name_classes
from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.duplicates import describe_duplicates, find_duplicates
from selfprompt.data.holdout import hold_out
from selfprompt.data.label_spelling import sort_labels, tidy_labels
from selfprompt.data.loading.check_images import OnBad
from selfprompt.data.readers.folders import OnEmptyClass, read_class_folders, read_folder
from selfprompt.data.readers.label_inference import advice, infer_labels
from selfprompt.data.readers.manifest import MANIFEST_SUFFIXES, read_manifest
from selfprompt.data.readers.objects import read_object
from selfprompt.data.readers.splits import UNKNOWN_SPLIT, Part, parse_split
from selfprompt.data.relabel import rename_classes
from selfprompt.data.suites import SUITES, list_tasks, load_task
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.wording import listing


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
        return rename_classes(_shipped(str(source)), classes)
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
            if infer_labels(Path(source)) is not None:
                told = f" {advice(Path(source))}"
        got = listing(list(naming.names)) or "none"
        raise ValueError(f"A classifier needs at least 2 classes, got {got} in {place}.{told}")
    dataset = _build(name, parts, naming, notes)
    copies = find_duplicates(item.source for item in dataset.select("all"))
    dataset = dataclasses.replace(dataset, notes=(*dataset.notes, *describe_duplicates(dataset, copies)))
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
    return did_you_mean(name, [f"embedded/{task}" for task in list_tasks("embedded")], str)


def _read_path(path: Path, on_empty: OnEmptyClass, known: Collection[str]) -> dict[Split, Part]:
    if os.path.isdir(path):
        return read_folder(path, on_empty=on_empty, known=known)
    if not os.path.exists(path):
        kinds = f"a folder of images or a manifest ({', '.join(MANIFEST_SUFFIXES)})"
        raise ValueError(f"{path} does not exist: give {kinds}.{nearest_task(path.as_posix())}")
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    raise ValueError(f"{path} must be a folder or a manifest ({', '.join(MANIFEST_SUFFIXES)}).")


def _read_splits(source: Mapping[str, Any], on_empty: OnEmptyClass, on_bad: OnBad) -> dict[Split, Part]:
    """A dict of split -> data set object or folder of class folders."""
    parts: dict[Split, Part] = {}
    for word, value in source.items():
        split = parse_split(str(word))
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
            split: sort_labels(set(part.labels)) if part.order is None else part.order for split, part in parts.items()
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
    return sort_labels(set().union(*found.values()))


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
