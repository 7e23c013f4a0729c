"""Reads folders of images: class folders, and train, val and test folders that contain them; opens no image."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from selfprompt.data.dataset import Source, Split
from selfprompt.data.readers.layout import detect_layout, list_class_folders, unwrap_folder
from selfprompt.data.readers.splits import LabelledSplit
from selfprompt.data.readers.walk import find_images, is_inside, list_folder, list_images
from selfprompt.utils.wording import listing, plural

MASK = re.compile(r"(.+?)[ _.-]*(?:mask|segmentation|annotation|trimap)s?(?:_\d+)?")
"""File names of masks; the name of the image comes first."""

OnEmptyClass = Literal["skip", "fail"]


def read_folder(
    root: Path, *, on_empty: OnEmptyClass = "skip", known: Collection[str] = ()
) -> dict[Split, LabelledSplit]:
    """Read the images below a folder that has one of the layouts that `layout.detect_layout` knows.

    Args:
        root: The folder; class folders are searched recursively.
        on_empty: "skip" leaves out class folders without images and adds a note; "fail" raises.
        known: Class names; a folder with such a name is a class, whatever it contains.

    Raises:
        ValueError: If there are no class folders, all are empty, two share a folder, or one cannot be read.
    """
    layout = detect_layout(root, known)
    splits = {split: _read_classes(layout.root, split, folders, on_empty) for split, folders in layout.splits.items()}
    first = next(iter(splits.values()))
    first.notes = (*layout.notes, *first.notes)
    return splits


def read_class_folders(root: Path, *, on_empty: OnEmptyClass = "skip") -> LabelledSplit:
    """Read the class folders in a folder as one split."""
    folder = unwrap_folder(root)
    return _read_classes(folder, "train", list_class_folders(folder), on_empty)


def _read_classes(root: Path, split: Split, classes: Mapping[str, Path], on_empty: OnEmptyClass) -> LabelledSplit:
    """Read the classes of one split; ``root`` is the folder of all splits."""
    folder = Path(os.path.commonpath(class_folder.parent for class_folder in classes.values()))
    ignored, skipped = Counter[str](), Counter[str](path.name for path in list_folder(folder).system_folders)
    result, empty = LabelledSplit([], []), []
    owners: dict[str, str] = {}
    for name, class_folder in classes.items():
        images = find_images(class_folder, ignored, skipped, _make_owner_check(root, name, owners))
        result.sources += images
        result.labels += [name] * len(images)
        if not images:
            empty.append(name)
    if len(empty) == len(classes) or (empty and on_empty == "fail" and split == "train"):
        others = f" (only files that are not images: {_format_counts(ignored)})"
        detail = others if ignored and len(empty) == len(classes) else ""
        raise ValueError(
            f"{folder} has empty class folders: {listing(empty)}{detail}: add images or remove the folders."
        )
    outside = list_images(folder)
    result.notes = (*_notes(folder, ignored, outside, empty, skipped), *_mask_notes(folder, result.sources))
    return result


def _make_owner_check(root: Path, name: str, owners: dict[str, str]) -> Callable[[Path], bool]:
    """Return a check that lets a class enter a folder unless it is another class's or contains all classes.

    Args:
        root: The folder that contains all classes.
        name: The class.
        owners: Real folder -> class that entered it first; updated.
    """
    home = os.path.realpath(root)

    def enter(folder: Path) -> bool:
        real = os.path.realpath(folder)
        owner = owners.setdefault(real, name)
        if owner != name or is_inside(home, real):
            fault = f"which belongs to class {owner!r}" if owner != name else "which contains all classes"
            raise ValueError(
                f"A folder of images must belong to one class, but {folder} of class {name!r} links to {real}, "
                f"{fault}: remove the link."
            )
        return True

    return enter


def _notes(
    folder: Path, ignored: Counter[str], outside: list[Path], empty: list[str], skipped: Counter[str]
) -> Iterator[str]:
    name = folder.name
    if ignored:
        count = sum(ignored.values())
        kind = "is not an image" if count == 1 else "are not images"
        yield f"Ignored {plural(count, 'file')} in {name} that {kind} ({_format_counts(ignored)})."
    if outside:
        yield f"Ignored {plural(len(outside), 'image')} in {name} outside its class folders."
    if empty:
        yield f"Left out class folders of {name} without images: {listing(empty)}."
    if skipped:
        names = listing([f"{folder} ({count})" if count > 1 else folder for folder, count in sorted(skipped.items())])
        yield f"Left out {plural(sum(skipped.values()), 'system folder')} in {name}: {names}."


def _mask_notes(folder: Path, images: Sequence[Source]) -> Iterator[str]:
    """Yield a note on images with the name of another image and "mask": 1_mask.png next to 1.png."""
    paths = [image for image in images if isinstance(image, Path)]
    matches = [(path, match) for path in paths if (match := MASK.fullmatch(path.stem))]
    stems = {path.with_suffix("") for path in paths} if matches else set()
    masks = sorted(path.name for path, match in matches if path.with_name(match[1]) in stems)
    if masks:
        count = plural(len(masks), "image")
        yield f"{count} of {folder.name} may be masks, but are used as photos: {listing(masks, 3)}."


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
