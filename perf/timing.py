"""Timing contenders in turns, ratios over rounds, and extrapolation to larger sizes; knows no models."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

ROUND = 0.05
"""Minimum duration of one measurement in seconds; shorter work is repeated within it."""
MOST_ROUNDS = 101

Work = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """A source of time.

    Attributes:
        wall: Returns wall time in seconds.
        cpu: Returns the processor time of this process in seconds, summed over threads.
        wait: Waits until all started work is done; a GPU works asynchronously.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    wait: Work = field(default=lambda: None)


@dataclass(frozen=True)
class Lap:
    """Seconds of one run, in wall time and processor time."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class MedianRange:
    """Median, minimum and maximum of some numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "MedianRange":
        return cls(statistics.median(values), min(values), max(values))


def time_work(run: Work, repeats: int, clock: Clock) -> Lap:
    """Run some work several times and return the seconds of one run."""
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
    """Time runs in turns (A B, B A, A B, ...), so that other load on the machine affects all of them alike.

    With several rounds, a first run of each warms up and determines how often short work is repeated within one
    measurement.

    Args:
        runs: The work to time, by name.
        rounds: Minimum number of rounds.
        seconds: Keep adding rounds for this long.
        clock: The source of time.
        tick: Called after each measurement.

    Returns:
        One lap per round for each run.

    Raises:
        ValueError: If ``rounds`` is below 1.
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
    """Return the range over rounds of the baseline's time divided by ours."""
    return MedianRange.of([one / other for one, other in zip(plain, ours, strict=True)])


def extrapolate(sizes: tuple[int, int], values: tuple[float, float], size: int) -> float:
    """Extrapolate two measured values linearly to a larger size; the result is never below the larger size's value.

    Raises:
        ValueError: If the sizes do not increase.
    """
    (small, large), (low, high) = sizes, values
    if not small < large <= size:
        raise ValueError(f"Extrapolation needs two increasing sizes below {size}, got {small} and {large}.")
    return max(high, high + (high - low) / (large - small) * (size - large))


def probe_sizes(fits: float, smallest: int) -> tuple[int, int]:
    """Return two sizes to measure in place of one that does not fit into memory.

    They are as far apart as memory allows, because then a disturbed run changes the extrapolation less.

    Args:
        fits: The largest size that fits into memory.
        smallest: The smaller size; the larger one is two to four times as large, with some memory to spare.
    """
    return smallest, smallest * min(4, max(2, int(fits / (1.25 * smallest))))
