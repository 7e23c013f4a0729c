"""Options of the commands that spread their work over processes, jobs of Slurm or actors of Ray."""

from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.usage import UsageError, check_at_least
from selfprompt.utils.cores import cores, max_processes


def add_engine_options(parser: ArgumentParser, work: str) -> None:
    """Declare the options.

    Args:
        parser: Of the command.
        work: What is spread, in the plural: "cells".
    """
    parser.add_argument(
        "--engine",
        type=Literal["local", "slurm", "ray"],
        default="local",
        help=f"who does the {work}: processes of this machine, an array of Slurm jobs (submitit), or actors of Ray",
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of processes, jobs or actors at a time")
    parser.add_argument(
        "--engine_options",
        type=dict[str, Any],
        default={},
        help="for slurm: {slurm_partition: gpu, timeout_min: 60, ...}; for ray: {num_gpus: 1, ...}",
    )


def check_engine(options: Namespace) -> None:
    """Raise UsageError for a wrong number of jobs, or options that the engine does not take."""
    check_at_least(options, 1, "jobs")
    if options.engine != "local":
        return
    if options.engine_options:
        raise UsageError("--engine-options are for --engine slurm and ray.")
    gpus = count_gpus(options, getattr(options, "device", None) or "auto")
    if not gpus and options.jobs > max_processes():
        raise UsageError(f"--jobs must be at most {max_processes()} on the CPU of this machine, got {options.jobs}.")


def is_in_this_process(options: Namespace) -> bool:
    """Return whether the command does its work itself."""
    return bool(options.engine == "local" and options.jobs == 1)


def threads_per_job(options: Namespace) -> int:
    """Return the CPU threads of each process of this machine; 0 where the engine decides."""
    return max(1, cores() // options.jobs) if options.engine == "local" and options.jobs > 1 else 0


def count_gpus(options: Namespace, *devices: str) -> int:
    """Return how many GPUs of this machine its processes or actors divide among themselves; 0 if not all devices allow.

    Args:
        options: The command's options.
        devices: The devices to run on: "auto", "cuda", "cpu", ...
    """
    if options.engine == "slurm" or is_in_this_process(options) or not {*devices} <= {"auto", "cuda"}:
        return 0
    import torch

    return torch.cuda.device_count()
