"""The engines by name."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from selfprompt.engines import local, ray, slurm
from selfprompt.engines.work import Item, Result, Say, Start

EngineName = Literal["local", "slurm", "ray"]


def run_all(
    engine: EngineName,
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
    """Do all items with an engine; see the ``run_all`` of `local`, `slurm` and `ray`.

    Raises:
        ValueError: If ``jobs`` is below 1, or the engine takes no options and got some.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    if engine == "local" and options:
        raise ValueError(f"engine_options are for slurm and ray, got {dict(options)} for local.")
    if not items:
        return iter(())
    function = {"local": local.run_all, "slurm": slurm.run_all, "ray": ray.run_all}[engine]
    return function(start, items, jobs, folder=folder, gpus=gpus, options=options, alike=alike, say=say)
