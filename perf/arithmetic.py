"""Floating-point operations of a computation, and the peak rate of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from perf.timing import Clock, Lap, time_work

SIDE = {"cpu": 2048, "cuda": 8192}
"""Size of the square matrices, large enough to be bound by arithmetic."""
ENOUGH = 5.0
"""Seconds after which to stop trying: bfloat16 is slow on processors without it."""


@dataclass(frozen=True)
class Rate:
    """Operations per second of wall time and of processor time (meaningless on a GPU)."""

    wall: float
    cpu: float


def count_operations(run: Callable[[], object]) -> int:
    """Count the operations of matrix products, convolutions and attention in a run, including its backward pass."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Clock, *, side: int = 0, tries: int = 8) -> Rate:
    """Return the best rate of several products of square matrices with the current number of threads."""
    side = side or SIDE.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    time_work(lambda: torch.mm(left, right, out=out), 1, clock)  # warms up
    laps: list[Lap] = []
    while len(laps) < tries and sum(one.wall for one in laps) < ENOUGH:
        laps.append(time_work(lambda: torch.mm(left, right, out=out), 1, clock))
    work = 2 * side**3
    return Rate(*(work / max(min(times), 1e-9) for times in ([one.wall for one in laps], [one.cpu for one in laps])))


def best_rate(*rates: Rate) -> Rate:
    """Return the best of several rates."""
    return Rate(max(rate.wall for rate in rates), max(rate.cpu for rate in rates))


def device_clock(device: torch.device) -> Clock:
    """Return a clock that waits for the device."""
    if device.type == "cuda":
        return Clock(wait=lambda: torch.cuda.synchronize(device))
    return Clock(time.perf_counter, time.process_time)
