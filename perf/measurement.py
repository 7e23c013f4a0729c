"""Measures rows: results compared, contenders timed by turns, memory and arithmetic; gives records that JSON takes."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from perf import clip_cases, vit_cases
from perf.arithmetic import Rate, best_rate, count_operations, device_clock, matmul_rate
from perf.cases import Case, Size
from perf.compare import max_or_nan
from perf.memory import available_memory, can_reset_peak, peak_in_child, peak_memory
from perf.setup import Contenders, PerfSetup
from perf.timing import Lap, MedianRange, Work, extrapolate, probe_sizes, ratio_range, time_alternately
from selfprompt.inference.artifact import library_versions

BUILDERS: dict[str, Callable[[PerfSetup, Size], Contenders]] = {
    "sep-step": clip_cases.sep_step,
    "sep-authors-step": clip_cases.sep_authors_step,
    "sep-text": clip_cases.sep_text,
    "sep-images": clip_cases.sep_images,
    "sep-evaluation": clip_cases.sep_evaluation,
    "coop-text": clip_cases.coop_text,
    "coop-epoch": clip_cases.coop_epoch,
    "linear-epoch": vit_cases.linear_epoch,
    "spt-step": vit_cases.spt_step,
    "spt-average": vit_cases.spt_average,
    "prototypes": vit_cases.prototypes,
    "kmeans": vit_cases.kmeans,
    "predict": clip_cases.predict,
}
SMALLEST = {"classes": 50, "images": 16}
"""The smallest size at which a baseline is measured that does not fit into memory at its own."""
SHARE = 0.8
"""Of the free memory, what a baseline may take."""
LONGEST = 10.0
"""Seconds that one run of a growing baseline may take."""


@dataclass(frozen=True)
class TimeBudget:
    """How long to measure.

    Attributes:
        rounds: Rounds at least.
        seconds: Go on with further rounds of a row for so long.
    """

    rounds: int = 3
    seconds: float = 5.0


@dataclass(frozen=True)
class Measurement:
    """What was measured of an case.

    Attributes:
        differences: Of the results, by name, relative to their size.
        equal: Whether none is above the case's tolerance.
        plain, ours: Units a second, by the wall clock, of the median round.
        faster: Plain wall time divided by ours, over the rounds.
        faster_cpu: The same of the processors' time; None on a GPU, whose work it does not count.
        memory: Bytes at the peak beyond the model, or kept for the backward pass for an image, by contender.
        measured_at: Sizes at which the plain baseline was run, where that is not its own: time and memory are
            then on the straight line through them.
        operations: Floating-point operations of one run of ours, without what is computed again to save memory.
        of_peak, of_peak_cpu: Their rate by either time as a share of the machine's; None until that is known.
        met: The targets that hold here, and whether they are reached.
        laps: Seconds of every run by contender: pairs of wall and processor time.
    """

    case: Case
    differences: Mapping[str, float]
    equal: bool
    plain: float
    ours: float
    faster: MedianRange
    faster_cpu: MedianRange | None
    memory: Mapping[str, int | None]
    measured_at: tuple[int, ...]
    operations: int
    of_peak: float | None
    of_peak_cpu: float | None
    met: Mapping[str, bool]
    laps: Mapping[str, Sequence[Lap]]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; what is no number is None."""
        return _plain({**asdict(self), "name": str(self.case)})


