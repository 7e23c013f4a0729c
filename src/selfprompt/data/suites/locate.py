"""Finds a data set's folder and reads its files; says in one sentence what is wrong and what to do. Opens no image."""

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from selfprompt.data.loading.image_formats import EXTENSIONS
from selfprompt.data.suites.specs import Expected
from selfprompt.utils.wording import listing


def find_folder(expected: Expected, root: Path) -> Path | None:
    """The folder of a data set: of the accepted ones the first that holds its lists or images; None without one."""
    for name in (expected.folder, *expected.aliases):
        folder = root / name
        if any((folder / mark).exists() for mark in (*expected.lists, *expected.images)):
            return folder
    return None


def need_folder(expected: Expected, root: Path | None) -> Path:
    """The folder of a data set.

    Raises:
        ValueError: If it is not there; the message names what was found instead, and where to get it.
    """
    if root is None:
        raise ValueError(f"{expected.key} does not ship: name the folder that holds the data sets (--root FOLDER).")
    if not root.is_dir():
        raise ValueError(f"The data root {root} is no folder: name the one that holds {expected.folder}.")
    folder = find_folder(expected, root)
    if folder is None:
        raise ValueError(misplaced(expected, root) or f"{root} has no {wanted(expected)}. {how_to_get(expected)}")
    return folder


def how_to_get(expected: Expected) -> str:
    """Where the reader is told how to get a data set."""
    name = "vtab" if expected.suite == "vtab" else expected.key
    return f"`selfprompt data get {name}` fetches it, or says how."


def wanted(expected: Expected) -> str:
    """The place that a data set is looked for: folder and what must be in it."""
    inside = expected.images[0] if expected.images else expected.lists[0]
    return f"{expected.folder}/{inside}"


def misplaced(expected: Expected, root: Path) -> str:
    """A sentence on a folder that is the data set's, under another name or not as it is read; "" without one."""
    own = root / expected.folder
    if own.is_dir():
        inner = _buried(expected, own)
        if inner is None:
            return f"{own} must hold {_any(expected)}, but it holds {_held(own)}. {how_to_get(expected)}"
        return f"{inner} is too deep: move what it holds up into {own}."
    if expected.suite != "coop":  # the others bear the names of the CoOp line's folders, so a like name tells nothing
        return ""
    for folder in class_folders(root):
        if _squeeze(folder.name) in map(_squeeze, (expected.folder, expected.name, *expected.strangers)):
            found = (_buried(expected, folder) or folder).relative_to(root)
            return (
                f"{root}: found {found}/, but the data set is read from {wanted(expected)}: "
                f"rename it, or link it: ln -s {found} {own}"
            )
    return ""


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _buried(expected: Expected, folder: Path) -> Path | None:
    """The folder, or one up to two levels below, that holds a list or the images of the data set."""
    for depth in ("", "*/", "*/*/"):
        for mark in (*expected.images, *expected.lists):
            for found in sorted(folder.glob(depth + mark)):
                return folder / found.relative_to(folder).parents[len(Path(mark).parts) - 1]
    return None


def _any(expected: Expected) -> str:
    return " or ".join((*expected.images, *expected.lists)[:2])


def _held(folder: Path) -> str:
    return listing(sorted(entry.name for entry in folder.iterdir()), 5) or "nothing"


def need_images(expected: Expected, folder: Path) -> Path:
    """The image folder of a data set; ValueError with what is there instead."""
    for name in expected.images:
        if (folder / name).is_dir():
            return folder / name
    raise ValueError(
        f"{folder} must hold the images in {' or '.join(expected.images)}, but it holds {_held(folder)}. "
        f"{how_to_get(expected)}"
    )


def need_file(expected: Expected, path: Path) -> bytes:
    """The content of a file that the data set needs; ValueError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. {how_to_get(expected)}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None


def need_text(expected: Expected, path: Path) -> list[str]:
    """The lines of a text file, empty ones left out."""
    try:
        text = need_file(expected, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}. {again(expected)}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def need_json(expected: Expected, path: Path) -> Any:
    """The value in a JSON file."""
    content = need_file(expected, path)
    try:
        return json.loads(content)
    except ValueError as error:  # broken JSON or broken UTF-8
        raise ValueError(f"{path} must be JSON: {error}. {again(expected)}") from None


def again(expected: Expected) -> str:
    """The remedy for a broken file."""
    return f"Delete it and get it anew: {how_to_get(expected)}"


def is_published(expected: Expected, folder: Path, file: str) -> bool | None:
    """Whether a file has its published checksum; None where that is not known, or the file is missing."""
    known, path = expected.checksums.get(file), folder / file
    if known is None or not path.is_file():
        return None
    return sha256(path) == known


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_path(base: Path, relative: str, where: str) -> Path:
    """``base / relative``; ValueError for a path that leads out of the folder."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where}: an image's path must lie below {base}, got {relative!r}.")
    return base / relative


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, hidden ones left out."""
    return sorted(_folders(folder), key=lambda path: path.name)


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name: the order of a listing differs from machine to machine."""
    with os.scandir(folder) as scan:
        names = [entry.name for entry in scan if not entry.name.startswith(".")]
    return [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in EXTENSIONS]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scan:
            return [folder / entry.name for entry in scan if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
