"""The number of CPU cores available to this process."""

import os


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


MAX_READERS = 16
"""Largest default number of threads that read images."""


def reader_threads(processes: int = 1) -> int:
    """Return how many threads read images in each of several processes that share this machine."""
    return min(MAX_READERS, max(1, cores() // processes))


def max_processes() -> int:
    """Return how many processes may share the CPU: one per core, and two on a single core."""
    return max(2, cores())
