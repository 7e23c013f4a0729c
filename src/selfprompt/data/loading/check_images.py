"""Checks that images can be decoded, and removes from a data set what cannot be used or is duplicated."""

import dataclasses
import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

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
from selfprompt.data.loading.image_files import BadImage, BadImageError
from selfprompt.data.loading.image_remarks import RemarkCounter, remarks_on
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.relabel import keep_classes
from selfprompt.utils.progress import Progress
from selfprompt.utils.wording import listing, plural

OnBad = Literal["skip", "fail"]
CHUNK = 1024  # images in flight at a time


@dataclasses.dataclass(frozen=True, slots=True)
class ImageInfo:
    """Facts about one decoded image.

    Attributes:
        digest: Hash of its pixels.
        size: Width and height.
        remarks: What looks wrong about it; see `image_remarks.remarks_on`.
    """

    digest: bytes
    size: tuple[int, int]
    remarks: tuple[str, ...]


Inspected = tuple[Item, ImageInfo | BadImage]
"""An item and the facts about its image, or the reason why it cannot be read."""


def inspect_images(
    items: Sequence[Item], store: ImageStore | None = None, progress: Progress | None = None
) -> Iterator[Inspected]:
    """Decode every image once, in threads, and yield the facts about each, in order.

    Args:
        items: The images.
        store: Filled with the decoded images as far as its budget allows.
        progress: Called with (images done, images in all).
    """
    store = ImageStore(0) if store is None else store
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            for done, (item, info) in enumerate(zip(chunk, pool.map(_inspector(store), chunk), strict=True), start + 1):
                yield item, info
                if progress is not None:
                    progress(done, len(items))


