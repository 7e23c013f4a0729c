"""Lists folders and the images in them, without system files and without following links in circles; opens no image."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from selfprompt.data.loading.image_formats import is_image

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})  # besides hidden files
SYSTEM_FOLDERS = frozenset(
    {
        *("__macosx", "__pycache__", "node_modules", "lost+found", "thumbs"),
        *("$recycle.bin", "recycler", "system volume information", "found.000"),  # Windows
        *("@eadir", "@tmp", "@recycle", "#recycle", "@recently-snapshot"),  # network drives
    }
)
"""Folders that systems and programs create, besides hidden ones; in lower case."""


class FolderListing(NamedTuple):
    """The contents of a folder, each list sorted by name.

    Attributes:
        folders: Subfolders, without system folders.
        files: All files, system files included.
        system_folders: Hidden folders and `SYSTEM_FOLDERS`.
    """

    folders: list[Path]
    files: list[Path]
    system_folders: list[Path]


def list_folder(folder: Path) -> FolderListing:
    """List a folder.

    Raises:
        ValueError: If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
    contents = FolderListing([], [], [])
    for entry in entries:
        if not _is_folder(entry):
            contents.files.append(folder / entry.name)
        elif is_system_name(entry.name, SYSTEM_FOLDERS):
            contents.system_folders.append(folder / entry.name)
        else:
            contents.folders.append(folder / entry.name)
    return contents


def list_folders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder without system folders."""
    return list_folder(folder).folders


def list_images(folder: Path) -> list[Path]:
    """Return the images directly in a folder."""
    return [
        file for file in list_folder(folder).files if not is_system_name(file.name, SYSTEM_FILES) and is_image(file)
    ]


def contains_images(folder: Path) -> bool:
    """Return whether a folder or any folder below it has an image."""
    return any(map(_has_image, _walk_folders(folder)))


def find_images(
    folder: Path,
    ignored: Counter[str],
    skipped: Counter[str],
    enter: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """Return all images in a folder and its subfolders, sorted by path.

    Args:
        folder: The folder to search.
        ignored: Counts the files that are not images, by suffix or "hidden".
        skipped: Counts the system folders, by name.
        enter: Decides for each folder whether to enter it; by default every folder but links to an ancestor.
    """
    images = []
    for file in walk_files(folder, enter or (lambda path: not links_to_ancestor(path)), skipped):
        if is_system_name(file.name, SYSTEM_FILES):
            ignored["hidden"] += 1
        elif is_image(file):
            images.append(file)
        else:
            ignored[file.suffix.lower() or "no extension"] += 1
    return sorted(images, key=lambda file: file.relative_to(folder).as_posix())


def walk_files(folder: Path, enter: Callable[[Path], bool], skipped: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files below a folder; follow links, but visit each real folder once.

    Args:
        folder: The folder to walk.
        enter: Decides for each folder whether to enter it.
        skipped: Counts the system folders, by name.
    """
    seen: set[str] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in seen or not enter(current):
            continue
        seen.add(real)
        contents = list_folder(current)
        if skipped is not None:
            skipped.update(path.name for path in contents.system_folders)
        yield from contents.files
        pending += reversed(contents.folders)


def links_to_ancestor(folder: Path) -> bool:
    """Return whether a folder is a link to a folder that contains it."""
    return folder.is_symlink() and is_inside(os.path.realpath(folder.parent), os.path.realpath(folder))


def is_inside(path: str, folder: str) -> bool:
    """Return whether a real path equals a real folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_system_name(name: str, system_names: frozenset[str]) -> bool:
    """Return whether a name is hidden or one of the system's."""
    return name.startswith(".") or name.lower() in system_names


def _walk_folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and the folders below it, each real folder once; list each as late as possible."""
    seen: set[str] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        real = os.path.realpath(current)
        if real in seen or links_to_ancestor(current):
            continue
        seen.add(real)
        yield current
        pending += reversed(list_folders(current))


def _has_image(folder: Path) -> bool:
    """Return whether an image lies directly in a folder; stop at the first."""
    try:
        with os.scandir(folder) as scan:
            return any(
                not is_system_name(entry.name, SYSTEM_FILES) and not _is_folder(entry) and is_image(folder / entry.name)
                for entry in scan
            )
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
