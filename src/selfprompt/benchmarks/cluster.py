"""Running a grid in several processes, on this machine or through Slurm, with submitit."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.protocols import TaskLoader

MINUTES = 24 * 60
"""Default time limit of a job (timeout_min)."""


def run_job(
    cells: Sequence[Cell], out: Path, root: Path | None, retry_failed: bool, threads: int, loader: TaskLoader | None
) -> dict[str, int]:
    """Run the cells that no other process is running, until none is left; returns the number of outcomes by state."""
    import torch

    from selfprompt.benchmarks.runner import RunCache, run_grid

    if threads:
        torch.set_num_threads(threads)
    counts: dict[str, int] = {}
    for outcome in run_grid(cells, out, RunCache(root, loader), retry_failed=retry_failed):
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    return counts


def submit_jobs(
    cells: Sequence[Cell],
    out: Path,
    root: Path | None,
    *,
    cluster: Literal["local", "slurm"],
    jobs: int,
    options: Mapping[str, Any] | None = None,
    retry_failed: bool = False,
    loader: TaskLoader | None = None,
) -> list[Any]:
    """Start jobs that share the cells, each taking the next free cell.

    A slow cell holds up no other job, images and backbones are read once per job, and the cell of a killed job becomes
    free again.

    Args:
        cells: The grid.
        out: The output folder; logs of the jobs are in its folder "jobs".
        root: The folder of the data.
        cluster: "local" starts processes on this machine, "slurm" submits jobs.
        jobs: Number of jobs.
        options: Parameters of ``submitit.AutoExecutor``: timeout_min, slurm_partition, gpus_per_node, ...
        retry_failed: Whether to run failed cells again.
        loader: Reads a task; by default ``load_task``.

    Returns:
        submitit's jobs.

    Raises:
        ImportError: If the package submitit is not installed.
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
    return [executor.submit(run_job, cells, out, root, retry_failed, threads, loader) for _ in range(count)]


def failed_jobs(jobs: Sequence[Any]) -> list[str]:
    """Wait for all jobs and return one line for each that failed."""
    errors = [(job, job.exception()) for job in jobs]
    return [f"job {job.job_id}: {_reason(error)} (log: {job.paths.stderr})" for job, error in errors if error]


def _reason(error: BaseException) -> str:
    """Return the reason in one line; the first line of submitit's error for a dead job names files only."""
    if "has not produced any output" in str(error):
        return "it ended without a result: killed, or out of memory or time"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
