"""Timing contenders by turns, what the numbers of the rounds say, and lines through measured sizes; knows no models."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

ROUND = 0.05
"""Seconds that one measurement takes at least: shorter work is repeated within it."""
MOST_ROUNDS = 101

Work = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """Where the time comes from.

    Attributes:
        wall: Seconds that pass.
        cpu: Seconds that the processors work for this process, all threads together.
        wait: Returns when all work that was started is done: that of a GPU goes on behind the program's back.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    wait: Work = field(default=lambda: None)


@dataclass(frozen=True)
class Lap:
    """Seconds of one run."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class MedianRange:
    """The median of some numbers with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "MedianRange":
        return cls(statistics.median(values), min(values), max(values))


def time_work(run: Work, repeats: int, clock: Clock) -> Lap:
    """Time some runs in a row; seconds of one."""
    clock.wait()
    wall, cpu = clock.wall(), clock.cpu()
    for _ in range(repeats):
        run()
    clock.wait()
    return Lap((clock.wall() - wall) / repeats, (clock.cpu() - cpu) / repeats)


def time_alternately(
    runs: Mapping[str, Work],
    *,
    rounds: int,
    seconds: float,
    clock: Clock | None = None,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, list[Lap]]:
    """Time runs by turns: A B, B A, A B, ..., so that what else the machine does meets all of them alike.

    Where there are several rounds, a first run of each warms up and tells how often short work is repeated within a
    measurement.

    Args:
        runs: What to run, by name.
        rounds: How many rounds at least.
        seconds: Go on with further rounds for so long.
        clock: Where the time comes from.
        tick: Called after each measurement.

    Returns:
        One lap a round for each contender.

    Raises:
        ValueError: If there is no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}.")
    clock = clock or Clock()
    repeats = dict.fromkeys(runs, 1)
    if rounds > 1:
        for name, run in runs.items():
            repeats[name] = max(1, math.ceil(ROUND / max(time_work(run, 1, clock).wall, ROUND / 1000)))
    laps: dict[str, list[Lap]] = {name: [] for name in runs}
    start, done = clock.wall(), 0
    while done < rounds or (clock.wall() - start < seconds and done < MOST_ROUNDS):
        for name in list(runs)[:: 1 if done % 2 == 0 else -1]:
            laps[name].append(time_work(runs[name], repeats[name], clock))
            tick()
        done += 1
    return laps


def ratio_range(plain: Sequence[float], ours: Sequence[float]) -> MedianRange:
    """How many times as long the plain baseline takes, round by round."""
    return MedianRange.of([one / other for one, other in zip(plain, ours, strict=True)])


def extrapolate(sizes: tuple[int, int], values: tuple[float, float], size: int) -> float:
    """The value at a size on the straight line through two measured ones; never below the larger one's.

    Raises:
        ValueError: If the sizes do not grow.
    """
    (small, large), (low, high) = sizes, values
    if not small < large <= size:
        raise ValueError(f"Extrapolation needs two growing sizes below {size}, got {small} and {large}.")
    return max(high, high + (high - low) / (large - small) * (size - large))


def probe_sizes(fits: float, smallest: int) -> tuple[int, int]:
    """Two sizes to measure where the wanted one does not fit into memory: as far apart as that allows.

    Args:
        fits: The largest size that memory would hold.
        smallest: The two are this and two to four times of it, with a little room to spare: the farther apart they
            are, the less a disturbed run bends the line.
    """
    return smallest, smallest * min(4, max(2, int(fits / (1.25 * smallest))))
