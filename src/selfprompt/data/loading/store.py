"""Holds decoded images and tells which cannot be decoded; knows items, no models."""

import dataclasses
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from selfprompt.data.dataset import SPLITS, Dataset, Item, Source
from selfprompt.data.duplicates import (
    DuplicateMap,
    describe_duplicates,
    exclude_equal_files,
    find_duplicates,
    find_equal_pixels,
    format_pairs,
    make_shortener,
    pair_duplicates,
    pixel_digest,
)
from selfprompt.data.loading.image_files import BadImage, BadImageError, reason
from selfprompt.data.loading.image_remarks import Remarks
from selfprompt.data.loading.memory_limit import DECODING, DecodingLimit
from selfprompt.data.loading.rgb import DEPTH, remarks
from selfprompt.data.relabel import keep_classes
from selfprompt.utils.wording import listing, plural

OnBad = Literal["skip", "fail"]
Progress = Callable[[int, int], None]
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
CHUNK = 1024  # images in flight between two looks at the results
LEAST_DECODING = 256 * 10**6
"""Bytes of images in decoding, however small the budget."""
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What is known of an image that was decoded.

    Attributes:
        digest: Hash of its pixels.
        size: Width and height.
        remarks: What is odd about it, as `rgb.remarks` says.
    """

    digest: bytes
    size: tuple[int, int]
    remarks: tuple[str, ...]


class ImageStore:
    """Decoded images, 8-bit RGB: each is decoded once and kept while the budget lasts, others on demand.

    Nothing is ever thrown out: an epoch visits every image once, and for that pattern the first ones are as
    good to keep as any others. Threads may share a store; the images that they hold beside it are bounded, too.

    Args:
        budget: Bytes to keep, or a string such as "2GB", "500MB", "0".

    Raises:
        ValueError: If the budget is negative or cannot be read.
    """

    def __init__(self, budget: int | str = "2GB") -> None:
        self.budget = parse_bytes(budget)
        self.used = 0
        self.decoding = DecodingLimit(min(max(self.budget, LEAST_DECODING), DECODING))
        self._lock = Lock()
        self._kept: dict[Source, np.ndarray] = {}
        self._info: dict[Source, dict[str, int]] = {}  # of the few images that have some

    def __len__(self) -> int:
        """Number of images kept."""
        return len(self._kept)

    def get(self, item: Item) -> Image.Image:
        """The item's image as RGB; BadImageError if it cannot be read."""
        return self.apply(lambda image: image, item)

    def apply(self, function: Callable[[Image.Image], Made], item: Item) -> Made:
        """What a function makes of an item's image.

        A thread waits before the image and until the function is done with it, if the images that other threads are
        at take too much memory.

        Raises:
            BadImageError: If the image cannot be read, or the function fails on it.
        """
        with self.decoding.image() as reserve:
            kept = self._kept.get(item.source)
            if kept is not None:
                reserve(kept.nbytes * 2)
                image = Image.fromarray(kept)
                image.info.update(self._info.get(item.source, {}))
            else:
                image = item.load(reserve)
                self._keep(item.source, image)
            try:
                return function(image)
            except Exception as error:  # whatever the image is, the run goes on or says which one it was
                raise BadImageError(BadImage(str(item.source), reason(error))) from error

    def _keep(self, source: Source, image: Image.Image) -> None:
        size = image.width * image.height * 3
        with self._lock:
            if source in self._kept or self.used + size > self.budget:
                return
            self._kept[source] = np.asarray(image)
            if DEPTH in image.info:
                self._info[source] = {DEPTH: image.info[DEPTH]}
            self.used += size


