"""Reads the data sets of the CoOp line as published: split files, class names, templates; writes nothing.

Ten data sets have split files. ImageNet is tested on its validation images and has no validation split; its shifted
test sets are domains of the task ``imagenet``. Two pairs of ImageNet's classes share a name in the published list;
their WordNet ids (``Dataset.ids``) distinguish them. Layouts and sizes: `specs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfprompt.data.class_names import clean_name
from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.suites.locate import (
    fetch_again_hint,
    find_folder,
    is_published_file,
    list_class_folders,
    list_images,
    read_required_json,
    read_required_lines,
    require_folder,
    require_images,
    safe_path,
)
from selfprompt.data.suites.sources import SOURCES
from selfprompt.data.suites.specs import SPECS, DatasetSpec
from selfprompt.data.suites.task import SuiteTask
from selfprompt.data.templates import PHOTO, TEMPLATES
from selfprompt.utils.wording import listing

TASKS = (
    "imagenet",
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "fgvc_aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
DOMAINS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")

SplitEntry = tuple[str, int, str]
"""Relative path, label and class name of one image in a split file."""


def load_coop_task(name: str, root: Path | None) -> SuiteTask:
    """Read one task; opens no image.

    Args:
        name: One of ``TASKS``.
        root: The folder that holds the data sets.

    Raises:
        ValueError: If the data set is missing or not as published; the message names the file and the remedy.
    """
    spec = SPECS[f"coop/{name}"]
    dataset = read_coop_dataset(spec, root)
    domains = {}
    if name == "imagenet" and root is not None:
        domains = {
            domain: read_coop_dataset(SPECS[f"coop/{domain}"], root) for domain in DOMAINS if _exists(domain, root)
        }
        absent = [domain for domain in DOMAINS if domain not in domains]
        if absent:
            dataset = replace(dataset, notes=(*dataset.notes, f"Without the shifted test sets {listing(absent)}."))
    return SuiteTask("coop", name, dataset, TEMPLATES.get(name, PHOTO), domains, SOURCES[spec.key].attribution)


def read_coop_dataset(spec: DatasetSpec, root: Path | None) -> Dataset:
    """Read one data set of the CoOp line, or one of ImageNet's shifted test sets."""
    folder = require_folder(spec, root)
    if spec.name == "imagenet":
        return _read_imagenet(spec, folder)
    if spec.name in DOMAINS:
        return _read_shifted(spec, folder)
    if spec.name == "fgvc_aircraft":
        return _read_aircraft(spec, folder)
    return _read_split_file(spec, folder)


def _exists(domain: str, root: Path) -> bool:
    return find_folder(SPECS[f"coop/{domain}"], root) is not None


# --- split_zhou_*.json ---


def _read_split_file(spec: DatasetSpec, folder: Path) -> Dataset:
    images = require_images(spec, folder)
    base = folder if spec.base == "folder" else images
    file = spec.lists[0]
    entries = parse_split(read_required_json(spec, folder / file), f"{folder / file}", fetch_again_hint(spec))
    names = {label: name for split in SPLITS for _, label, name in entries[split]}
    notes: tuple[str, ...] = ()
    if is_published_file(spec, folder, file) is False:
        notes = (f"{file} is not the published file: results cannot be compared with published ones.",)
    splits = {
        split: tuple(Item(safe_path(base, path, str(folder / file)), label) for path, label, _ in entries[split])
        for split in SPLITS
    }
    classes = tuple(clean_name(names[label]) for label in range(len(names)))
    return Dataset(spec.key, classes, splits["train"], splits["val"], splits["test"], notes)


def parse_split(content: Any, where: str, remedy: str = "") -> dict[Split, list[SplitEntry]]:
    """Check and return the entries of a split file.

    Args:
        content: The file's JSON value: an object with the keys train, val and test, each a list of
            ``[path, label, class name]``.
        where: Name of the file in messages.
        remedy: What to do about an invalid file.

    Returns:
        The entries of each split in the file's order, on which few-shot draws depend.

    Raises:
        ValueError: If the form is wrong, the labels are not 0 to C - 1, a label has two names, a name two labels, or an
            image is listed twice.
    """
    if not isinstance(content, dict) or not set(SPLITS) <= set(content):
        found = listing(list(map(str, content)), 5) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{where} must hold the splits train, val and test, but it holds {found}. {remedy}")
    entries = {split: _parse_entries(content[split], f"{where}, {split}", remedy) for split in SPLITS}
    all_entries = [entry for split in SPLITS for entry in entries[split]]
    names: dict[int, str] = {}
    for _, label, name in all_entries:
        if names.setdefault(label, name) != name:
            raise ValueError(f"{where}: label {label} has two names, {names[label]!r} and {name!r}. {remedy}")
    if sorted(names) != list(range(len(names))) or not names:
        labels = [str(label) for label in sorted(names)]
        raise ValueError(f"{where}: labels must count from 0 without a gap, got {listing(labels, 5)}. {remedy}")
    _check_unique([name for _, name in sorted(names.items())], f"{where}: a class name", remedy)
    _check_unique([path for path, _, _ in all_entries], f"{where}: an image", remedy)
    return entries


def _parse_entries(rows: Any, where: str, remedy: str) -> list[SplitEntry]:
    if not isinstance(rows, list):
        raise ValueError(f"{where} must be a list of [path, label, class name], got {type(rows).__name__}. {remedy}")
    for number, row in enumerate(rows):
        kinds = tuple(map(type, row)) if isinstance(row, list) else ()
        if kinds != (str, int, str) or not clean_name(row[2]):
            raise ValueError(f"{where}, entry {number} must be [path, label, class name], got {row!r}. {remedy}")
    return [tuple(row) for row in rows]


