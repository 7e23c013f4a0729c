"""The suite that ships: pictures of openly licensed drawings that no backbone has seen, in the package itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from selfprompt.data.dataset import SPLITS, ArchivedFile, Dataset, ImageArchive, Item, Source
from selfprompt.data.suites.task import SuiteTask

TASKS = ("animals", "food", "travel", "objects", "faces", "flags", "icons")
FOLDER = Path(__file__).parents[2] / "suites" / "embedded"
ARCHIVE_NAME = "images.zip"
"""The pictures of a task, in one file: thousands of small ones burden a clone and an installation."""


def load_embedded_task(name: str, root: Path | None = None) -> SuiteTask:
    """Read one task: 16 images a class to train, 4 to validate, 8 to test, and 2 a class in each shifted domain.

    Args:
        name: One of `TASKS`.
        root: Another folder of tasks in this form; none for the one that ships.

    Raises:
        ValueError: If the task is not there, or a file of it is missing.
    """
    folder = (root or FOLDER) / name
    index = read_index(folder)
    items: dict[str, list[Item]] = {}
    sources = _sources(folder, [row[0] for row in index["images"]])
    for image, (_, label, part, _) in zip(sources, index["images"], strict=True):
        items.setdefault(part, []).append(Item(image, label))
    classes = tuple(index["classes"])
    source = _attribution(index)
    splits = {split: tuple(items[split]) for split in SPLITS}
    dataset = Dataset(
        f"embedded/{name}", classes, splits["train"], splits["val"], splits["test"], (index["shared"], source)
    )
    domains = {domain: _domain(f"{dataset.name}/{domain}", classes, items[domain]) for domain in index["domains"]}
    return SuiteTask("embedded", name, dataset, index["template"], domains, source)


def _sources(folder: Path, names: Sequence[str]) -> Sequence[Source]:
    """Where the images of a task are: in its archive, or as files beside the index.

    Raises:
        ValueError: If some are not there, or the archive is broken.
    """
    archive = ImageArchive(folder / ARCHIVE_NAME)
    if archive.path.is_file():
        try:
            held = set(archive.file.namelist())
        except (BadZipFile, OSError) as error:
            raise ValueError(f"{archive.path} cannot be read: {error}. Install it anew.") from None
        sources: list[Source] = [ArchivedFile(archive, name) for name in names]
        missing = [str(folder / name) for name in names if name not in held]
    else:
        sources = [folder / name for name in names]
        missing = [str(folder / name) for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} misses {len(missing)} of its images, the first is {missing[0]}: install it anew.")
    return sources


def read_index(folder: Path) -> dict[str, Any]:
    """What a task's ``index.json`` says: its classes, sets and licences, and a row for each image.

    Raises:
        ValueError: If there is none.
    """
    path = folder / "index.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the pictures of the embedded suite are not there; install it anew.")
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def list_licences(name: str) -> list[str]:
    """The licences of the drawings of a task that ships."""
    return sorted({about["licence"] for about in read_index(FOLDER / name)["sets"].values()})


def _domain(name: str, classes: tuple[str, ...], items: Sequence[Item]) -> Dataset:
    """A test set; where classes are missing from it, only those that it has, renumbered."""
    present = sorted({item.label for item in items})
    number = {label: position for position, label in enumerate(present)}
    own = tuple(classes[label] for label in present)
    return Dataset(name, own, test=tuple(Item(item.source, number[item.label]) for item in items))


def _attribution(index: dict[str, Any]) -> str:
    """The sets, their authors and licences in one sentence."""
    sets = [
        f"{about['package']} {about['version']} ({about['author']}, {about['licence']})"
        for about in index["sets"].values()
    ]
    return f"Drawings of {', '.join(sets)}, changed: placed on backgrounds; see THIRD_PARTY.md."
