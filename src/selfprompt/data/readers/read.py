"""`read_dataset` turns whatever the user has into splits of labelled images with class names and notes."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfprompt.data.class_names import ClassMapping, ClassNames, name_classes
from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.duplicates import describe_duplicates, find_duplicates
from selfprompt.data.holdout import hold_out
from selfprompt.data.label_spelling import normalize_labels, sort_labels
from selfprompt.data.loading.check_images import OnBad
from selfprompt.data.readers.folders import OnEmptyClass, read_class_folders, read_folder
from selfprompt.data.readers.label_inference import advise_on_labels, infer_labels
from selfprompt.data.readers.manifest import MANIFEST_SUFFIXES, read_manifest
from selfprompt.data.readers.objects import read_object
from selfprompt.data.readers.splits import KNOWN_SPLIT_WORDS, LabelledSplit, parse_split
from selfprompt.data.relabel import rename_classes
from selfprompt.data.suites import SUITES, list_tasks, load_task
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.wording import listing

CLASS_FILES = ("classes.yaml", "classes.yml", "classes.txt")

Splits = dict[Split, LabelledSplit]


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
    """Read labelled images; opens none of them unless that is the only way to learn the labels.

    Args:
        source: A folder with a folder of images for each class; a folder with train, (val,) and test folders of that
            kind; a manifest (.csv, .tsv, .parquet) with the columns path, label and optionally split; a torchvision or
            Hugging Face data set; a list of (PIL image or path, label or class name); a dict of split -> any of these;
            or, if there is no such path, the name of a suite's task, "embedded/animals".
        classes: Class names or descriptions: a list, a mapping from labels, or a file with either (see
            `class_names.read_class_descriptions`). By default a file classes.yaml or classes.txt in the folder, or
            next to the manifest, is used if it exists.
        holdout: Fraction of each class held out for testing if there is no test split, in [0, 1); 0 for none.
        seed: Seed of that choice.
        known: The classes of a classifier to be evaluated on the images; one of them is then enough.
        on_empty: "skip" leaves out class folders without images and adds a note; "fail" raises.
        on_bad: What to do with an item of a data-set object that cannot be read, so that its label is unknown: "skip"
            leaves it out, "fail" raises.

    Returns:
        The data set. Classes are numbered in the order of their labels: as numbers if all are whole numbers, else as
        text, case-sensitively, as in torchvision's ``ImageFolder``; unless the source or ``classes`` defines an order.
        `Dataset.notes` lists every decision.

    Raises:
        ValueError: If there is nothing to read, or something does not fit; the message names the file or folder.
        TypeError: If ``source`` is of no known type.
    """
    _check_options(holdout, on_empty)
    if is_task(source):
        return rename_classes(_load_embedded_task(str(source)), classes)
    splits = _read_source(source, on_empty, on_bad, known)
    notes = []
    if classes is None and (files := _find_class_files(source)):
        classes = files[0]
        unread = f"; {listing([file.name for file in files[1:]])} is not read" if files[1:] else ""
        notes.append(f"Class names are from {classes.name}{unread}.")
    name, title = _name_source(source)
    splits, label_notes = normalize_labels(title, splits)
    mapping = name_classes(_order_labels(title, splits), _collect_names(splits), classes)
    _check_class_count(mapping.names, 1 if known else 2, source, title)
    notes += [*(note for images in splits.values() for note in images.notes), *label_notes, *mapping.notes]
    dataset = _make_dataset(name, splits, mapping, notes)
    duplicates = find_duplicates(item.source for item in dataset.select("all"))
    dataset = dataclasses.replace(dataset, notes=(*notes, *describe_duplicates(dataset, duplicates)))
    return dataset if dataset.test or not holdout else hold_out(dataset, holdout, seed, duplicates)


def is_task(source: Any) -> bool:
    """Return whether a source is the name of a suite's task, and no file or folder has that name."""
    named = isinstance(source, str) and source.partition("/")[0] in SUITES and "/" in source
    return named and not os.path.exists(source)


def _check_options(holdout: float, on_empty: str) -> None:
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout must lie in [0, 1), got {holdout}.")
    if on_empty not in ("skip", "fail"):
        raise ValueError(f"on_empty must be 'skip' or 'fail', got {on_empty!r}.")


def _load_embedded_task(name: str) -> Dataset:
    """Load a task that ships with the package; for the others, raise ValueError with how to give their folder."""
    suite, _, task = name.partition("/")
    if suite != "embedded" and task in list_tasks(suite):
        raise ValueError(
            f"{name} does not ship with the package, and its folder has a layout of its own: give the folder to "
            f"`selfprompt bench PROTOCOL --suite {suite} --root FOLDER`, or in Python give "
            f"`load_task({name!r}, FOLDER).dataset` (from selfprompt.data.suites)."
        )
    return load_task(name).dataset


def _read_source(source: Any, on_empty: OnEmptyClass, on_bad: OnBad, known: Collection[str]) -> Splits:
    if isinstance(source, (str, Path)):
        return _read_path(Path(source), on_empty, known)
    if isinstance(source, Mapping):
        return _read_mapping(source, on_empty, on_bad)
    return {"train": read_object(source, on_bad)}


