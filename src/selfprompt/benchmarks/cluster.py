"""The same grid in processes of their own, on this machine or through Slurm, started by submitit."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from selfprompt.benchmarks.cells import Cell
from selfprompt.data.suites.task import SuiteTask

MINUTES = 24 * 60
"""Time limit of a job unless the user sets timeout_min."""

Loader = Callable[[str, str, Path | None], SuiteTask]


def work(
    cells: Sequence[Cell], out: Path, root: Path | None, retry_failed: bool, threads: int, loader: Loader | None
) -> dict[str, int]:
    """What a job does: run whatever cell is nobody's, until none is left; returns how many ended how."""
    import torch

    from selfprompt.benchmarks.run import RunCache, run_grid

    if threads:
        torch.set_num_threads(threads)
    counts: dict[str, int] = {}
    for outcome in run_grid(cells, out, RunCache(root, loader), retry_failed=retry_failed):
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    return counts


def submit(
    cells: Sequence[Cell],
    out: Path,
    root: Path | None,
    *,
    cluster: Literal["local", "slurm"],
    jobs: int,
    options: Mapping[str, Any] | None = None,
    retry_failed: bool = False,
    loader: Loader | None = None,
) -> list[Any]:
    """Start jobs that share the cells among them, cell by cell, as they become free.

    So a slow cell holds up nobody, images and backbones are read once a job, and the cell of a job that is killed is
    free again.

    Args:
        cells: The grid.
        out: The folder of all runs; the jobs' logs are in its folder "jobs".
        root: The folder of the data.
        cluster: "local" starts processes on this machine, "slurm" submits.
        jobs: How many.
        options: Parameters of ``submitit.AutoExecutor``: timeout_min, slurm_partition, gpus_per_node, ...
        retry_failed: Run broken cells again.
        loader: Reads a task; the library's own unless given.

    Returns:
        submitit's jobs.

    Raises:
        ImportError: Without the package submitit.
        ValueError: If ``jobs`` is below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--cluster needs the package submitit: pip install 'selfprompt[cluster]'.") from error
    executor = submitit.AutoExecutor(folder=out / "jobs", cluster=cluster)
    executor.update_parameters(**{"name": "selfprompt", "timeout_min": MINUTES, **(options or {})})
    threads = max(1, (os.cpu_count() or 1) // jobs) if cluster == "local" else 0
    count = min(jobs, max(1, len(cells)))
    return [executor.submit(work, cells, out, root, retry_failed, threads, loader) for _ in range(count)]


def failures(jobs: Sequence[Any]) -> list[str]:
    """Why jobs ended badly, one line each; waits for all of them."""
    errors = [(job, job.exception()) for job in jobs]
    return [f"job {job.job_id}: {_reason(error)} (log: {job.paths.stderr})" for job, error in errors if error]


def _reason(error: BaseException) -> str:
    """What went wrong, in a line; submitit's own first line on a job that died names files only."""
    if "has not produced any output" in str(error):
        return "it ended without a result: killed, or out of memory or time"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
