"""Finds a data set's folder and reads its files; says in one sentence what is wrong and what to do. Opens no image."""

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from selfprompt.data.loading.image_formats import EXTENSIONS
from selfprompt.data.suites.specs import DatasetSpec
from selfprompt.utils.wording import listing


def find_folder(spec: DatasetSpec, root: Path) -> Path | None:
    """The folder of a data set: of the accepted ones the first that holds its lists or images; None without one."""
    for name in (spec.folder, *spec.aliases):
        folder = root / name
        if any((folder / mark).exists() for mark in (*spec.lists, *spec.images)):
            return folder
    return None


def require_folder(spec: DatasetSpec, root: Path | None) -> Path:
    """The folder of a data set.

    Raises:
        ValueError: If it is not there; the message names what was found instead, and where to get it.
    """
    if root is None:
        raise ValueError(f"{spec.key} does not ship: name the folder that holds the data sets (--root FOLDER).")
    if not root.is_dir():
        raise ValueError(f"The data root {root} is no folder: name the one that holds {spec.folder}.")
    folder = find_folder(spec, root)
    if folder is None:
        raise ValueError(explain_misplaced(spec, root) or f"{root} has no {required_path(spec)}. {how_to_get(spec)}")
    return folder


def how_to_get(spec: DatasetSpec) -> str:
    """Where the reader is told how to get a data set."""
    name = "vtab" if spec.suite == "vtab" else spec.key
    return f"`selfprompt data get {name}` fetches it, or says how."


def required_path(spec: DatasetSpec) -> str:
    """The place that a data set is looked for: folder and what must be in it."""
    inside = spec.images[0] if spec.images else spec.lists[0]
    return f"{spec.folder}/{inside}"


def explain_misplaced(spec: DatasetSpec, root: Path) -> str:
    """A sentence on a folder that is the data set's, under another name or not as it is read; "" without one."""
    own = root / spec.folder
    if own.is_dir():
        inner = _find_nested(spec, own)
        if inner is None:
            return (
                f"{own} must hold {_required_contents(spec)}, but it holds {_found_contents(own)}. {how_to_get(spec)}"
            )
        return f"{inner} is too deep: move what it holds up into {own}."
    if spec.suite != "coop":  # the others bear the names of the CoOp line's folders, so a like name tells nothing
        return ""
    for folder in list_class_folders(root):
        if _squeeze(folder.name) in map(_squeeze, (spec.folder, spec.name, *spec.other_layouts)):
            found = (_find_nested(spec, folder) or folder).relative_to(root)
            return (
                f"{root}: found {found}/, but the data set is read from {required_path(spec)}: "
                f"rename it, or link it: ln -s {found} {own}"
            )
    return ""


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _find_nested(spec: DatasetSpec, folder: Path) -> Path | None:
    """The folder, or one up to two levels below, that holds a list or the images of the data set."""
    for depth in ("", "*/", "*/*/"):
        for mark in (*spec.images, *spec.lists):
            for found in sorted(folder.glob(depth + mark)):
                return folder / found.relative_to(folder).parents[len(Path(mark).parts) - 1]
    return None


def _required_contents(spec: DatasetSpec) -> str:
    return " or ".join((*spec.images, *spec.lists)[:2])


def _found_contents(folder: Path) -> str:
    return listing(sorted(entry.name for entry in folder.iterdir()), 5) or "nothing"


def require_images(spec: DatasetSpec, folder: Path) -> Path:
    """The image folder of a data set; ValueError with what is there instead."""
    for name in spec.images:
        if (folder / name).is_dir():
            return folder / name
    raise ValueError(
        f"{folder} must hold the images in {' or '.join(spec.images)}, but it holds {_found_contents(folder)}. "
        f"{how_to_get(spec)}"
    )


def read_required_file(spec: DatasetSpec, path: Path) -> bytes:
    """The content of a file that the data set needs; ValueError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. {how_to_get(spec)}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_required_lines(spec: DatasetSpec, path: Path) -> list[str]:
    """The lines of a text file, empty ones left out."""
    try:
        text = read_required_file(spec, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}. {fetch_again_hint(spec)}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_required_json(spec: DatasetSpec, path: Path) -> Any:
    """The value in a JSON file."""
    content = read_required_file(spec, path)
    try:
        return json.loads(content)
    except ValueError as error:  # broken JSON or broken UTF-8
        raise ValueError(f"{path} must be JSON: {error}. {fetch_again_hint(spec)}") from None


def fetch_again_hint(spec: DatasetSpec) -> str:
    """The remedy for a broken file."""
    return f"Delete it and get it anew: {how_to_get(spec)}"


def is_published_file(spec: DatasetSpec, folder: Path, file: str) -> bool | None:
    """Whether a file has its published checksum; None where that is not known, or the file is missing."""
    known, path = spec.checksums.get(file), folder / file
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


def list_class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, hidden ones left out."""
    return sorted(_folders(folder), key=lambda path: path.name)


def list_images(folder: Path) -> list[Path]:
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