def check_images(
    items: Sequence[Item],
    store: ImageStore | None = None,
    *,
    on_bad: OnBad = "skip",
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[tuple[Item, ...], list[BadImage]]:
    """Decode every image once, in threads, and separate those that cannot be decoded.

    Args:
        items: The images.
        store: Filled with the decoded images as far as its budget allows.
        on_bad: "skip" returns the bad images; "fail" raises if there are any.
        progress: Called with (images done, images in all).
        say: Called with a sentence for each kind of image that can be read but looks wrong.

    Returns:
        The good items in their order, and the bad images in theirs.

    Raises:
        ValueError: With "fail", naming the bad images.
    """
    if on_bad not in ("skip", "fail"):
        raise ValueError(f"on_bad must be 'skip' or 'fail', got {on_bad!r}.")
    good: list[Item] = []
    bad: list[BadImage] = []
    remarks = RemarkCounter()
    for item, info in inspect_images(items, store, progress):
        if isinstance(info, BadImage):
            bad.append(info)
        else:
            good.append(item)
            remarks.add(str(item.source), info.remarks)
    _raise_if_bad(bad, on_bad)
    if say is not None:
        for sentence in remarks.sentences():
            say(sentence)
    return tuple(good), bad


def check_dataset(
    dataset: Dataset,
    store: ImageStore | None = None,
    *,
    on_bad: OnBad = "skip",
    droppable: Container[int] = (),
    progress: Progress | None = None,
) -> tuple[Dataset, list[BadImage]]:
    """Check the images of all splits, the training images first, and look for duplicates that only pixels reveal.

    Args:
        dataset: The images.
        store: Filled with the decoded images as far as its budget allows.
        on_bad: "skip" leaves out the bad images; "fail" raises if there are any.
        droppable: Labels of the classes that may be left out if none of their training images can be read.
        progress: Called with (images done, images in all).

    Returns:
        The data set as `drop_unusable` returns it, and the bad images.

    Raises:
        ValueError: With "fail" if there are bad images; with "skip" if a class loses all its training images.
    """
    inspected = list(inspect_images(dataset.select("all"), store, progress))
    bad = [info for _, info in inspected if isinstance(info, BadImage)]
    _raise_if_bad(bad, on_bad)
    return drop_unusable(dataset, inspected, droppable), bad


def drop_unusable(dataset: Dataset, inspected: Sequence[Inspected], droppable: Container[int] = ()) -> Dataset:
    """Leave out the images that cannot be used, and say so in the notes.

    Args:
        dataset: The images.
        inspected: The result of `inspect_images` for all of them.
        droppable: Labels of the classes that may be left out if none of their training images can be read.

    Returns:
        The data set without its bad images and, if the test images were held out of the training images, without
        those that have the pixels of a training image. Images that look wrong stay.

    Raises:
        ValueError: If any other class loses all its training images.
    """
    digests = {item.source: info.digest for item, info in inspected if isinstance(info, ImageInfo)}
    bad = [info for _, info in inspected if isinstance(info, BadImage)]
    remarks = RemarkCounter()
    for item, info in inspected:
        if isinstance(info, ImageInfo):
            remarks.add(str(item.source), info.remarks)
    checked = _without_bad(dataset, digests, bad, droppable) if bad else dataset
    new = (sentence for sentence in remarks.sentences() if sentence not in dataset.notes)
    checked = dataclasses.replace(checked, notes=(*checked.notes, *new))
    return _without_duplicates(checked, find_equal_pixels(digests))


def unseen_images(items: Sequence[Item], seen: Sequence[Item], store: ImageStore | None = None) -> tuple[Item, ...]:
    """Return the items whose pixels equal those of no image in ``seen``; images that cannot be read stay."""
    inspected = inspect_images([*items, *seen], store)
    duplicates = find_equal_pixels(
        {item.source: info.digest for item, info in inspected if isinstance(info, ImageInfo)}
    )
    old = {id(item) for item, _ in pair_duplicates(items, seen, duplicates)}
    return tuple(item for item in items if id(item) not in old)


def _inspector(store: ImageStore) -> Callable[[Item], ImageInfo | BadImage]:
    def inspect(item: Item) -> ImageInfo | BadImage:
        try:
            return store.apply(lambda image: ImageInfo(pixel_digest(image), image.size, remarks_on(image)), item)
        except BadImageError as error:
            return error.bad

    return inspect


def _raise_if_bad(bad: Sequence[BadImage], on_bad: OnBad) -> None:
    if bad and on_bad == "fail":
        raise ValueError(
            f"{plural(len(bad), 'image')} cannot be read: {listing([str(b) for b in bad], separator='; ')}."
        )


def _without_bad(
    dataset: Dataset, readable: Container[Source], bad: Sequence[BadImage], droppable: Container[int]
) -> Dataset:
    """Leave out unreadable images, and classes of which no training image is left."""
    train, val, test = (tuple(item for item in dataset.select(split) if item.source in readable) for split in SPLITS)
    lost = sorted({item.label for item in dataset.train} - {item.label for item in train})
    note = f"Left out {plural(len(bad), 'image')} that cannot be read: {listing([b.path for b in bad])}."
    checked = dataclasses.replace(dataset, train=train, val=val, test=test, notes=(*dataset.notes, note))
    if not lost:
        return checked
    names = listing([dataset.classes[label] for label in lost])
    left = [label for label in range(len(dataset.classes)) if label not in lost]
    if len(left) < 2 or not all(label in droppable for label in lost):
        raise ValueError(
            f"Every class needs a readable training image; none is left of: {names}. "
            f"Unreadable: {listing([str(b) for b in bad], separator='; ')}."
        )
    return keep_classes(checked, left, f"Left out {plural(len(lost), 'class')} without a readable image: {names}.")


def _without_duplicates(dataset: Dataset, duplicates: DuplicateMap) -> Dataset:
    """Leave out held-out images that are also training images, and note other duplicates that only pixels reveal."""
    if not duplicates:
        return dataset
    notes = []
    pairs = pair_duplicates(dataset.test, dataset.train, duplicates) if dataset.held_out else []
    if pairs:
        old = {id(item) for item, _ in pairs}
        dataset = dataclasses.replace(dataset, test=tuple(item for item in dataset.test if id(item) not in old))
        count = plural(len(pairs), "test image")
        left = "" if dataset.test else " None is left, so the accuracy is not known."
        named = format_pairs(pairs, make_shortener(dataset))
        notes.append(f"Left out {count} with the same pixels as a training image: {named}.{left}")
    equal_files = find_duplicates(duplicates)
    others = exclude_equal_files(duplicates, equal_files)
    notes += [f"By their pixels: {note}" for note in describe_duplicates(dataset, others)]
    return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))
