"""Finds images in class folders, or in train/val/test folders that hold class folders; opens no image."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from selfprompt.data.formats import is_image
from selfprompt.data.items import SPLITS, Split, listing, plural
from selfprompt.data.parts import Part, split_word

CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # what systems leave in folders, besides dot files


def read_folder(root: Path) -> dict[Split, Part]:
    """The images below a folder.

    Args:
        root: Holds a folder for each class, or folders train, val and test that do. Class folders are
            searched recursively.

    Raises:
        ValueError: If there are no class folders, one is empty, or a folder cannot be read.
    """
    splits = _split_folders(root)
    if not splits:
        return {"train": read_class_folders(root)}
    parts = {split: read_class_folders(folder, strict=split == "train") for split, folder in splits.items()}
    used = {folder.name for folder in splits.values()}
    others = [folder.name for folder in _folders(root) if folder.name not in used]
    if others:
        note = f"Ignored what lies beside {listing(sorted(used))}: {listing(others)}."
        parts[next(iter(parts))].notes += (note,)
    return parts


def read_class_folders(root: Path, *, strict: bool = True) -> Part:
    """The images of the class folders in ``root``; with ``strict`` an empty class folder is an error."""
    folders, outside = _folders(root), _images(root)
    ignored: Counter[str] = Counter()
    if not folders:
        held = f"{plural(len(outside), 'image')} but no folder" if outside else "neither images nor folders"
        raise ValueError(
            f"{root} must hold a folder of images for each class, but it holds {held}. "
            f"Sort them into folders named after their classes, or list them in a manifest (path,label)."
        )
    part = Part([], [])
    empty = []
    for folder in folders:
        images = images_below(folder, ignored)
        part.sources += images
        part.labels += [folder.name] * len(images)
        if not images:
            empty.append(folder.name)
    if empty and (strict or len(empty) == len(folders)):
        raise ValueError(f"{root} has empty class folders: {listing(empty)}: add images or remove the folder.")
    part.notes = tuple(_notes(root, ignored, outside, empty))
    return part


def images_below(folder: Path, ignored: Counter[str]) -> list[Path]:
    """All images in a folder and its subfolders, sorted by path; counts what is ignored."""
    images = []
    for file in _walk(folder, set()):
        if _is_clutter(file.name):
            ignored["hidden"] += 1
        elif _is_image(file):
            images.append(file)
        else:
            ignored[file.suffix.lower() or "no extension"] += 1
    return sorted(images, key=lambda file: file.relative_to(folder).as_posix())


def _split_folders(root: Path) -> dict[Split, Path]:
    """The train/val/test folders of ``root``; empty if they are classes (one may be called "train")."""
    found: dict[Split, Path] = {}
    for folder in _folders(root):
        split = split_word(folder.name)
        if split is None or not (_folders(folder) or _images(folder)):
            continue
        if split in found:
            raise ValueError(f"{root} must have one folder for each split, got {found[split].name} and {folder.name}.")
        found[split] = folder
    others = [folder for folder in _folders(root) if folder not in found.values()]
    if not {"train", "test"} & set(found):
        return {}
    flat = [folder.name for folder in found.values() if not _folders(folder) or _images(folder)]
    alone = not any(_has_image(folder) for folder in others)
    if alone and flat:
        raise ValueError(f"{root}: {listing(flat)} must hold a folder for each class and no images beside them.")
    if flat or not (alone or len(found) > 1):
        return {}
    return {split: found[split] for split in SPLITS if split in found}


def _notes(root: Path, ignored: Counter[str], outside: list[Path], empty: list[str]) -> Iterator[str]:
    if ignored:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        yield f"Ignored {plural(sum(ignored.values()), 'file')} in {root.name} that are no images ({counts})."
    if outside:
        yield f"Ignored {plural(len(outside), 'image')} in {root.name} outside of its class folders."
    if empty:
        yield f"No images in the class folders {listing(empty)} of {root.name}."


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Files below a folder, clutter included; links are followed, each real folder once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    folders, files = _entries(folder)
    yield from files
    for inner in folders:
        yield from _walk(inner, seen)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders (without clutter) and files (with it), each sorted by name."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
    folders = [folder / entry.name for entry in entries if entry.is_dir() and not _is_clutter(entry.name)]
    return folders, [folder / entry.name for entry in entries if not entry.is_dir()]


def _folders(folder: Path) -> list[Path]:
    return _entries(folder)[0]


def _images(folder: Path) -> list[Path]:
    return [file for file in _entries(folder)[1] if _is_image(file)]


def _has_image(folder: Path) -> bool:
    return any(_is_image(file) for file in _walk(folder, set()))


def _is_image(file: Path) -> bool:
    return not _is_clutter(file.name) and is_image(file)


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER
