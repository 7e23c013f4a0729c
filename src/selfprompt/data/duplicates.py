"""Finds images that occur more than once in a data set, by file content and by pixels, and describes them."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from stat import S_ISREG

from PIL import Image

from selfprompt.data.dataset import SPLITS, ArchivedFile, Dataset, IndexedSource, Item, Source, Split
from selfprompt.data.loading.image_files import BadImageError
from selfprompt.utils.wording import listing, plural

DuplicateMap = Mapping[Source, Source]
"""Source -> the first source with the same content; a source with unique content may be missing."""

SAMPLE = 4096
"""Bytes in the middle of a file that are compared before the whole file is."""
ADJECTIVES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
SHOWN = 5
"""Images that a note names at most."""


def find_duplicates(sources: Iterable[Source]) -> DuplicateMap:
    """Find files with the same bytes, and images in memory with the same pixels.

    This is cheap if files differ: their sizes are compared first, then some bytes of those with the same size, and
    all bytes only of those that still agree. An image that cannot be read has no duplicates.
    """
    distinct = list(dict.fromkeys(sources))
    files = [source for source in distinct if isinstance(source, Path)]
    groups: Iterable[list[Source]] = [list(files)]
    for key in (_size, _sample, _digest):
        groups = [part for group in groups for part in _group_equal(group, key)]
    images = [source for source in distinct if isinstance(source, IndexedSource) and source.table.in_memory]
    groups = [*groups, *_group_equal(images, _hash_pixels)]
    return {source: group[0] for group in groups for source in group}


def find_equal_pixels(digests: Mapping[Source, bytes]) -> DuplicateMap:
    """Find sources with the same pixels, by their `pixel_digest`."""
    return {source: group[0] for group in _group_equal(list(digests), digests.get) for source in group}


def pixel_digest(image: Image.Image) -> bytes:
    """Return a hash of an image's size and pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=repr((image.mode, image.size)).encode()).digest()


def exclude_equal_files(pixels: DuplicateMap, files: DuplicateMap) -> DuplicateMap:
    """Return the duplicates by pixels without the groups that are duplicates by file content already."""
    groups = defaultdict(list)
    for source, first in pixels.items():
        groups[first].append(source)
    new = [group for group in groups.values() if len({files.get(source, source) for source in group}) > 1]
    return {source: group[0] for group in new for source in group}


def describe_duplicates(dataset: Dataset, duplicates: DuplicateMap) -> Iterator[str]:
    """Yield notes on images that occur more than once: under several labels, in several splits, or within a split."""
    occurrences: dict[Source, list[tuple[Split, Item]]] = defaultdict(list)
    for split in SPLITS:
        for item in dataset.select(split):
            occurrences[duplicates.get(item.source, item.source)].append((split, item))
    groups = [group for group in occurrences.values() if len(group) > 1]
    if not groups:
        return
    name = make_shortener(dataset)
    yield from _describe_conflicts(dataset, groups, name)
    yield from _describe_shared(dataset, groups, name)
    for split in SPLITS:
        inside = [[item for item_split, item in group if item_split == split] for group in groups]
        extra = [item for items in inside if len({item.label for item in items}) == 1 for item in items[1:]]
        if extra:
            verb = "is a copy of another" if len(extra) == 1 else "are copies of others"
            names = listing([name(item.source) for item in extra], SHOWN)
            yield f"{plural(len(extra), f'{ADJECTIVES[split]} image')} {verb}: {names}."


def pair_duplicates(items: Sequence[Item], others: Sequence[Item], duplicates: DuplicateMap) -> list[tuple[Item, Item]]:
    """Return the items whose content also occurs among ``others``, each with the first of those."""
    first: dict[Source, Item] = {}
    for other in others:
        first.setdefault(duplicates.get(other.source, other.source), other)
    pairs = ((item, first.get(duplicates.get(item.source, item.source))) for item in items)
    return [(item, other) for item, other in pairs if other is not None]


def make_shortener(dataset: Dataset) -> Callable[[Source], str]:
    """Return a function that shortens the path of an image to its part below the folder of all images."""
    files = [str(item.source) for item in dataset.select("all") if isinstance(item.source, (Path, ArchivedFile))]
    try:
        folder = os.path.commonpath(map(os.path.dirname, files)) if files else ""
    except ValueError:  # absolute and relative paths
        folder = ""
    return lambda source: str(source).removeprefix(f"{folder}{os.sep}") if folder else str(source)


def format_pairs(pairs: Sequence[tuple[Item, Item]], name: Callable[[Source], str]) -> str:
    """Format pairs of duplicates as ``b.png = a.png; d.png = c.png``."""
    texts = [" = ".join(dict.fromkeys(name(item.source) for item in pair)) for pair in pairs]
    return listing(texts, SHOWN, separator="; ")


Groups = Sequence[Sequence[tuple[Split, Item]]]


def _describe_conflicts(dataset: Dataset, groups: Groups, name: Callable[[Source], str]) -> Iterator[str]:
    """Yield a note on images with several labels."""
    conflicts = []
    for group in groups:
        first_of = {item.label: item for _, item in reversed(group)}
        if len(first_of) > 1:
            labelled = [f"{name(item.source)} ({dataset.classes[label]})" for label, item in sorted(first_of.items())]
            conflicts.append(" = ".join(labelled))
    if conflicts:
        count = plural(len(conflicts), "picture")
        yield f"{count} with conflicting labels: {listing(conflicts, SHOWN, separator='; ')}."


def _describe_shared(dataset: Dataset, groups: Groups, name: Callable[[Source], str]) -> Iterator[str]:
    """Yield a note for each pair of splits that share images."""
    duplicates = {item.source: group[0][1].source for group in groups for _, item in group}
    for earlier, later in combinations(SPLITS, 2):
        pairs = pair_duplicates(dataset.select(later), dataset.select(earlier), duplicates)
        if not pairs:
            continue
        count, total = len(pairs), len(dataset.select(later))
        kind = f"{ADJECTIVES[later]} image"
        if count == total:
            start = f"Every {kind} ({count}) is also a {ADJECTIVES[earlier]} image"
        else:
            verb = "is also a" if count == 1 else "are also"
            start = f"{count} of {plural(total, kind)} {verb} {ADJECTIVES[earlier]} image{'' if count == 1 else 's'}"
        harm = ", so accuracy on them says nothing about other images" if earlier == "train" else ""
        yield f"{start}{harm}: {format_pairs(pairs, name)}."


def _group_equal(sources: Sequence[Source], key: Callable[[Source], Hashable | None]) -> list[list[Source]]:
    """Return the groups of two or more sources with the same key; a source with key None belongs to no group."""
    groups: dict[Hashable, list[Source]] = defaultdict(list)
    for source in sources:
        if (value := key(source)) is not None:
            groups[value].append(source)
    return [group for group in groups.values() if len(group) > 1]


def _size(file: Source) -> int | None:
    """Return the size of a regular file in bytes; None if it is empty, or cannot be read: it is not opened."""
    try:
        status = os.stat(str(file))
    except (OSError, ValueError):
        return None
    return status.st_size or None if S_ISREG(status.st_mode) else None


def _sample(file: Source) -> bytes | None:
    try:
        with open(str(file), "rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - SAMPLE) // 2)
            return opened.read(SAMPLE)
    except OSError:
        return None


def _digest(file: Source) -> bytes | None:
    try:
        with open(str(file), "rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return None


def _hash_pixels(source: Source) -> bytes | None:
    try:
        return pixel_digest(Item(source, 0).load())
    except BadImageError:
        return None
