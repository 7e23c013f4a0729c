"""A cache of decoded images within a memory budget; knows items, no models."""

import re
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image

from selfprompt.data.dataset import Item, Source
from selfprompt.data.loading.image_files import BadImage, BadImageError, error_reason
from selfprompt.data.loading.memory_limit import MAX_DECODING_BYTES, DecodingLimit
from selfprompt.data.loading.rgb import BIT_DEPTH

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MIN_DECODING_BYTES = 256 * 10**6
"""Memory for decoding, however small the budget."""

Result = TypeVar("Result")


class ImageStore:
    """Decoded images, 8-bit RGB: each is decoded once and kept while the budget lasts; the rest is decoded on demand.

    Nothing is evicted: an epoch visits every image once, and for that pattern the first images are as good to keep as
    any others. Threads may share a store; the memory of the images that they are decoding is bounded, too.

    Args:
        budget: Bytes to keep, or a string such as "2GB", "500MB", "0".

    Raises:
        ValueError: If the budget is negative or cannot be parsed.
    """

    def __init__(self, budget: int | str = "2GB") -> None:
        self.budget = parse_bytes(budget)
        self.used = 0
        self.decoding = DecodingLimit(min(max(self.budget, MIN_DECODING_BYTES), MAX_DECODING_BYTES))
        self._lock = Lock()
        self._kept: dict[Source, np.ndarray] = {}
        self._info: dict[Source, dict[str, int]] = {}  # of the few images that have some

    def __len__(self) -> int:
        """Return the number of images kept."""
        return len(self._kept)

    def get(self, item: Item) -> Image.Image:
        """Return the item's image as RGB; raise BadImageError if it cannot be read."""
        return self.apply(lambda image: image, item)

    def apply(self, function: Callable[[Image.Image], Result], item: Item) -> Result:
        """Call a function on an item's image and return its result.

        Waits while the images that other threads are working on take too much memory; the image counts as in work
        until the function returns.

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
            except Exception as error:  # whatever is wrong with the image, the message must name it
                raise BadImageError(BadImage(str(item.source), error_reason(error))) from error

    def _keep(self, source: Source, image: Image.Image) -> None:
        size = image.width * image.height * 3
        with self._lock:
            if source in self._kept or self.used + size > self.budget:
                return
            self._kept[source] = np.asarray(image)
            if BIT_DEPTH in image.info:
                self._info[source] = {BIT_DEPTH: image.info[BIT_DEPTH]}
            self.used += size


def parse_bytes(budget: int | str) -> int:
    """Return the number of bytes in an int or a string such as "2GB" (2 * 10**9) or "1.5 GiB" (1.5 * 2**30)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(budget))
    if match is None or match[2].upper() not in UNITS:
        raise ValueError(f"An image budget must be like '2GB', '500MB' or 0, got {budget!r}.")
    return int(float(match[1]) * UNITS[match[2].upper()])
