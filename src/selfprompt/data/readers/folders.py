"""Reads folders of images: class folders, and train, val and test folders that hold them; opens no image."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from selfprompt.data.dataset import Source, Split
from selfprompt.data.readers.layout import class_folders, detect_layout, unwrapped
from selfprompt.data.readers.splits import Part
from selfprompt.data.readers.walk import entries, holds, images_below, images_in
from selfprompt.utils.wording import listing, plural

MASK = re.compile(r"(.+?)[ _.-]*(?:mask|segmentation|annotation|trimap)s?(?:_\d+)?")
"""Names of images that are masks of another, whose name comes first."""

OnEmptyClass = Literal["skip", "fail"]


def read_folder(root: Path, *, on_empty: OnEmptyClass = "skip", known: Collection[str] = ()) -> dict[Split, Part]:
    """The images below a folder, laid out in one of the ways that `layout.find_layout` knows.

    Args:
        root: The folder; class folders are searched recursively.
        on_empty: Leave out class folders without images, and say so; or raise.
        known: Names of classes; a folder of such a name is one, whatever it holds.

    Raises:
        ValueError: If there are no class folders, all are empty, two share a folder, or one cannot be read.
    """
    layout = detect_layout(root, known)
    parts = {split: _read_classes(layout.root, split, own, on_empty) for split, own in layout.splits.items()}
    first = next(iter(parts.values()))
    first.notes = (*layout.notes, *first.notes)
    return parts


def read_class_folders(root: Path, *, on_empty: OnEmptyClass = "skip") -> Part:
    """The images of the class folders in a folder, as one split."""
    place = unwrapped(root)
    return _read_classes(place, "train", class_folders(place), on_empty)


def _read_classes(root: Path, split: Split, classes: Mapping[str, Path], on_empty: OnEmptyClass) -> Part:
    """The images of one split's classes."""
    place = Path(os.path.commonpath(folder.parent for folder in classes.values()))
    ignored, left = Counter[str](), Counter[str](path.name for path in entries(place)[2])
    part, empty = Part([], []), []
    owners: dict[str, str] = {}
    for name, folder in classes.items():
        images = images_below(folder, ignored, left, _gate(root, name, owners))
        part.sources += images
        part.labels += [name] * len(images)
        if not images:
            empty.append(name)
    if len(empty) == len(classes) or (empty and on_empty == "fail" and split == "train"):
        others = (
            f" (only files that are no images: {_counts(ignored)})" if ignored and len(empty) == len(classes) else ""
        )
        raise ValueError(f"{place} has empty class folders: {listing(empty)}{others}: add images or remove the folder.")
    outside = images_in(place)
    part.notes = (*_notes(place, ignored, outside, empty, left), *_note_on_masks(place, part.sources))
    return part


def _gate(root: Path, name: str, owners: dict[str, str]) -> Callable[[Path], bool]:
    """Lets a class into each real folder once; ValueError at a folder that is another class's, or above all classes."""
    home = os.path.realpath(root)

    def enter(place: Path) -> bool:
        real = os.path.realpath(place)
        owner = owners.setdefault(real, name)
        if owner != name or holds(real, home):
            whose = f"of class {owner!r}, too" if owner != name else "that holds all classes"
            raise ValueError(
                f"A folder of images must belong to one class, but {place} of class {name!r} leads to {real}, "
                f"{'a folder ' if owner != name else 'the folder '}{whose}: remove the link."
            )
        return True

    return enter


def _note_on_masks(root: Path, images: Sequence[Source]) -> Iterator[str]:
    """A note on images that are called as another one and mask: 1_mask.png beside 1.png."""
    paths = [image for image in images if isinstance(image, Path)]
    matches = [(path, match) for path in paths if (match := MASK.fullmatch(path.stem))]
    stems = {path.with_suffix("") for path in paths} if matches else set()
    masks = sorted(path.name for path, match in matches if path.with_name(match[1]) in stems)
    if masks:
        yield f"{plural(len(masks), 'image')} of {root.name} may be masks, taken as photos: {listing(masks, 3)}."


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _notes(
    root: Path, ignored: Counter[str], outside: list[Path], empty: list[str], left: Counter[str]
) -> Iterator[str]:
    if ignored:
        yield f"Ignored {plural(sum(ignored.values()), 'file')} in {root.name} that are no images ({_counts(ignored)})."
    if outside:
        yield f"Ignored {plural(len(outside), 'image')} in {root.name} outside of its class folders."
    if empty:
        yield f"No images in the class folders {listing(empty)} of {root.name}."
    if left:
        names = listing([f"{name} ({count})" if count > 1 else name for name, count in sorted(left.items())])
        yield f"Left out {plural(sum(left.values()), 'system folder')} in {root.name}: {names}."
