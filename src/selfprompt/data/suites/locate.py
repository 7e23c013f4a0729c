"""Locates a data set's folder and reads its lists; errors say what is wrong and what to do. Opens no image."""

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
    """Return the first accepted folder that holds the data set's lists or images; None if there is none."""
    for name in (spec.folder, *spec.aliases):
        folder = root / name
        if any((folder / path).exists() for path in (*spec.lists, *spec.images)):
            return folder
    return None


def require_folder(spec: DatasetSpec, root: Path | None) -> Path:
    """Return the folder of a data set.

    Raises:
        ValueError: If it does not exist; the message says what was found instead, and how to get the data set.
    """
    if root is None:
        raise ValueError(
            f"{spec.key} does not ship with the package: give the folder that holds the data sets (--root FOLDER)."
        )
    if not root.is_dir():
        raise ValueError(f"The data root {root} is not a folder: give the one that holds {spec.folder}.")
    folder = find_folder(spec, root)
    if folder is None:
        raise ValueError(explain_misplaced(spec, root) or f"{root} has no {required_path(spec)}. {how_to_get(spec)}")
    return folder


def how_to_get(spec: DatasetSpec) -> str:
    """Return the sentence that says how to get a data set."""
    name = "vtab" if spec.suite == "vtab" else spec.key
    return f"`selfprompt data get {name}` fetches it, or says how to get it."


def required_path(spec: DatasetSpec) -> str:
    """Return the path at which a data set is looked for: its folder, and what must be in it."""
    inside = spec.images[0] if spec.images else spec.lists[0]
    return f"{spec.folder}/{inside}"


def explain_misplaced(spec: DatasetSpec, root: Path) -> str:
    """Explain, in a sentence, a folder that holds the data set in another layout or under another name; else ""."""
    target = root / spec.folder
    if target.is_dir():
        inner = _find_nested(spec, target)
        if inner is None:
            required, found = _required_contents(spec), _found_contents(target)
            return f"{target} must hold {required}, but it holds {found}. {how_to_get(spec)}"
        return f"{inner} is too deep: move its contents up into {target}."
    if spec.suite != "coop":  # the other suites share folder names with the CoOp line, so a similar name proves nothing
        return ""
    for folder in list_class_folders(root):
        if _squeeze(folder.name) in map(_squeeze, (spec.folder, spec.name, *spec.other_layouts)):
            existing = (_find_nested(spec, folder) or folder).relative_to(root)
            return (
                f"{root}: found {existing}/, but the data set is read from {required_path(spec)}: "
                f"rename it, or link it: ln -s {existing} {target}"
            )
    return ""


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _find_nested(spec: DatasetSpec, folder: Path) -> Path | None:
    """Return the folder, up to two levels deep, that holds a list or the images of the data set."""
    for depth in ("", "*/", "*/*/"):
        for path in (*spec.images, *spec.lists):
            for match in sorted(folder.glob(depth + path)):
                return folder / match.relative_to(folder).parents[len(Path(path).parts) - 1]
    return None


def _required_contents(spec: DatasetSpec) -> str:
    return " or ".join((*spec.images, *spec.lists)[:2])


def _found_contents(folder: Path) -> str:
    return listing(sorted(entry.name for entry in folder.iterdir()), 5) or "nothing"


def require_images(spec: DatasetSpec, folder: Path) -> Path:
    """Return the image folder of a data set; ValueError, naming what is there instead, if it does not exist."""
    for name in spec.images:
        if (folder / name).is_dir():
            return folder / name
    raise ValueError(
        f"{folder} must hold the images in {' or '.join(spec.images)}, but it holds {_found_contents(folder)}. "
        f"{how_to_get(spec)}"
    )


def read_required_file(spec: DatasetSpec, path: Path) -> bytes:
    """Return the content of a file that the data set needs; ValueError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. {how_to_get(spec)}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_required_lines(spec: DatasetSpec, path: Path) -> list[str]:
    """Return the lines of a required text file, without empty ones."""
    try:
        text = read_required_file(spec, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}. {fetch_again_hint(spec)}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_required_json(spec: DatasetSpec, path: Path) -> Any:
    """Return the value in a required JSON file."""
    content = read_required_file(spec, path)
    try:
        return json.loads(content)
    except ValueError as error:  # broken JSON or broken UTF-8
        raise ValueError(f"{path} must be JSON: {error}. {fetch_again_hint(spec)}") from None


def fetch_again_hint(spec: DatasetSpec) -> str:
    """Return the sentence that says what to do about a broken file."""
    return f"Delete it and get it again: {how_to_get(spec)}"


def is_published_file(spec: DatasetSpec, folder: Path, file: str) -> bool | None:
    """Return whether a file has its published checksum; None if that is not known, or the file is missing."""
    known, path = spec.checksums.get(file), folder / file
    if known is None or not path.is_file():
        return None
    return sha256(path) == known


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_path(base: Path, relative: str, where: str) -> Path:
    """Return ``base / relative``; ValueError for a path outside of ``base``."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where}: an image's path must lie below {base}, got {relative!r}.")
    return base / relative


def list_class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without hidden ones."""
    return sorted(_folders(folder), key=lambda path: path.name)


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder, sorted by name, as the order of a listing differs between machines."""
    with os.scandir(folder) as scan:
        names = [entry.name for entry in scan if not entry.name.startswith(".")]
    return [folder / name for name in sorted(names) if os.path.splitext(name)[1].lower() in EXTENSIONS]


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scan:
            return [folder / entry.name for entry in scan if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
