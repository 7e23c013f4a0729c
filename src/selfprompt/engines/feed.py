"""Feeds workers with an item at a time; does the item of a worker that dies again."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from selfprompt.engines.work import EngineError, Item, Outcome, Result, Say

MAX_ATTEMPTS = 3
"""How often an item is tried that ends its worker."""


class Workers(Protocol):
    """Workers of some kind, known by the numbers of their places."""

    def begin(self, place: int) -> None:
        """Start a worker in a place."""

    def send(self, place: int, item: Any) -> None:
        """Give a worker its next item."""

    def wait(self) -> Iterable[tuple[int, Outcome[Any] | None]]:
        """Wait until workers have ended their items, and return how; None if the worker died."""

    def end(self, place: int) -> None:
        """End a worker and whatever it does."""


def feed(
    workers: Workers,
    items: Sequence[Item],
    jobs: int,
    alike: Callable[[Item], Hashable] | None,
    say: Say,
) -> Iterator[tuple[Item, Result]]:
    """Do all items in up to ``jobs`` workers.

    Args:
        workers: Ended on exit.
        items: The work.
        jobs: Number of workers.
        alike: Items of equal value share something that is expensive to load: a worker prefers those like its last.
        say: Called with a line about each worker that died.

    Yields:
        Each item with its result, as they end.

    Raises:
        EngineError: If an item raised an error, at once; or if items ended their worker `MAX_ATTEMPTS` times, when all
            others are done.
    """
    waiting, attempts, lost = list(range(len(items))), Counter[int](), list[int]()
    last: dict[int, Hashable] = {}
    busy: dict[int, int] = {}  # place -> index of its item
    idle, begun = set(range(min(jobs, len(items)))), set[int]()
    try:
        while waiting or busy:
            while waiting and idle:
                place = min(idle)
                idle.remove(place)
                if place not in begun:
                    workers.begin(place)
                    begun.add(place)
                busy[place] = _take(waiting, items, alike, last, place)
                workers.send(place, items[busy[place]])
            for place, outcome in workers.wait():
                index = busy.pop(place)
                idle.add(place)
                if outcome is not None:
                    yield items[index], outcome.result()
                    continue
                workers.end(place)
                begun.remove(place)
                attempts[index] += 1
                is_lost = attempts[index] == MAX_ATTEMPTS
                (lost if is_lost else waiting).append(index)
                then = "its work is given up" if is_lost else "its work is done again"
                say(f"A worker was killed, or ran out of memory; {then}.")
    finally:
        for place in begun:
            workers.end(place)
    if lost:
        raise EngineError("Work ended its worker each time.", tuple(items[index] for index in lost))


def _take(
    waiting: list[int],
    items: Sequence[Item],
    alike: Callable[[Item], Hashable] | None,
    last: dict[int, Hashable],
    place: int,
) -> int:
    """Take the next item for a worker: one like its last, else one unlike the last of the others, else the first."""
    if alike is None:
        return waiting.pop(0)
    others = {kind for other, kind in last.items() if other != place}
    kinds = [alike(items[index]) for index in waiting]
    best = min(range(len(waiting)), key=lambda at: (kinds[at] != last.get(place), kinds[at] in others))
    last[place] = kinds[best]
    return waiting.pop(best)