def _check_unique(words: Sequence[str], what: str, remedy: str) -> None:
    seen: set[str] = set()
    for word in words:
        if word in seen:
            raise ValueError(f"{what} must occur once, but {word!r} occurs more often. {remedy}")
        seen.add(word)


# --- FGVCAircraft ---


def _read_aircraft(spec: DatasetSpec, folder: Path) -> Dataset:
    """Read lists with lines ``<image id> <variant>``; a variant's label is its line in variants.txt."""
    images = require_images(spec, folder)
    variants = read_required_lines(spec, folder / spec.lists[0])
    _check_unique(variants, f"{folder / spec.lists[0]}: a variant", fetch_again_hint(spec))
    labels = {variant: label for label, variant in enumerate(variants)}
    splits: dict[Split, tuple[Item, ...]] = {}
    for split, file in zip(SPLITS, spec.lists[1:], strict=True):
        where, items = folder / file, []
        for number, line in enumerate(read_required_lines(spec, where), start=1):
            image, _, variant = line.partition(" ")
            if variant.strip() not in labels:
                raise ValueError(
                    f"{where}, line {number} must be an image id and a variant of variants.txt, got {line!r}. "
                    f"{fetch_again_hint(spec)}"
                )
            items.append(Item(safe_path(images, f"{image}.jpg", str(where)), labels[variant.strip()]))
        splits[split] = tuple(items)
    notes = ("Splits are the data set's lists of variants.",)
    return Dataset(spec.key, tuple(map(clean_name, variants)), splits["train"], splits["val"], splits["test"], notes)


# --- ImageNet and its shifted test sets ---

ORDER_NOTE = "Images are sorted by name; the published code takes the order of the file system, so its draws differ."


def _read_imagenet(spec: DatasetSpec, folder: Path) -> Dataset:
    train = require_images(spec, folder)
    test = train.with_name("val")
    if not test.is_dir():
        raise ValueError(f"{test} is missing: ImageNet is tested on its validation images; put them there.")
    names = _read_class_names(spec, folder)
    wnids = [path.name for path in list_class_folders(train)]
    items = {split: _list_items(path, wnids) for split, path in (("train", train), ("test", test))}
    notes = (ORDER_NOTE, "The test images are ImageNet's validation images; there is no validation split.")
    classes = _select_names(wnids, names, train)
    return Dataset(spec.key, classes, items["train"], (), items["test"], notes, tuple(wnids))


def _read_shifted(spec: DatasetSpec, folder: Path) -> Dataset:
    """Read a shifted test set, whose classes are its folders in the order of their WordNet ids."""
    images = require_images(spec, folder)
    names = _read_class_names(spec, folder)
    wnids = sorted(names)
    if spec.name == "imagenetv2":  # folder k is class k
        numbered = sorted(list_class_folders(images), key=_number)
        outside = [path.name for path in numbered if not 0 <= _number(path) < len(wnids)]
        if outside:
            raise ValueError(f"{images} must hold folders 0 to {len(wnids) - 1}, but it holds {listing(outside, 5)}.")
        items = [Item(file, label) for label, path in enumerate(numbered) for file in list_images(path)]
        present = [wnids[_number(path)] for path in numbered]
        return Dataset(spec.key, _select_names(present, names, images), test=tuple(items), ids=tuple(present))
    present = [path.name for path in list_class_folders(images)]
    test = _list_items(images, present)
    return Dataset(spec.key, _select_names(present, names, images), test=test, ids=tuple(present))


def _number(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else -1


def _list_items(folder: Path, wnids: Sequence[str]) -> tuple[Item, ...]:
    """Return the images in class folders; all folders must be among the WordNet ids."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    names = [path.name for path in list_class_folders(folder)]
    others = [name for name in names if name not in labels]
    if others or not names:
        fault = f"its folders {listing(others, 5)} are not classes of the training images" if others else "it has none"
        raise ValueError(f"{folder} must hold a folder of images for each class, named by WordNet id, but {fault}.")
    return tuple(Item(file, labels[name]) for name in names for file in list_images(folder / name))


def _select_names(wnids: Sequence[str], names: Mapping[str, str], where: Path) -> tuple[str, ...]:
    unknown = [wnid for wnid in wnids if wnid not in names]
    if unknown or not wnids:
        raise ValueError(f"{where} must hold class folders named in classnames.txt; not in it: {listing(unknown, 5)}.")
    return tuple(clean_name(names[wnid]) for wnid in wnids)


def _read_class_names(spec: DatasetSpec, folder: Path) -> dict[str, str]:
    """Read WordNet id -> name, by ascending id, from the classnames.txt of the data set or else of ImageNet."""
    imagenet = find_folder(SPECS["coop/imagenet"], folder.parent) or folder
    path = folder / "classnames.txt"
    if not path.is_file():
        path = imagenet / "classnames.txt"
    names = {}
    for number, line in enumerate(read_required_lines(SPECS["coop/imagenet"], path), start=1):
        wnid, _, name = line.partition(" ")
        if not name.strip() or wnid in names:
            raise ValueError(f"{path}, line {number} must be a WordNet id, each once, and a name, got {line!r}.")
        names[wnid] = name.strip()
    return dict(sorted(names.items()))
