"""Timing by turns on a clock that the test moves, lines through sizes, memory by the system's account, arithmetic."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from perf.arithmetic import Rate, best_rate, count_operations, matmul_rate
from perf.compare import difference, gradient_difference, gradients, max_or_nan
from perf.memory import (
    available_memory,
    can_reset_peak,
    peak_in_child,
    peak_memory,
    saved_for_backward,
)
from perf.timing import Clock, Lap, MedianRange, extrapolate, probe_sizes, ratio_range, time_alternately

CPU = torch.device("cpu")
MIB = 2**20


class Time:
    """A clock that moves when a contender works."""

    def __init__(self) -> None:
        self.now, self.worked, self.waits = 0.0, 0.0, 0
        self.calls: list[str] = []

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.worked, self.wait)

    def wait(self) -> None:
        self.waits += 1

    def contender(self, name: str, seconds: float, threads: int = 1) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now += seconds
            self.worked += threads * seconds

        return run


def test_contenders_take_turns_and_change_their_order() -> None:
    time = Time()
    runs = {"plain": time.contender("A", 3.0), "ours": time.contender("B", 1.0, threads=2)}
    laps = time_alternately(runs, rounds=4, seconds=0, clock=time.clock())
    assert "".join(time.calls) == "AB" + "ABBAABBA"  # a first run of each warms up
    assert laps == {"plain": [Lap(3, 3)] * 4, "ours": [Lap(1, 2)] * 4}
    assert ratio_range([one.wall for one in laps["plain"]], [one.wall for one in laps["ours"]]) == MedianRange(3, 3, 3)
    assert time.waits >= len(time.calls)  # work that a device still does belongs to who started it


def test_rounds_go_on_while_there_is_time() -> None:
    time = Time()
    laps = time_alternately({"a": time.contender("a", 1.0)}, rounds=2, seconds=7.5, clock=time.clock())
    assert len(laps["a"]) == 8


def test_rounds_end_where_no_time_seems_to_pass() -> None:
    time = Time()
    laps = time_alternately({"a": time.contender("a", 0.0)}, rounds=2, seconds=1.0, clock=time.clock())
    assert 2 <= len(laps["a"]) <= 1000


def test_short_work_is_repeated_within_a_measurement() -> None:
    time = Time()
    laps = time_alternately({"a": time.contender("a", 0.01)}, rounds=2, seconds=0, clock=time.clock())
    assert len(time.calls) == 1 + 2 * 5
    assert [one.wall for one in laps["a"]] == pytest.approx([0.01, 0.01])


def test_one_round_runs_once_and_ticks() -> None:
    time, ticks = Time(), []
    runs = {name: time.contender(name, 0.001) for name in "ab"}
    time_alternately(runs, rounds=1, seconds=0, clock=time.clock(), tick=lambda: ticks.append(1))
    assert time.calls == ["a", "b"]
    assert len(ticks) == 2


def test_no_rounds() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        time_alternately({}, rounds=0, seconds=1)


def test_ratios_are_of_the_rounds() -> None:
    assert ratio_range([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == MedianRange(3, 2, 4)


def test_extrapolation_is_a_straight_line_that_never_falls() -> None:
    assert extrapolate((50, 100), (2.0, 3.0), 1000) == pytest.approx(21.0)
    assert extrapolate((50, 100), (2.0, 3.0), 100) == 3.0
    assert extrapolate((50, 100), (3.0, 2.9), 1000) == 2.9  # noise must not promise less for more
    for sizes in ((100, 50), (50, 50), (600, 1200)):
        with pytest.raises(ValueError, match="two increasing sizes below 1000"):
            extrapolate(sizes, (1.0, 2.0), 1000)


def test_anchors_fit_into_memory() -> None:
    assert probe_sizes(1e9, 50) == (50, 200)
    assert probe_sizes(249, 50) == (50, 150)
    assert probe_sizes(60, 50) == (50, 100), "two have been run before anybody asks"
    assert all(high > low > 0 for low, high in (probe_sizes(fits, 16) for fits in (0, 40, 1000)))


@pytest.mark.skipif(not can_reset_peak(), reason="the system does not reset a process's peak")
def test_peak_memory_is_what_a_run_holds_at_once() -> None:
    kept: list[torch.Tensor] = []

    def run() -> None:
        torch.ones(64 * MIB, dtype=torch.uint8)  # freed, and the peak all the same
        kept.append(torch.ones(32 * MIB, dtype=torch.uint8))

    first = peak_memory(run, CPU)
    second = peak_memory(run, CPU)  # what the first run left does not count
    assert first is not None
    assert second is not None
    assert 63 * MIB < first < 120 * MIB  # an allocator may or may not put the second where the first was
    assert 63 * MIB < second < 120 * MIB


def take(megabytes: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return work for a child process."""
    return lambda: None, lambda: torch.ones(megabytes * MIB, dtype=torch.uint8)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_peak_memory_in_a_child() -> None:
    growth = peak_in_child(take, 400)
    assert growth is not None
    assert 200 * MIB < growth < 500 * MIB


