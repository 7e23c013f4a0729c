"""Reads the five fine-grained data sets, with VPT's splits (JSON) or SPT's (text lists); writes nothing.

Flowers and Cars differ from the CoOp line's in their splits. VPT's ``train``, ``val`` and ``test`` are used as they
are; SPT's lists have no validation images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from selfprompt.data.class_names import clean_name
from selfprompt.data.dataset import SPLITS, Dataset, Item, Split
from selfprompt.data.suites.lists import parse_list
from selfprompt.data.suites.locate import (
    fetch_again_hint,
    how_to_get,
    read_required_json,
    read_required_lines,
    require_folder,
    safe_path,
)
from selfprompt.data.suites.sources import SOURCES
from selfprompt.data.suites.specs import FGVC, SPECS, VPT_LISTS, DatasetSpec
from selfprompt.data.suites.task import SuiteTask
from selfprompt.utils.wording import listing

TASKS = tuple(spec.name for spec in FGVC)

Splits = Literal["auto", "vpt", "spt"]

LabelledPaths = list[tuple[str, int | str]]
"""Relative paths and class ids."""


def load_fgvc_task(name: str, root: Path | None, *, splits: Splits = "auto") -> SuiteTask:
    """Read one task; opens no image.

    Args:
        name: One of ``TASKS``.
        root: The folder that holds the data sets.
        splits: "vpt" for train.json, val.json and test.json, "spt" for SPT's lists, "auto" for those that exist
            (VPT's if both do).

    Raises:
        ValueError: If the data set is missing or not as published; the message names the file and the remedy.
    """
    spec = SPECS[f"fgvc/{name}"]
    return SuiteTask("fgvc", name, read_fgvc_dataset(spec, root, splits=splits), source=SOURCES[spec.key].attribution)


def read_fgvc_dataset(spec: DatasetSpec, root: Path | None, *, splits: Splits = "auto") -> Dataset:
    """Read one data set; see `load_fgvc_task`."""
    folder = require_folder(spec, root)
    lists = _find_spt_lists(spec, folder)
    if splits == "auto":
        splits = "vpt" if (folder / "train.json").is_file() or lists is None else "spt"
    if splits == "vpt":
        rows = {split: _read_vpt_split(spec, folder / f"{split}.json") for split in SPLITS}
        notes = ["Splits are VPT's (train.json, val.json, test.json)."]
    elif lists is None:
        raise ValueError(f"{folder} has no {' and '.join(spec.lists[len(VPT_LISTS) :])}, in it or next to it.")
    else:
        train, test = (_read_spt_split(spec, path) for path in lists)
        rows = {"train": train, "val": [], "test": test}
        notes = ["Splits are SPT's lists, which have no validation images; its train may hold VPT's validation images."]
    return _build(spec, folder, rows, notes)


def _find_spt_lists(spec: DatasetSpec, folder: Path) -> tuple[Path, ...] | None:
    """Return SPT's two lists, in the folder or next to it; None unless both exist."""
    for parent in (folder, folder.parent):
        paths = tuple(parent / name for name in spec.lists[len(VPT_LISTS) :])
        if all(path.is_file() for path in paths):
            return paths
    return None


def _read_vpt_split(spec: DatasetSpec, path: Path) -> LabelledPaths:
    content = read_required_json(spec, path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} must be an object of image path: class id. {fetch_again_hint(spec)}")
    types = {type(label) for label in content.values()}
    if types not in ({int}, {str}):
        names = listing(sorted(each.__name__ for each in types))
        raise ValueError(f"{path}: class ids must be all numbers or all words, got {names}. {fetch_again_hint(spec)}")
    return list(content.items())


def _read_spt_split(spec: DatasetSpec, path: Path) -> LabelledPaths:
    return list(parse_list(read_required_lines(spec, path), str(path), fetch_again_hint(spec)))


def _build(spec: DatasetSpec, folder: Path, splits: dict[Split, LabelledPaths], notes: list[str]) -> Dataset:
    """Build the data set; labels number the sorted class ids of all splits together."""
    class_ids: set[Any] = {class_id for rows in splits.values() for _, class_id in rows}
    if len({type(class_id) for class_id in class_ids}) > 1:
        raise ValueError(
            f"{folder}: class ids must be all numbers or all words in all splits. {fetch_again_hint(spec)}"
        )
    ids = sorted(class_ids)
    labels = {class_id: label for label, class_id in enumerate(ids)}
    base = _find_image_base(spec, folder, next(path for rows in splits.values() for path, _ in rows))
    items = {
        split: tuple(Item(safe_path(base, path, str(folder)), labels[class_id]) for path, class_id in rows)
        for split, rows in splits.items()
    }
    missing = [str(split) for split in SPLITS if items[split] and len({item.label for item in items[split]}) < len(ids)]
    if missing:
        notes.append(f"Not every class has images in {listing(missing)}; labels are those of all splits together.")
    return Dataset(
        spec.key, _class_names(items["train"], ids), items["train"], items["val"], items["test"], tuple(notes)
    )


def _find_image_base(spec: DatasetSpec, folder: Path, first: str) -> Path:
    """Return the folder to which the paths of a list are relative; the first image decides."""
    bases = [folder, *(folder / images for images in spec.images), *(folder / "102flowers" / "jpg", folder.parent)]
    for base in bases:
        if safe_path(base, first, str(folder)).is_file():
            return base
    shown = listing([str(base.relative_to(folder.parent)) for base in bases[:-1]])
    raise ValueError(f"{folder}: the image {first} of its lists is in none of {shown}. {how_to_get(spec)}")


def _class_names(items: Sequence[Item], ids: Sequence[Any]) -> tuple[str, ...]:
    """Return names from the images' folders if each class has its own ("001.Black_footed_Albatross")."""
    folders: dict[int, set[str]] = {}
    for item in items:
        assert isinstance(item.source, Path)
        folders.setdefault(item.label, set()).add(item.source.parent.name)
    single = [next(iter(folders[label])) for label in range(len(ids)) if len(folders.get(label, ())) == 1]
    names = [clean_name(_strip_number(name)) for name in single]
    if len(single) == len(ids) == len(set(names)) and not any(name.isdecimal() for name in names):
        return tuple(names)
    return tuple(f"class {label}" for label in ids)


def _strip_number(folder: str) -> str:
    """Strip a leading "001." or "n02085620-" from a folder's name."""
    head, mark, tail = folder.partition("." if folder[:1].isdecimal() else "-")
    return tail if mark and any(letter.isdecimal() for letter in head) else folder
