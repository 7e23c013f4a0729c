"""The five fine-grained data sets, with VPT's splits (JSON) or SPT's (text lists); writes nothing.

These are not the CoOp line's Flowers and Cars: the splits differ. VPT's ``train``, ``val`` and ``test`` are kept as
they are; SPT's lists have no validation images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from selfprompt.data.class_names import clean_name
from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.suites.lists import parse_list
from selfprompt.data.suites.locate import again, how_to_get, need_folder, need_json, need_text, safe_path
from selfprompt.data.suites.sources import ORIGINS
from selfprompt.data.suites.specs import EXPECTED, FGVC, VPT_LISTS, Expected
from selfprompt.data.suites.task import Task
from selfprompt.utils.wording import listing

TASKS = tuple(expected.name for expected in FGVC)

Splits = Literal["auto", "vpt", "spt"]

Labelled = list[tuple[str, int | str]]
"""Relative paths and class ids."""


def load(name: str, root: Path | None, *, splits: Splits = "auto") -> Task:
    """Read one task; opens no image.

    Args:
        name: One of ``TASKS``.
        root: The folder that holds the data sets.
        splits: "vpt" for train.json, val.json and test.json, "spt" for SPT's lists, "auto" for those that are there
            (VPT's if both are).

    Raises:
        ValueError: If the data set is not there or not as published; the message names the file and the remedy.
    """
    expected = EXPECTED[f"fgvc/{name}"]
    return Task("fgvc", name, read(expected, root, splits=splits), source=ORIGINS[expected.key].sentence)


def read(expected: Expected, root: Path | None, *, splits: Splits = "auto") -> Dataset:
    """Read one data set; see :func:`load`."""
    folder = need_folder(expected, root)
    lists = _spt_lists(expected, folder)
    if splits == "auto":
        splits = "vpt" if (folder / "train.json").is_file() or lists is None else "spt"
    if splits == "vpt":
        found = {split: _vpt_split(expected, folder / f"{split}.json") for split in SPLITS}
        notes = ["Splits are VPT's (train.json, val.json, test.json)."]
    elif lists is None:
        raise ValueError(f"{folder} has no {' and '.join(expected.lists[len(VPT_LISTS) :])}, in it or beside it.")
    else:
        train, test = (_spt_split(expected, path) for path in lists)
        found = {"train": train, "val": [], "test": test}
        notes = ["Splits are SPT's lists, which have no validation images; its train may hold VPT's validation images."]
    return _build(expected, folder, found, notes)


def _spt_lists(expected: Expected, folder: Path) -> tuple[Path, ...] | None:
    """SPT's two lists, in the folder or beside it; None unless both are there."""
    for place in (folder, folder.parent):
        paths = tuple(place / name for name in expected.lists[len(VPT_LISTS) :])
        if all(path.is_file() for path in paths):
            return paths
    return None


def _vpt_split(expected: Expected, path: Path) -> Labelled:
    content = need_json(expected, path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must be an object of image path: class id. {again(expected)}")
    kinds = {type(label) for label in content.values()}
    if kinds not in ({int}, {str}):
        held = listing(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{path}: class ids must be all numbers or all words, got {held}. {again(expected)}")
    return list(content.items())


def _spt_split(expected: Expected, path: Path) -> Labelled:
    return list(parse_list(need_text(expected, path), str(path), again(expected)))


def _build(expected: Expected, folder: Path, found: dict[Split, Labelled], notes: list[str]) -> Dataset:
    """Class ids of all splits together, sorted, are the labels: one numbering for all splits."""
    every: set[Any] = {label for rows in found.values() for _, label in rows}
    if len({type(label) for label in every}) > 1:
        raise ValueError(f"{folder}: class ids must be all numbers or all words in all splits. {again(expected)}")
    ids = sorted(every)
    labels = {label: number for number, label in enumerate(ids)}
    base = _image_base(expected, folder, next(path for rows in found.values() for path, _ in rows))
    parts = {
        split: tuple(Item(safe_path(base, path, str(folder)), labels[label]) for path, label in rows)
        for split, rows in found.items()
    }
    lacking = [str(split) for split in SPLITS if parts[split] and len({item.label for item in parts[split]}) < len(ids)]
    if lacking:
        notes.append(f"Not every class has images in {listing(lacking)}; labels are those of all splits together.")
    return Dataset(expected.key, _names(parts["train"], ids), parts["train"], parts["val"], parts["test"], tuple(notes))


def _image_base(expected: Expected, folder: Path, first: str) -> Path:
    """What the paths of a list are relative to: the place where its first image is."""
    bases = [folder, *(folder / images for images in expected.images), *(folder / "102flowers" / "jpg", folder.parent)]
    for base in bases:
        if safe_path(base, first, str(folder)).is_file():
            return base
    shown = listing([str(base.relative_to(folder.parent)) for base in bases[:-1]])
    raise ValueError(f"{folder}: the image {first} of its lists is in none of {shown}. {how_to_get(expected)}")


def _names(items: Sequence[Item], ids: Sequence[Any]) -> tuple[str, ...]:
    """Names from the images' folders where each class has one of its own ("001.Black_footed_Albatross")."""
    folders: dict[int, set[str]] = {}
    for item in items:
        assert isinstance(item.source, Path)
        folders.setdefault(item.label, set()).add(item.source.parent.name)
    single = [next(iter(folders[label])) for label in range(len(ids)) if len(folders.get(label, ())) == 1]
    names = [clean_name(_words(name)) for name in single]
    if len(single) == len(ids) == len(set(names)) and not any(name.isdecimal() for name in names):
        return tuple(names)
    return tuple(f"class {label}" for label in ids)


def _words(folder: str) -> str:
    """The name in a folder's name: without "001." or "n02085620-" in front."""
    head, mark, tail = folder.partition("." if folder[:1].isdecimal() else "-")
    return tail if mark and any(letter.isdecimal() for letter in head) else folder
