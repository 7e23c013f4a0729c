"""Keeps freed memory at hand while a loop uses the same amounts again and again; knows glibc's allocator only.

A training step frees what it took, and the next one takes the same again. glibc returns large blocks to the kernel at
once, and asking anew costs a page fault and a cleared page for each 4 KB: up to a fifth of a step on a CPU.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and defaults from glibc's malloc.h
NEVER, NO_BLOCKS = -1, 0
DEFAULTS = {M_TRIM_THRESHOLD: 128 * 1024, M_MMAP_MAX: 65536}
CHOICES = ("GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Let this process keep freed memory for its next use; at the end all that is free goes back to the kernel.

    The peak stays what it was, but for gaps between blocks. Nothing happens where the allocator is not glibc's, or one
    of glibc's own variables is set: ``MALLOC_TRIM_THRESHOLD_=131072`` is the way to do without. Another allocator that
    was loaded in its place is not reached.
    """
    libc = _glibc()
    if libc is None or any(name in os.environ for name in CHOICES):
        yield
        return
    libc.mallopt(M_MMAP_MAX, NO_BLOCKS)  # blocks of their own would go back when freed
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        for option, value in DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # Windows has no such handle
        return None
