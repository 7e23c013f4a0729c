"""The engine "slurm": an array of jobs through submitit, each of which does a group of items."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from selfprompt.engines.work import EngineError, Item, Outcome, Result, Say, Start, attempt

MINUTES = 24 * 60
"""Default time limit of a job (timeout_min)."""
GROUPS_PER_JOB, MAX_GROUPS = 4, 1000
"""Jobs in the array for each that runs at a time, so that slow ones hold up little; Slurm's default limit is 1001."""
POLL = 1.0
"""Seconds between two looks at the jobs."""


def run_all(
    start: Start[Item, Result],
    items: Sequence[Item],
    jobs: int,
    *,
    folder: Path,
    gpus: int = 0,
    options: Mapping[str, Any] | None = None,
    alike: Callable[[Item], Hashable] | None = None,
    say: Say = lambda line: None,
) -> Iterator[tuple[Item, Result]]:
    """Do all items in an array of jobs, at most ``jobs`` at a time; jobs that are left are cancelled at the end.

    Args:
        start: Called once in each job; returns the function that does an item.
        items: The work; neighbours go into the same job.
        jobs: Number of jobs that run at a time.
        folder: A folder that all machines share; logs go to its folder "jobs".
        gpus: Not used: ask for GPUs in ``options``.
        options: Parameters of ``submitit.AutoExecutor``: timeout_min, slurm_partition, gpus_per_node, ...; and
            ``cluster``: "local" runs the jobs as processes on this machine, to try it.
        alike: Not used.
        say: Called with a line about the jobs submitted.

    Yields:
        Each item with its result, as the jobs end.

    Raises:
        ImportError: If the package submitit is not installed.
        ValueError: If there is no Slurm here, or an option is wrong.
        EngineError: If an item raised an error, at once; or if jobs died, when the others have ended.
    """
    try:
        import submitit
    except ImportError:
        raise ImportError("--engine slurm needs the package submitit: pip install 'selfprompt[cluster]'.") from None
    parameters = {"name": "selfprompt", "timeout_min": MINUTES, "slurm_array_parallelism": jobs, **(options or {})}
    cluster = parameters.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder / "jobs", cluster=cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"--engine slurm cannot start jobs: {reason[0]}") from error
    count = jobs if cluster == "local" else min(GROUPS_PER_JOB * jobs, MAX_GROUPS)
    submitted = executor.map_array(partial(run_group, start), split_evenly(items, count))
    say(f"Submitted {len(submitted)} jobs, {jobs} at a time; logs: {folder / 'jobs'}")
    running, dead = list(submitted), list[str]()
    try:
        while running:
            for job in [job for job in running if job.done()]:
                running.remove(job)
                if failure := job.exception():
                    dead.append(f"job {job.job_id}: {_reason(failure)} (log: {job.paths.stderr})")
                    continue
                for item, outcome in job.result():
                    yield item, outcome.result()
            if running:
                time.sleep(POLL)
    finally:
        for job in running:
            job.cancel(check=False)
    if dead:
        raise EngineError(f"{'; '.join(dead)}. Repeat the command to do what is left.")


def split_evenly(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Return at most ``count`` groups of neighbours whose sizes differ by at most one; none is empty."""
    count = min(count, len(items))
    return [items[len(items) * k // count : len(items) * (k + 1) // count] for k in range(count)]


def run_group(start: Start[Item, Result], items: Sequence[Item]) -> list[tuple[Item, Outcome[Result]]]:
    """Do items in a job, up to the first that fails."""
    function, results = start(), []
    for item in items:
        results.append((item, attempt(partial(function, item))))
        if results[-1][1].error:
            break
    return results


def _reason(error: BaseException) -> str:
    """Return the reason in one line; the first line of submitit's error for a dead job names files only."""
    if "has not produced any output" in str(error):
        return "it ended without a result: killed, or out of memory or time"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
