"""The suite that ships with the package: openly licensed drawings that no embedded backbone has seen."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from selfprompt.data.dataset import SPLITS, ArchivedFile, Dataset, ImageArchive, Item, Source
from selfprompt.data.suites.task import SuiteTask

TASKS = ("animals", "food", "travel", "objects", "faces", "flags", "icons")
FOLDER = Path(__file__).parents[2] / "suites" / "embedded"
ARCHIVE_NAME = "images.zip"
"""Archive with the images of a task: thousands of small files would burden a clone and an installation."""
MORE_TEST = "more_test"
"""Stem of the archive with further test images, and their folder in it."""


def load_embedded_task(name: str, root: Path | None = None) -> SuiteTask:
    """Read one task: 16 training, 4 validation and 8 test images per class, and 2 in each shifted domain.

    Args:
        name: One of `TASKS`.
        root: Another folder of tasks in this layout; None for the one in the package.

    Raises:
        ValueError: If the task or one of its files is missing.
    """
    folder = (root or FOLDER) / name
    index = read_index(folder)
    items: dict[str, list[Item]] = {}
    sources = _find_sources(folder, [row[0] for row in index["images"]])
    for image, (_, label, split, _) in zip(sources, index["images"], strict=True):
        items.setdefault(split, []).append(Item(image, label))
    classes = tuple(index["classes"])
    source = _format_attribution(index)
    splits = {split: tuple(items[split]) for split in SPLITS}
    dataset = Dataset(
        f"embedded/{name}", classes, splits["train"], splits["val"], splits["test"], (index["shared"], source)
    )
    domains = {domain: _make_domain(f"{dataset.name}/{domain}", classes, items[domain]) for domain in index["domains"]}
    more_test = partial(_list_more_test, folder, classes)
    return SuiteTask("embedded", name, dataset, index["template"], domains, source, list_more_test=more_test)


def _list_more_test(folder: Path, classes: tuple[str, ...]) -> tuple[Item, ...]:
    """List the further test images class by class: ``more_test/CLASS/SET-NUMBER.png`` in their archive.

    Raises:
        ValueError: If the archive is missing or damaged.
    """
    archive = ImageArchive(folder / f"{MORE_TEST}.zip")
    labels = {class_folder(name): label for label, name in enumerate(classes)}
    files = [ArchivedFile(archive, name) for name in _list_members(archive)]
    if not {Path(file.name).parent.name for file in files} <= labels.keys():
        raise ValueError(f"{archive.path} has images of other classes. Install the package again.")
    items = (Item(file, labels[Path(file.name).parent.name]) for file in files)
    return tuple(sorted(items, key=lambda item: item.label))


def class_folder(name: str) -> str:
    """Return the name of the folder for the images of a class."""
    return name.replace(" ", "_")


def _list_members(archive: ImageArchive) -> list[str]:
    """Return the names of an archive's members.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        return archive.file.namelist()
    except (BadZipFile, OSError) as error:
        raise ValueError(f"{archive.path} cannot be read: {error}. Install the package again.") from None


def _find_sources(folder: Path, names: Sequence[str]) -> Sequence[Source]:
    """Return the sources of a task's images: in its archive, or files next to the index.

    Raises:
        ValueError: If some are missing, or the archive is damaged.
    """
    archive = ImageArchive(folder / ARCHIVE_NAME)
    if archive.path.is_file():
        members = set(_list_members(archive))
        sources: list[Source] = [ArchivedFile(archive, name) for name in names]
        missing = [str(folder / name) for name in names if name not in members]
    else:
        sources = [folder / name for name in names]
        missing = [str(folder / name) for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} misses {len(missing)} of its images, the first is {missing[0]}: install the package again."
        )
    return sources


def read_index(folder: Path) -> dict[str, Any]:
    """Read a task's ``index.json``: its classes, sets and licences, and a row for each image.

    Raises:
        ValueError: If it does not exist.
    """
    path = folder / "index.json"
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: the images of the embedded suite are missing; install the package again."
        )
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def list_licences(name: str) -> list[str]:
    """Return the licences of the drawings of a task."""
    return sorted({about["licence"] for about in read_index(FOLDER / name)["sets"].values()})


def _make_domain(name: str, classes: tuple[str, ...], items: Sequence[Item]) -> Dataset:
    """Return a test set with the classes that occur in it, renumbered if some are missing."""
    present = sorted({item.label for item in items})
    new_labels = {label: new for new, label in enumerate(present)}
    names = tuple(classes[label] for label in present)
    return Dataset(name, names, test=tuple(Item(item.source, new_labels[item.label]) for item in items))


def _format_attribution(index: dict[str, Any]) -> str:
    """Return the sets, their authors and licences in one sentence."""
    sets = [
        f"{about['package']} {about['version']} ({about['author']}, {about['licence']})"
        for about in index["sets"].values()
    ]
    return f"Drawings of {', '.join(sets)}, changed: placed on backgrounds; see THIRD_PARTY.md."
