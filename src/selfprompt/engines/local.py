"""The engine "local": processes on this machine."""

import logging
import os
import signal
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic

from selfprompt.engines.feed import feed
from selfprompt.engines.work import Item, Outcome, Result, Say, Start, attempt


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
    """Do all items; with one job in this process, otherwise in processes that this one feeds, see `feed`.

    Args:
        start: Called once in each process, on its first item; returns the function that does an item.
        items: The work.
        jobs: Number of processes.
        folder: Folder for logs; this engine writes none.
        gpus: Number of GPUs; process k sees GPU k modulo ``gpus`` alone. 0 leaves the choice to ``start``.
        options: None: this engine takes no options.
        alike: Items of equal value share something that is expensive to load: a process prefers those like its last.
        say: Called with a line about each process that died.

    Yields:
        Each item with its result, as they end.

    Raises:
        EngineError: If an item fails in one of several processes, or ends its process each time.
    """
    if jobs > 1:
        yield from feed(Processes(start, gpus), items, jobs, alike, say)
        return
    function = start()
    yield from ((item, function(item)) for item in items)


class Processes(Generic[Item, Result]):
    """Processes that do one item after another; see `feed.Workers`."""

    def __init__(self, start: Start[Item, Result], gpus: int) -> None:
        self._start, self._gpus = start, gpus
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._busy: dict[Connection, int] = {}

    def begin(self, place: int) -> None:
        """Start a process."""
        context = get_context("spawn")  # a fork of a process with threads and GPUs may hang
        ours, theirs = context.Pipe()
        environment = {"CUDA_VISIBLE_DEVICES": _gpu(place, self._gpus)} if self._gpus else {}
        process = context.Process(target=_serve, args=(theirs, self._start, environment), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process ends the connection
        self._running[place] = process, ours

    def send(self, place: int, item: Item) -> None:
        """Give a process its next item."""
        connection = self._running[place][1]
        self._busy[connection] = place
        with suppress(OSError):  # if the process has died since, `wait` says so
            connection.send(item)

    def wait(self) -> Iterator[tuple[int, Outcome[Result] | None]]:
        """Wait for the first processes that have ended their items or died."""
        for connection in wait(list(self._busy)):
            assert isinstance(connection, Connection)
            try:
                outcome = connection.recv()
            except (EOFError, OSError):
                outcome = None
            yield self._busy.pop(connection), outcome

    def end(self, place: int) -> None:
        """End a process."""
        process, connection = self._running.pop(place)
        self._busy.pop(connection, None)
        connection.close()
        process.terminate()
        process.join()


def _gpu(place: int, gpus: int) -> str:
    """Return the name of a process's GPU, one of those that this process may see."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[place % gpus] if len(visible) >= gpus else str(place % gpus)


def _serve(connection: Connection, start: Start[Item, Result], environment: Mapping[str, str]) -> None:
    """Do items until the connection ends; the body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this one
    logging.basicConfig(handlers=[logging.NullHandler()])  # nothing that names may be in reaches the terminal raw
    logging.captureWarnings(True)
    os.environ.update(environment)
    begin = cache(start)
    while True:
        try:
            item = connection.recv()
            connection.send(attempt(partial(_do, begin, item)))
        except (EOFError, OSError):  # the parent has ended
            return


def _do(begin: Start[Item, Result], item: Item) -> Result:
    return begin()(item)
