"""Goes through folders: what systems leave behind, and links, mislead nobody; opens no image."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from selfprompt.data.loading.image_formats import is_image

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})  # besides hidden ones
SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "__pycache__", "node_modules", "lost+found", "thumbs"),
        *("$recycle.bin", "recycler", "system volume information", "found.000"),  # Windows
        *("@eadir", "@tmp", "@recycle", "#recycle", "@recently-snapshot"),  # network drives
    }
)
"""Folders that systems and programs make, besides hidden ones. In lower case."""


def entries(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """What a folder holds, each sorted by name: folders, files (system files, too), and system folders.

    Raises:
        ValueError: If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
    parted: tuple[list[Path], list[Path], list[Path]] = ([], [], [])
    for entry in found:
        kind = 1 if not _is_folder(entry) else 2 if is_of_a_system(entry.name, SYSTEM_FOLDERS) else 0
        parted[kind].append(folder / entry.name)
    return parted


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, without system folders."""
    return entries(folder)[0]


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder itself."""
    return [file for file in entries(folder)[1] if not is_of_a_system(file.name, SYSTEM_FILES) and is_image(file)]


def contains_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(_first_image(place) for place in _folders_below(folder))


def images_below(
    folder: Path, ignored: Counter[str], left: Counter[str], enter: Callable[[Path], bool] | None = None
) -> list[Path]:
    """All images in a folder and its subfolders, sorted by path; counts what is ignored.

    Args:
        folder: Where to look.
        ignored: Counts the files that are no images, by their kind: ".txt", "hidden".
        left: Counts the system folders, by their name.
        enter: Asked for each folder before it is entered; by default those that links do not lead back to.
    """
    images = []
    for file in walk(folder, enter or (lambda place: not leads_up(place)), left):
        if is_of_a_system(file.name, SYSTEM_FILES):
            ignored["hidden"] += 1
        elif is_image(file):
            images.append(file)
        else:
            ignored[file.suffix.lower() or "no extension"] += 1
    return sorted(images, key=lambda file: file.relative_to(folder).as_posix())


def walk(folder: Path, enter: Callable[[Path], bool], left: Counter[str] | None = None) -> Iterator[Path]:
    """The files below a folder; links are followed, each real folder once; ``left`` counts the system folders."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen or not enter(place):
            continue
        seen.add(real)
        folders, files, others = entries(place)
        if left is not None:
            left.update(other.name for other in others)
        yield from files
        waiting += reversed(folders)


def leads_up(place: Path) -> bool:
    """Whether a folder is a link to one that holds it."""
    return place.is_symlink() and holds(os.path.realpath(place), os.path.realpath(place.parent))


def holds(outer: str, inner: str) -> bool:
    """Whether a real path is another one, or lies below it."""
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def is_of_a_system(name: str, names: frozenset[str]) -> bool:
    """Whether a name is hidden, or one of those that systems give."""
    return name.startswith(".") or name.lower() in names


def _folders_below(folder: Path) -> Iterator[Path]:
    """A folder and those below it, each real one once."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen or leads_up(place):
            continue
        seen.add(real)
        yield place
        waiting += reversed(folders_in(place))


def _first_image(folder: Path) -> bool:
    """Whether an image lies in a folder itself; looks no further than it must."""
    try:
        with os.scandir(folder) as scan:
            return any(
                not is_of_a_system(entry.name, SYSTEM_FILES) and not _is_folder(entry) and is_image(folder / entry.name)
                for entry in scan
            )
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
