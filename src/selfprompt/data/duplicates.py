"""Finds pictures that stand in a data set more than once, by the bytes of files and by pixels; says what that means."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from stat import S_ISREG

from PIL import Image

from selfprompt.data.dataset import SPLITS, Dataset, IndexedSource, Item, Source, Split
from selfprompt.data.loading.image_files import BadImageError
from selfprompt.utils.wording import listing, plural

DuplicateMap = Mapping[Source, Source]
"""Sources of one content -> the first of them; a source whose content is its own may be missing."""

SAMPLE = 4096
"""Bytes in the middle of a file that are compared before all of it is read."""
ADJECTIVES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
SHOWN = 5
"""Images that a note names."""


def find_duplicates(sources: Iterable[Source]) -> DuplicateMap:
    """Which sources have the same content: files of the same bytes, images in memory of the same pixels.

    Costs little where files differ: the size of each is looked up, some bytes are read of those whose size is not
    their own, and all bytes of those that agree in these. What cannot be read has no copies.
    """
    distinct = list(dict.fromkeys(sources))
    files = [source for source in distinct if isinstance(source, Path)]
    groups: Iterable[list[Source]] = [list(files)]
    for key in (_size, _sample, _digest):
        groups = [part for group in groups for part in _alike(group, key)]
    images = [source for source in distinct if isinstance(source, IndexedSource) and source.table.in_memory]
    groups = [*groups, *_alike(images, _pixels)]
    return {source: group[0] for group in groups for source in group}


def find_equal_pixels(digests: Mapping[Source, bytes]) -> DuplicateMap:
    """Which sources have the same pixels, by their `pixel_digest`."""
    return {source: group[0] for group in _alike(list(digests), digests.get) for source in group}


def pixel_digest(image: Image.Image) -> bytes:
    """A hash of an image's size and pixels."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=repr((image.mode, image.size)).encode()).digest()


def exclude_equal_files(pixels: DuplicateMap, files: DuplicateMap) -> DuplicateMap:
    """Of the groups with the same pixels those whose files differ: the others are known by their bytes."""
    groups = defaultdict(list)
    for source, first in pixels.items():
        groups[first].append(source)
    new = [group for group in groups.values() if len({files.get(source, source) for source in group}) > 1]
    return {source: group[0] for group in new for source in group}


def describe_duplicates(dataset: Dataset, copies: DuplicateMap) -> Iterator[str]:
    """What the user should know about pictures that stand in a data set more than once, one sentence each."""
    places: dict[Source, list[tuple[Split, Item]]] = defaultdict(list)
    for split in SPLITS:
        for item in dataset.select(split):
            places[copies.get(item.source, item.source)].append((split, item))
    groups = [group for group in places.values() if len(group) > 1]
    if not groups:
        return
    name = make_shortener(dataset)
    yield from _contradictions(dataset, groups, name)
    yield from _across(dataset, groups, name)
    for split in SPLITS:
        inside = [[item for own, item in group if own == split] for group in groups]
        extra = [item for items in inside if len({item.label for item in items}) == 1 for item in items[1:]]
        if extra:
            are = "is a copy of another" if len(extra) == 1 else "are copies of others"
            named = listing([name(item.source) for item in extra], SHOWN)
            yield f"{plural(len(extra), f'{ADJECTIVES[split]} image')} {are}: {named}."


def pair_duplicates(items: Sequence[Item], others: Sequence[Item], copies: DuplicateMap) -> list[tuple[Item, Item]]:
    """The items whose content is also among the others, each with the first of those."""
    first: dict[Source, Item] = {}
    for other in others:
        first.setdefault(copies.get(other.source, other.source), other)
    pairs = ((item, first.get(copies.get(item.source, item.source))) for item in items)
    return [(item, other) for item, other in pairs if other is not None]


def make_shortener(dataset: Dataset) -> Callable[[Source], str]:
    """What to call the images of a data set: their path below the folder that holds all of them."""
    files = [str(item.source) for item in dataset.select("all") if isinstance(item.source, Path)]
    try:
        folder = os.path.commonpath(map(os.path.dirname, files)) if files else ""
    except ValueError:  # paths from the root and from the working folder
        folder = ""
    return lambda source: str(source).removeprefix(f"{folder}{os.sep}") if folder else str(source)


def format_pairs(pairs: Sequence[tuple[Item, Item]], name: Callable[[Source], str]) -> str:
    """``b.png = a.png``, and so on."""
    words = [" = ".join(dict.fromkeys(name(item.source) for item in pair)) for pair in pairs]
    return listing(words, SHOWN, separator="; ")


Groups = Sequence[Sequence[tuple[Split, Item]]]


def _contradictions(dataset: Dataset, groups: Groups, name: Callable[[Source], str]) -> Iterator[str]:
    """Pictures under several labels."""
    told = []
    for group in groups:
        first_of = {item.label: item for _, item in reversed(group)}
        if len(first_of) > 1:
            labelled = [f"{name(item.source)} ({dataset.classes[label]})" for label, item in sorted(first_of.items())]
            told.append(" = ".join(labelled))
    if told:
        count = plural(len(told), "picture")
        yield f"{count} with conflicting labels: {listing(told, SHOWN, separator='; ')}."


def _across(dataset: Dataset, groups: Groups, name: Callable[[Source], str]) -> Iterator[str]:
    """Pictures in two splits: those whose copies the other split has are no new ones to it."""
    copies = {item.source: group[0][1].source for group in groups for _, item in group}
    for seen, asked in combinations(SPLITS, 2):
        pairs = pair_duplicates(dataset.select(asked), dataset.select(seen), copies)
        if not pairs:
            continue
        count, whole = len(pairs), len(dataset.select(asked))
        what = f"{ADJECTIVES[asked]} image"
        if count == whole:
            start = f"Every {what} ({count}) is also a {ADJECTIVES[seen]} image"
        else:
            are = "is also a" if count == 1 else "are also"
            start = f"{count} of {plural(whole, what)} {are} {ADJECTIVES[seen]} image{'' if count == 1 else 's'}"
        harm = ", so accuracy on them says nothing about other images" if seen == "train" else ""
        yield f"{start}{harm}: {format_pairs(pairs, name)}."


def _alike(group: Sequence[Source], key: Callable[[Source], Hashable | None]) -> list[list[Source]]:
    """Parts of a group that agree in a key, each with two sources or more; None agrees with nothing."""
    parts: dict[Hashable, list[Source]] = defaultdict(list)
    for source in group:
        if (value := key(source)) is not None:
            parts[value].append(source)
    return [part for part in parts.values() if len(part) > 1]


def _size(file: Source) -> int | None:
    try:
        status = os.stat(str(file))
    except (OSError, ValueError):
        return None
    return status.st_size or None if S_ISREG(status.st_mode) else None  # nothing else is ever opened


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


def _pixels(source: Source) -> bytes | None:
    try:
        return pixel_digest(Item(source, 0).load())
    except BadImageError:
        return None