def check_images(
    items: Sequence[Item],
    store: ImageStore | None = None,
    *,
    on_bad: OnBad = "skip",
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[tuple[Item, ...], list[BadImage]]:
    """Decode every image once, in threads, and set those aside that cannot be decoded.

    Args:
        items: The images.
        store: Filled with the decoded images as far as its budget goes.
        on_bad: "skip" returns the bad images by name; "fail" raises when there are any.
        progress: Called with (images done, images in all).
        say: Told of images that can be read but look wrong, a sentence for each kind.

    Returns:
        The good items in their order, and the bad images in theirs.

    Raises:
        ValueError: With "fail", naming the bad images.
    """
    if on_bad not in ("skip", "fail"):
        raise ValueError(f"on_bad must be 'skip' or 'fail', got {on_bad!r}.")
    good: list[Item] = []
    bad: list[BadImage] = []
    odd = Remarks()
    for item, found in look_at(items, store, progress):
        if isinstance(found, BadImage):
            bad.append(found)
        else:
            good.append(item)
            odd.add(str(item.source), found.remarks)
    _refuse(bad, on_bad)
    if say is not None:
        for sentence in odd.sentences():
            say(sentence)
    return tuple(good), bad


def look_at(
    items: Sequence[Item], store: ImageStore | None = None, progress: Progress | None = None
) -> Iterator[tuple[Item, "Look | BadImage"]]:
    """Decode every image once, in threads; what there is to know of each, in order.

    Args:
        items: The images.
        store: Filled with the decoded images as far as its budget goes.
        progress: Called with (images done, images in all).
    """
    store = ImageStore(0) if store is None else store
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            for done, (item, found) in enumerate(zip(chunk, pool.map(_look(store), chunk), strict=True), start + 1):
                yield item, found
                if progress is not None:
                    progress(done, len(items))


def _refuse(bad: Sequence[BadImage], on_bad: OnBad) -> None:
    if bad and on_bad == "fail":
        raise ValueError(
            f"{plural(len(bad), 'image')} cannot be read: {listing([str(b) for b in bad], separator='; ')}."
        )


def check_dataset(
    dataset: Dataset,
    store: ImageStore | None = None,
    *,
    on_bad: OnBad = "skip",
    may_go: Container[int] = (),
    progress: Progress | None = None,
) -> tuple[Dataset, list[BadImage]]:
    """`check_images` over all splits, the training images first; and a look for copies that only pixels tell.

    Args:
        dataset: The images.
        store: Filled with the decoded images as far as its budget goes.
        on_bad: "skip" leaves out the bad images; "fail" raises when there are any.
        may_go: Labels of the classes that are left out, too, if none of their training images can be read.
        progress: Called with (images done, images in all).

    Returns:
        The data set as `usable` makes it, and the bad images.

    Raises:
        ValueError: With "fail" if there are bad images; with "skip" if a class loses all its training images.
    """
    found = list(look_at(dataset.select("all"), store, progress))
    bad = [look for _, look in found if isinstance(look, BadImage)]
    _refuse(bad, on_bad)
    return usable(dataset, found, may_go), bad


def usable(dataset: Dataset, found: Sequence[tuple[Item, Look | BadImage]], may_go: Container[int] = ()) -> Dataset:
    """A data set without what cannot be used, with notes that say so.

    Args:
        dataset: The images.
        found: What `look_at` found of each of them.
        may_go: Labels of the classes that are left out if none of their training images can be read.

    Returns:
        The data set without its bad images, and where the test images were held out of the training images without
        those that have the pixels of one of these. Images that look wrong stay.

    Raises:
        ValueError: If any other class loses all its training images.
    """
    digests = {item.source: look.digest for item, look in found if isinstance(look, Look)}
    bad = [look for _, look in found if isinstance(look, BadImage)]
    odd = Remarks()
    for item, look in found:
        if isinstance(look, Look):
            odd.add(str(item.source), look.remarks)
    checked = _without_bad(dataset, digests, bad, may_go) if bad else dataset
    new = (sentence for sentence in odd.sentences() if sentence not in dataset.notes)
    checked = dataclasses.replace(checked, notes=(*checked.notes, *new))
    return _without_copies(checked, find_equal_pixels(digests))


def new_images(items: Sequence[Item], seen: Sequence[Item], store: ImageStore | None = None) -> tuple[Item, ...]:
    """The items whose pixels are those of no image that was seen; images that cannot be read stay."""
    found = look_at([*items, *seen], store)
    copies = find_equal_pixels({item.source: look.digest for item, look in found if isinstance(look, Look)})
    old = {id(item) for item, _ in pair_duplicates(items, seen, copies)}
    return tuple(item for item in items if id(item) not in old)


def _without_bad(
    dataset: Dataset, readable: Container[Source], bad: Sequence[BadImage], may_go: Container[int]
) -> Dataset:
    """The data set without its unreadable images, and without classes that have no others."""
    train, val, test = (tuple(item for item in dataset.select(split) if item.source in readable) for split in SPLITS)
    lost = sorted({item.label for item in dataset.train} - {item.label for item in train})
    note = f"Left out {plural(len(bad), 'image')} that cannot be read: {listing([b.path for b in bad])}."
    checked = dataclasses.replace(dataset, train=train, val=val, test=test, notes=(*dataset.notes, note))
    if not lost:
        return checked
    names = listing([dataset.classes[label] for label in lost])
    left = [label for label in range(len(dataset.classes)) if label not in lost]
    if len(left) < 2 or not all(label in may_go for label in lost):
        raise ValueError(
            f"Every class needs a readable training image; none is left of: {names}. "
            f"Unreadable: {listing([str(b) for b in bad], separator='; ')}."
        )
    return keep_classes(checked, left, f"Left out {plural(len(lost), 'class')} without a readable image: {names}.")


def _without_copies(dataset: Dataset, pixels: DuplicateMap) -> Dataset:
    """The data set without held-out images that training has, too, and with notes on what only pixels tell."""
    if not pixels:
        return dataset
    notes = []
    pairs = pair_duplicates(dataset.test, dataset.train, pixels) if dataset.held_out else []
    if pairs:
        old = {id(item) for item, _ in pairs}
        dataset = dataclasses.replace(dataset, test=tuple(item for item in dataset.test if id(item) not in old))
        count = plural(len(pairs), "test image")
        left = "" if dataset.test else " None is left, so the accuracy is not known."
        named = format_pairs(pairs, make_shortener(dataset))
        notes.append(f"Left out {count} with the same pixels as a training image: {named}.{left}")
    files = find_duplicates(pixels)
    notes += [f"By their pixels: {note}" for note in describe_duplicates(dataset, exclude_equal_files(pixels, files))]
    return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))


def parse_bytes(budget: int | str) -> int:
    """A number of bytes from an int or a string such as "2GB" (10**9), "1.5 GiB" (2**30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(budget))
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"An image budget must be like '2GB', '500MB' or 0, got {budget!r}.")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _look(store: ImageStore) -> Callable[[Item], Look | BadImage]:
    def look(item: Item) -> Look | BadImage:
        try:
            return store.apply(lambda image: Look(pixel_digest(image), image.size, remarks(image)), item)
        except BadImageError as error:
            return error.bad

    return look