def measure_case(
    setup: PerfSetup, case: Case, budget: TimeBudget, tell: Callable[[str], object] = lambda _: None
) -> Measurement:
    """Measure one row.

    Args:
        setup: Where it is set up.
        case: What to measure.
        budget: How long.
        tell: Called with what is being done.
    """
    tell("setting up")
    build = BUILDERS[case.workload.name]
    contenders = build(setup, case.size)
    tell("comparing results")
    differences = dict(contenders.compare())
    equal = max_or_nan(differences.values()) <= case.workload.tolerance
    tell("looking how large the baseline is")
    sizes = baseline_sizes(setup, case, contenders)
    runs: dict[str, Work] = {f"plain at {size}": contenders.plain_at(size) for size in sizes}
    runs["ours"] = contenders.ours
    clock = device_clock(setup.device)
    tell("timing")
    budget = replace(budget, rounds=1, seconds=0.0) if case.workload.once else budget
    laps = time_alternately(runs, rounds=budget.rounds, seconds=budget.seconds, clock=clock)
    tell("memory and arithmetic")
    memory = _memory(setup, case, contenders, sizes, runs)
    uncompiled = replace(setup, compile=False)
    operations = necessary_operations(setup, build(uncompiled, case.size) if setup.compile else contenders)
    own, plain = laps["ours"], _line(case, sizes, [laps[name] for name in runs if name != "ours"])
    faster = ratio_range([one.wall for one in plain], [one.wall for one in own])
    on_cpu = setup.device.type == "cpu"
    wall = MedianRange.of([one.wall for one in own]).median
    return Measurement(
        case=case,
        differences=differences,
        equal=equal,
        plain=contenders.count / MedianRange.of([one.wall for one in plain]).median,
        ours=contenders.count / wall,
        faster=faster,
        faster_cpu=ratio_range([one.cpu for one in plain], [one.cpu for one in own]) if on_cpu else None,
        memory=memory,
        measured_at=sizes if len(sizes) > 1 else (),
        operations=operations,
        of_peak=None,
        of_peak_cpu=None,
        met={},
        laps=laps,
    )


