"""A bound on the memory that threads take for decoded images at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

Reserve = Callable[[int], None]
"""Waits until so many bytes are free, and takes them; called once an image, before it is decoded."""

MAX_DECODING_BYTES = 10**9
"""Bytes of images in decoding, unless less is asked for."""


class DecodingLimit:
    """Bytes that threads share while they decode images; an image that is larger than all of them is decoded alone.

    Args:
        size: Bytes in all.
    """

    def __init__(self, size: int = MAX_DECODING_BYTES) -> None:
        self.size = size
        self.used = 0
        self._changed = Condition()

    @contextmanager
    def image(self) -> Iterator[Reserve]:
        """Memory for one image, given back at the end.

        Returns:
            What reserves it. It is called at most once: who held some and waited for more could wait forever.
        """
        taken = 0

        def reserve(size: int) -> None:
            nonlocal taken
            wanted = min(size, self.size)
            with self._changed:
                self._changed.wait_for(lambda: self.used + wanted <= self.size)
                self.used += wanted
                taken = wanted

        try:
            yield reserve
        finally:
            with self._changed:
                self.used -= taken
                self._changed.notify_all()


def unbounded(size: int) -> None:
    """Reserves nothing: for a single image."""
