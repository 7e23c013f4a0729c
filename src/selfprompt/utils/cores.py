"""How many processor cores there are for this process; knows nothing else."""

import os


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_processes() -> int:
    """Processes that may share the work on a CPU: one a core, and two on a single one."""
    return max(2, cores())