def necessary_operations(setup: PerfSetup, contenders: Contenders) -> int:
    """Floating-point operations of a run of ours, without what it computes again to save memory.

    That is counted by giving it half of the free memory for once.
    """
    if contenders.method is None:
        return count_operations(contenders.ours)
    usual = contenders.method.memory
    contenders.method.memory = max(usual, (available_memory(setup.device) or 0) // 2)
    try:
        return count_operations(contenders.ours)
    finally:
        contenders.method.memory = usual


def baseline_sizes(setup: PerfSetup, case: Case, contenders: Contenders) -> tuple[int, ...]:
    """The sizes at which the plain baseline is run: the case's own, or two smaller ones.

    Smaller ones where it would not fit into memory, or take too long: its time and memory grow on straight lines.
    """
    grows = case.workload.grows
    if not grows:
        return (0,)
    size, smallest = getattr(case.size, grows), SMALLEST[grows]
    if size <= 2 * smallest:
        return (size,)
    probes = (smallest, 2 * smallest)
    needs, seconds = [], []
    for probe in probes:
        run, start = contenders.plain_at(probe), time.perf_counter()
        needs.append(_peak(setup, case, "plain", probe, run))
        seconds.append(time.perf_counter() - start)
    free = available_memory(setup.device)
    if needs[0] is None or needs[1] is None or free is None:
        return probes
    fits = probes[1] + (SHARE * free - needs[1]) / max(1.0, (needs[1] - needs[0]) / smallest)
    short = extrapolate(probes, (seconds[0], seconds[1]), size) <= LONGEST
    return (size,) if fits >= size and short else probe_sizes(fits, smallest)


def _line(case: Case, sizes: Sequence[int], laps: Sequence[Sequence[Lap]]) -> list[Lap]:
    """The plain laps at the case's own size, round by round."""
    if len(sizes) == 1:
        return list(laps[0])
    wanted = getattr(case.size, case.workload.grows)
    ends = (sizes[0], sizes[1])
    return [
        Lap(extrapolate(ends, (low.wall, high.wall), wanted), extrapolate(ends, (low.cpu, high.cpu), wanted))
        for low, high in zip(*laps, strict=True)
    ]


def _memory(
    setup: PerfSetup, case: Case, contenders: Contenders, sizes: Sequence[int], runs: Mapping[str, Work]
) -> dict[str, int | None]:
    """Memory of both contenders at the case's size."""
    if case.workload.memory == "activations":
        assert contenders.activations is not None
        return dict(contenders.activations())
    ours = _peak(setup, case, "ours", 0, runs["ours"])
    plain = [_peak(setup, case, "plain", size, runs[f"plain at {size}"]) for size in sizes]
    known = [value for value in plain if value is not None]
    if len(known) < len(sizes):
        return {"plain": None, "ours": ours}
    if len(sizes) == 1:
        return {"plain": known[0], "ours": ours}
    wanted = getattr(case.size, case.workload.grows)
    return {"plain": int(extrapolate((sizes[0], sizes[1]), (known[0], known[1]), wanted)), "ours": ours}


def _peak(setup: PerfSetup, case: Case, who: str, size: int, run: Work) -> int | None:
    """Peak memory of a contender, here or, where the account cannot be reset, in a process of its own."""
    if setup.device.type == "cuda" or can_reset_peak():
        return peak_memory(run, setup.device)
    return peak_in_child(work_in_child, setup, case, who, size)


def work_in_child(setup: PerfSetup, case: Case, who: str, size: int) -> tuple[Work, Work]:
    """What a process of its own runs: nothing before, then one contender."""
    contenders = BUILDERS[case.workload.name](setup, case.size)
    return lambda: None, contenders.ours if who == "ours" else contenders.plain_at(size)


def with_targets(row: Measurement, peak: Rate, setup: PerfSetup) -> Measurement:
    """The row with its share of the machine's matmul rate, and the targets that hold here."""
    wall = MedianRange.of([one.wall for one in row.laps["ours"]]).median
    cpu = MedianRange.of([one.cpu for one in row.laps["ours"]]).median
    on_cpu = setup.device.type == "cpu"
    row = replace(
        row,
        of_peak=row.operations / wall / peak.wall,
        of_peak_cpu=row.operations / cpu / peak.cpu if on_cpu and cpu else None,
    )
    return replace(row, met=targets_met(row) if targets_hold(setup) else {})


def targets_hold(setup: PerfSetup) -> bool:
    """Whether the targets were set for what is measured: ViT-B's shapes on a CPU in float32."""
    return setup.shape.startswith("ViT-B") and setup.device.type == "cpu" and setup.precision == "32-true"


def targets_met(row: Measurement) -> dict[str, bool]:
    """Each target of the row by name, and whether it is reached; one that could not be measured is left out."""
    target, plain, ours = row.case.target, row.memory["plain"], row.memory["ours"]
    met = {}
    if target.faster is not None:
        met["faster"] = row.faster.median >= target.faster
    if target.memory is not None and plain and ours is not None:
        met["memory"] = ours / plain <= target.memory
    if target.megabytes is not None and ours is not None:
        met["megabytes"] = ours / 1e6 <= target.megabytes
    if target.of_peak is not None and row.of_peak is not None:
        met["of_peak"] = row.of_peak >= target.of_peak
    return met


def measure_cases(
    setup: PerfSetup,
    cases: Sequence[Case],
    budget: TimeBudget,
    *,
    tell: Callable[[Case, str], object] = lambda case, doing: None,
    done: Callable[[Measurement], object] = lambda row: None,
) -> dict[str, Any]:
    """Measure rows, and the machine's matmul rate before and after them.

    Args:
        setup: Where they are set up.
        cases: What to measure.
        budget: How long, each.
        tell: Called with what is being done.
        done: Called with each finished row, before its share of the matmul rate is known.

    Returns:
        ``rows``: records of ``Measurement``; ``peak``: matmul rates; ``settings``, ``machine`` and ``versions``.
    """
    clock = device_clock(setup.device)
    rates = [matmul_rate(setup.device, setup.dtype, clock)]
    rows = []
    for case in cases:
        rows.append(measure_case(setup, case, budget, partial(tell, case)))
        done(rows[-1])
    rates.append(matmul_rate(setup.device, setup.dtype, clock))
    peak = best_rate(*rates)
    return {
        "settings": {
            "backbone": setup.shape,
            "device": str(setup.device),
            "precision": setup.precision,
            "compile": setup.compile,
            "threads": torch.get_num_threads(),
            "targets_hold": targets_hold(setup),
            **asdict(budget),
        },
        "machine": machine(setup.device),
        "versions": library_versions(),
        "peak": {"first": asdict(rates[0]), "last": asdict(rates[-1]), "best": asdict(peak)},
        "rows": [with_targets(row, peak, setup).to_json() for row in rows],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, cores, memory, load and GPU."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        named = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = named[0] if named else cpu
    return {
        "system": platform.platform(terse=True),
        "processor": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "free_memory": available_memory(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def _plain(value: Any) -> Any:
    """Plain values all the way down; JSON knows no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
