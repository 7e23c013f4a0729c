"""The engine "ray": actors of Ray, on this machine or on the cluster that RAY_ADDRESS names."""

import logging
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic

from selfprompt.engines.feed import feed
from selfprompt.engines.work import Item, Outcome, Result, Say, Start, attempt
from selfprompt.utils.cores import cores


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
    """Do all items in actors, see `feed`.

    Ray is started on this machine unless it runs already, or the environment variable RAY_ADDRESS names a cluster.

    Args:
        start: Called once in each actor, on its first item; returns the function that does an item. Ray may lose sight
            of an actor that still runs, so doing an item twice must be harmless.
        items: The work.
        jobs: Number of actors.
        folder: Not used: Ray keeps its logs in a folder of its own.
        gpus: Number of GPUs of this machine; with any, each actor gets one.
        options: Of Ray's actors: num_cpus, num_gpus, memory, resources, ...
        alike: Items of equal value share something that is expensive to load: an actor prefers those like its last.
        say: Called with a line about each actor that died.

    Yields:
        Each item with its result, as they end.

    Raises:
        ImportError: If the package ray is not installed.
        ValueError: If an option is wrong.
        EngineError: If an item fails, or ends its actor each time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send statistics to its makers
    try:
        import ray
    except ImportError:
        raise ImportError("--engine ray needs the package ray: pip install 'selfprompt[ray]'.") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"num_cpus": max(jobs, cores()), "include_dashboard": False}
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        settings = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, **(options or {})}
        try:
            actors = Actors[Item, Result](ray, start, settings)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--engine-options must be those of Ray's actors: {error}") from error
        yield from feed(actors, items, jobs, alike, say)
    finally:
        if is_ours:
            ray.shutdown()


class Actors(Generic[Item, Result]):
    """Actors that do one item after another; see `feed.Workers`."""

    def __init__(self, ray: Any, start: Start[Item, Result], settings: Mapping[str, Any]) -> None:
        self._ray = ray
        self._class, self._start = ray.remote(**settings)(Actor), start
        self._running: dict[int, Any] = {}
        self._busy: dict[Any, int] = {}

    def begin(self, place: int) -> None:
        """Start an actor."""
        self._running[place] = self._class.remote(self._start, os.getcwd())

    def send(self, place: int, item: Item) -> None:
        """Give an actor its next item."""
        self._busy[self._running[place].do.remote(item)] = place

    def wait(self) -> Iterator[tuple[int, Outcome[Result] | None]]:
        """Wait for the first actor that has ended its item or died."""
        ended, _ = self._ray.wait(list(self._busy))
        for reference in ended:
            try:
                outcome = self._ray.get(reference)
            except self._ray.exceptions.RayError:  # the actor or its machine died, or is out of reach
                outcome = None
            yield self._busy.pop(reference), outcome

    def end(self, place: int) -> None:
        """End an actor."""
        self._ray.kill(self._running.pop(place))


class Actor:
    """Does items; keeps what it has loaded for the first."""

    def __init__(self, start: Start[Any, Any], folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)  # relative paths mean the same everywhere
        self._begin = cache(start)

    def do(self, item: Any) -> Outcome[Any]:
        """Do one item."""
        return attempt(partial(self._do, item))

    def _do(self, item: Any) -> Any:
        return self._begin()(item)