def test_available_memory() -> None:
    free = available_memory(CPU)
    assert free is None or free > 0


def test_saved_tensors_count_each_storage_once_and_no_parameters() -> None:
    layer = nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    with saved_for_backward(layer) as kept:
        y = layer(x)  # keeps x for the weight's gradient
        total = (y * y).sum()  # keeps y twice
    assert sum(kept.values()) == 2 * 4 * 8 * 4
    total.backward()


def test_operations_of_forward_and_backward() -> None:
    weight = torch.randn(8, 16, requires_grad=True)
    x = torch.randn(4, 16)
    assert count_operations(lambda: x @ weight.t()) == 2 * 4 * 8 * 16
    assert count_operations(lambda: (x @ weight.t()).sum().backward()) == 2 * 2 * 4 * 8 * 16


def test_matmul_rate_is_the_best_try() -> None:
    times = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0])  # the first try, which warms up, does not count
    clock = Clock(lambda: next(times), lambda: 0.0)
    rate = matmul_rate(CPU, torch.float32, clock, side=8, tries=2)
    assert rate.wall == pytest.approx(2 * 8**3 / 2.0)
    assert best_rate(Rate(1, 4), Rate(3, 2)) == Rate(3, 4)


def test_differences_are_relative_to_the_largest_entry() -> None:
    ours = torch.tensor([1.0, -4.0])
    assert difference(ours + torch.tensor([0.0, 0.4]), ours) == pytest.approx(0.1)
    assert difference(torch.zeros(2), torch.zeros(2)) == 0
    assert difference(torch.ones(2), torch.zeros(2)) == 1
    for plain in (torch.tensor([1.0, float("nan")]), torch.ones(3)):
        assert difference(plain, ours) != difference(plain, ours)  # not a number
    assert max_or_nan([1.0, 2.0]) == 2
    assert max_or_nan([1.0, float("nan"), 2.0]) != 2


def test_gradients_of_numbers_that_stand_alone_count_as_one_vector() -> None:
    ours = {"a": torch.tensor([1.0]), "b": torch.tensor([-4.0])}
    plain = {"a": torch.tensor([1.2]), "b": torch.tensor([-4.0])}
    assert gradient_difference(plain, ours) == pytest.approx(0.05)


def test_a_small_gradient_counts_as_a_hundredth_of_the_largest() -> None:
    ours = {"a": torch.tensor([10.0, 1.0]), "b": torch.tensor([1e-4, 0.0])}
    plain = {"a": torch.tensor([10.0, 1.0]), "b": torch.tensor([2e-4, 0.0])}
    assert gradient_difference(plain, ours) == pytest.approx(1e-3)
    other = {"a": torch.tensor([10.0, 1.0])}
    assert gradient_difference(other, ours) != gradient_difference(other, ours)
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    assert list(gradients(module)) == ["weight"]
    assert gradients(module)["weight"].abs().max() == 0