def _read_path(path: Path, on_empty: OnEmptyClass, known: Collection[str]) -> Splits:
    suffixes = ", ".join(MANIFEST_SUFFIXES)
    if os.path.isdir(path):
        return read_folder(path, on_empty=on_empty, known=known)
    if not os.path.exists(path):
        tasks = [f"embedded/{task}" for task in list_tasks("embedded")]
        raise ValueError(
            f"{path} does not exist: give a folder of images or a manifest ({suffixes})."
            f"{did_you_mean(path.as_posix(), tasks, show=str)}"
        )
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        return read_manifest(path)
    raise ValueError(f"{path} must be a folder or a manifest ({suffixes}).")


def _read_mapping(source: Mapping[str, Any], on_empty: OnEmptyClass, on_bad: OnBad) -> Splits:
    """Read a dict of split -> data-set object or folder of class folders."""
    splits: Splits = {}
    for word, value in source.items():
        split = parse_split(str(word))
        if split is None or split in splits:
            fault = "Unknown" if split is None else "Repeated"
            raise ValueError(f"{fault} split {word!r} among {listing(list(map(str, source)))}. {KNOWN_SPLIT_WORDS}")
        is_path = isinstance(value, (str, Path))
        splits[split] = read_class_folders(Path(value), on_empty=on_empty) if is_path else read_object(value, on_bad)
    return {split: splits[split] for split in SPLITS if split in splits}


def _find_class_files(source: Any) -> list[Path]:
    """Return the files of ``CLASS_FILES`` that are in a folder or next to a manifest; the first one counts."""
    if not isinstance(source, (str, Path)):
        return []
    path = Path(source)
    folder = path.parent if path.is_file() else path
    return [folder / name for name in CLASS_FILES if (folder / name).is_file()]


def _name_source(source: Any) -> tuple[str, str]:
    """Return the source's name for results, and its title for messages: the path, or the same name."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        return path.stem if path.is_file() else path.resolve().name, str(source)
    name = "images" if isinstance(source, (list, tuple, Mapping)) else type(source).__name__
    return name, name


def _order_labels(title: str, splits: Mapping[Split, LabelledSplit]) -> list[str]:
    """Return all labels in order.

    Raises:
        ValueError: If the splits define different orders, or train lacks a label of another split.
    """
    orders = {images.order for images in splits.values()}
    if len(orders) > 1:
        labels = {
            split: sort_labels(set(images.labels)) if images.order is None else images.order
            for split, images in splits.items()
        }
        classes = "; ".join(f"{split} has {listing(names, 5)}" for split, names in labels.items())
        raise ValueError(f"All splits of {title} must have the same classes, numbered alike, but {classes}.")
    order = orders.pop() if orders else None
    if order is not None:
        return list(order)
    present = {split: set(images.labels) for split, images in splits.items()}
    if "train" in present:
        _check_trained(title, present)
    return sort_labels(set().union(*present.values()))


def _check_trained(title: str, present: Mapping[Split, set[str]]) -> None:
    """Raise ValueError if train lacks a label of another split; suggest labels that differ in spelling only."""
    for split, labels in present.items():
        extra = labels - present["train"]
        if extra:
            letters = set(map(_letters, extra))
            similar = [label for label in present["train"] if _letters(label) in letters]
            advice = f" train has {listing(sorted(similar))}: name a class alike in all splits." if similar else ""
            raise ValueError(
                f"Every class of {title} needs training images; only in {split}: {listing(sorted(extra))}.{advice}"
            )


def _letters(label: str) -> str:
    """Return the letters of a label in lower case: the same for "0_Hot dog" and "hot_dog"."""
    return "".join(filter(str.isalpha, label.casefold()))


def _collect_names(splits: Mapping[Split, LabelledSplit]) -> dict[str, str]:
    """Return the names that the source gives for labels; all splits must agree."""
    names: dict[str, str] = {}
    for images in splits.values():
        for label, name in images.names.items():
            if names.setdefault(label, name) != name:
                raise ValueError(f"All splits must name classes alike; {label} is {names[label]!r} and {name!r}.")
    return names


def _check_class_count(names: Sequence[str], least: int, source: Any, title: str) -> None:
    if len(names) >= least:
        return
    advice = ""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        advice = " If its class folders lie deeper, give the folder that contains them."
        if infer_labels(Path(source)) is not None:
            advice = f" {advise_on_labels(Path(source))}"
    raise ValueError(f"A classifier needs at least 2 classes, got {listing(names) or 'none'} in {title}.{advice}")


def _make_dataset(
    name: str, splits: Mapping[Split, LabelledSplit], mapping: ClassMapping, notes: Sequence[str]
) -> Dataset:
    items: dict[Split, tuple[Item, ...]] = {}
    for split, images in splits.items():
        pairs = zip(images.sources, images.labels, strict=True)
        items[split] = tuple(Item(source, mapping.index[label]) for source, label in pairs)
    train, val, test = (items.get(split, ()) for split in SPLITS)
    return Dataset(name, mapping.names, train, val, test, tuple(notes), descriptions=mapping.descriptions)
