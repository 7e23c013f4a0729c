"""A limit on the memory of the images that threads decode at the same time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

Reserve = Callable[[int], None]
"""Waits until that many bytes are free, and takes them; called once per image, before it is decoded."""

MAX_DECODING_BYTES = 10**9
"""Default limit for images that are being decoded."""


class DecodingLimit:
    """A budget of bytes that threads share while they decode images; a larger image is decoded alone.

    Args:
        size: The budget in bytes.
    """

    def __init__(self, size: int = MAX_DECODING_BYTES) -> None:
        self.size = size
        self.used = 0
        self._changed = Condition()

    @contextmanager
    def image(self) -> Iterator[Reserve]:
        """Provide a function that reserves memory for one image, and release the memory on exit.

        The function must be called at most once: a thread that holds memory and waits for more could wait forever.
        """
        taken = 0

        def reserve(size: int) -> None:
            nonlocal taken
            size = min(size, self.size)
            with self._changed:
                self._changed.wait_for(lambda: self.used + size <= self.size)
                self.used += size
                taken = size

        try:
            yield reserve
        finally:
            with self._changed:
                self.used -= taken
                self._changed.notify_all()


def unbounded(size: int) -> None:
    """Reserve nothing: for a single image."""
