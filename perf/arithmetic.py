"""Floating-point operations of a piece of work, and how many of them this machine does at best."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from perf.timing import Clock, Lap, time_work

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows of the matrices: large enough to be busy with arithmetic alone."""
ENOUGH = 5.0
"""Seconds of tries after which there are no more: processors without bfloat16 are slow at it."""


@dataclass(frozen=True)
class Rate:
    """Operations a second, by the wall clock and by the processors' time (which is none of a GPU's business)."""

    wall: float
    cpu: float


def count_operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions of a run, its backward included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, clock: Clock, *, side: int = 0, tries: int = 8) -> Rate:
    """The best rate of several products of square matrices, with as many threads as torch has now."""
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
    """The machine at its best."""
    return Rate(max(rate.wall for rate in rates), max(rate.cpu for rate in rates))


def device_clock(device: torch.device) -> Clock:
    """A clock that waits for the device."""
    if device.type == "cuda":
        return Clock(wait=lambda: torch.cuda.synchronize(device))
    return Clock(time.perf_counter, time.process_time)
