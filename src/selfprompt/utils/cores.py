"""The number of CPU cores available to this process."""

import os


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_processes() -> int:
    """Return how many processes may share the CPU: one per core, and two on a single core."""
    return max(2, cores())
