"""What a list of images names: image files, and tar and Parquet files full of them; groups of images to predict.

An entry of a list is a path. A Parquet file has an entry for each range of its row groups, so that workers share it:
its path, a zero byte, and ``g`` with the first and last group.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, product
from pathlib import Path
from typing import Any

from selfprompt.data.loading.archived_images import (
    ArchivedImage,
    Columns,
    images_in_parquet,
    images_in_tar,
    row_ranges,
)

ARCHIVES = (".tar", ".parquet")
"""Extensions of files full of images, in lower case."""
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
RANGE = re.compile(r"\0g(\d{1,9})-(\d{1,9})")
MAX_FILES = 10**6
"""Files that a pattern may stand for."""
MAX_HELD_BYTES = 1 << 28
"""Bytes of images in a row that a batch holds before they are decoded; where more follow, a new batch begins."""


def is_archive(entry: str) -> bool:
    """Return whether an entry names a tar or Parquet file, or a range of one, by its extension."""
    return entry.partition("\0")[0].lower().endswith(ARCHIVES)


def expand(name: str) -> Iterator[str]:
    """Yield the files that a pattern of archives such as ``photos-{000..099}.tar`` stands for; other names unchanged.

    Raises:
        ValueError: If it stands for more than `MAX_FILES`, or a range runs backwards.
    """
    found = list(BRACES.finditer(name))
    if not found or not is_archive(name) or os.path.lexists(name):
        yield name
        return
    ranges = [range(int(match[1]), int(match[2]) + 1) for match in found]
    count = 1
    for numbers in ranges:
        count *= len(numbers) if numbers.stop - numbers.start <= MAX_FILES else MAX_FILES + 1
    if not 0 < count <= MAX_FILES:
        raise ValueError(f"{name} must stand for 1 to {MAX_FILES:,} files: write the smaller number first.")
    pieces = BRACES.sub("\0", name).split("\0")
    for chosen in product(*ranges):
        texts = (f"{number:0{len(match[1])}d}" for number, match in zip(chosen, found, strict=True))
        yield "".join(piece + text for piece, text in zip(pieces, (*texts, ""), strict=True))


def archive_entries(path: str, columns: Columns) -> Iterator[str]:
    """Yield the entries of an archive.

    Raises:
        ValueError: If it does not exist, or is no Parquet file with these columns.
        ImportError: If it is a Parquet file, and pyarrow is not installed.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such file of images.")
    if path.lower().endswith(".tar"):
        yield path
    else:
        yield from (f"{path}\0g{first}-{last}" for first, last in row_ranges(Path(path), columns))


def image_groups(entries: Iterable[str], columns: Columns) -> Iterator[Iterable[Any]]:
    """Yield the images of entries in groups, each of which begins a new batch: so archives do not affect each other.

    Args:
        entries: Entries of a list, from `image_paths`; consumed lazily.
        columns: Columns of Parquet files.
    """
    for archives, run in groupby(entries, key=is_archive):
        if not archives:
            yield run
            continue
        for entry in run:
            yield from _bounded(_images_in(entry, columns))


def _images_in(entry: str, columns: Columns) -> Iterator[ArchivedImage]:
    path, _, _ = entry.partition("\0")
    if path.lower().endswith(".tar"):
        return images_in_tar(Path(path))
    match = RANGE.fullmatch(entry[len(path) :])
    if match is None:
        return iter([ArchivedImage(path, "the list names no row groups of it")])
    return images_in_parquet(Path(path), (int(match[1]), int(match[2])), columns)


def _bounded(images: Iterator[ArchivedImage]) -> Iterator[Iterable[ArchivedImage]]:
    """Cut images into groups that hold up to `MAX_HELD_BYTES`, or a little more."""
    held = 0

    def number(image: ArchivedImage) -> int:
        nonlocal held
        held += image.held_bytes
        return held // MAX_HELD_BYTES

    return (group for _, group in groupby(images, key=number))
