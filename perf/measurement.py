"""Measuring cases: compare results, time both contenders in turns, measure memory and arithmetic."""

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
from perf.timing import Clock, Lap, MedianRange, Work, extrapolate, probe_sizes, ratio_range, time_alternately
from selfprompt.inference.artifact import library_versions
from selfprompt.utils.matmul import matmul_path

BUILDERS: dict[str, Callable[[PerfSetup, Size], Contenders]] = {
    "sep-step": clip_cases.sep_step,
    "sep-authors-step": clip_cases.sep_authors_step,
    "sep-text": clip_cases.sep_text,
    "sep-images": clip_cases.sep_images,
    "sep-evaluation": clip_cases.sep_evaluation,
    "coop-text": clip_cases.coop_text,
    "coop-step": clip_cases.coop_step,
    "coop-epoch": clip_cases.coop_epoch,
    "linear-epoch": vit_cases.linear_epoch,
    "spt-step": vit_cases.spt_step,
    "spt-average": vit_cases.spt_average,
    "prototypes": vit_cases.prototypes,
    "kmeans": vit_cases.kmeans,
    "predict": clip_cases.predict,
}
SMALLEST = {"classes": 50, "images": 16}
"""The smallest size to measure a baseline at if the full size does not fit into memory."""
MEMORY_FRACTION = 0.8
"""Fraction of the free memory that a baseline may use."""
MAX_SECONDS = 10.0
"""Seconds that one run of a baseline may take before it is extrapolated from smaller sizes."""


@dataclass(frozen=True)
class TimeBudget:
    """The time to spend on a case.

    Attributes:
        rounds: Minimum number of rounds.
        seconds: Keep adding rounds for this long.
    """

    rounds: int = 3
    seconds: float = 5.0


@dataclass(frozen=True)
class Measurement:
    """The measurement of a case.

    Attributes:
        case: The case.
        differences: Relative differences of the results, by name.
        equal: Whether no difference exceeds the workload's tolerance.
        plain: Throughput of the baseline in images or classes per second of wall time, in the median round.
        ours: Throughput of the library, likewise.
        faster: The baseline's wall time divided by ours, over the rounds.
        faster_cpu: The same for processor time; None on a GPU.
        memory: Bytes by contender: the peak beyond the model, or what is saved for the backward pass per image.
        measured_at: Sizes that the baseline was measured at, if time and memory are extrapolated from them.
        operations: Floating-point operations of one run of ours, without recomputation that saves memory.
        of_peak: Their rate per wall time as a fraction of the machine's peak; None until that is known.
        of_peak_cpu: The same per processor time.
        met: The targets that apply, and whether they are met.
        laps: Seconds of every run, by contender.
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
        """Return the record as JSON values; NaN and infinity become None."""
        result: dict[str, Any] = _json_values({**asdict(self), "name": str(self.case)})
        return result


def build_contenders(setup: PerfSetup, case: Case) -> Contenders:
    """Return the contenders of a case; the library's products take the path of the setup."""
    contenders = BUILDERS[case.workload.name](setup, case.size)

    def ours() -> object:
        with setup.products():
            return contenders.ours()

    return replace(contenders, ours=ours)


def measure_case(
    setup: PerfSetup, case: Case, budget: TimeBudget, on_step: Callable[[str], object] = lambda _: None
) -> Measurement:
    """Measure one case.

    Args:
        setup: Backbones, device and precision.
        case: The case.
        budget: How long to measure.
        on_step: Called with a description of each step.
    """
    on_step("setting up")
    contenders = build_contenders(setup, case)
    on_step("comparing results")
    with setup.products():
        differences = dict(contenders.compare())
    equal = max_or_nan(differences.values()) <= case.workload.tolerance
    on_step("sizing the baseline")
    sizes = baseline_sizes(setup, case, contenders)
    runs: dict[str, Work] = {f"plain at {size}": contenders.plain_at(size) for size in sizes}
    runs["ours"] = contenders.ours
    clock = device_clock(setup.device)
    on_step("timing")
    budget = replace(budget, rounds=1, seconds=0.0) if case.workload.once else budget
    laps = time_alternately(runs, rounds=budget.rounds, seconds=budget.seconds, clock=clock)
    on_step("measuring memory and arithmetic")
    memory = _memory(setup, case, contenders, sizes, runs)
    uncompiled = replace(setup, compile=False)
    operations = necessary_operations(setup, build_contenders(uncompiled, case) if setup.compile else contenders)
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
    """Count the operations of a run of ours without the recomputation that saves memory.

    The method gets half of the free memory for this run, so that it recomputes nothing.
    """
    if contenders.method is None:
        return count_operations(contenders.ours)
    usual = contenders.method.text_cache_bytes
    contenders.method.text_cache_bytes = max(usual, (available_memory(setup.device) or 0) // 2)
    try:
        return count_operations(contenders.ours)
    finally:
        contenders.method.text_cache_bytes = usual


def baseline_sizes(setup: PerfSetup, case: Case, contenders: Contenders) -> tuple[int, ...]:
    """Return the sizes to run the baseline at: the case's, or two smaller ones.

    Smaller sizes are used if the baseline would not fit into memory or take too long; time and memory grow linearly.
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
    fits = probes[1] + (MEMORY_FRACTION * free - needs[1]) / max(1.0, (needs[1] - needs[0]) / smallest)
    short = extrapolate(probes, (seconds[0], seconds[1]), size) <= MAX_SECONDS
    return (size,) if fits >= size and short else probe_sizes(fits, smallest)


def _line(case: Case, sizes: Sequence[int], laps: Sequence[Sequence[Lap]]) -> list[Lap]:
    """Return the baseline's laps at the case's size, extrapolated round by round from smaller sizes if need be."""
    if len(sizes) == 1:
        return list(laps[0])
    size = getattr(case.size, case.workload.grows)
    ends = (sizes[0], sizes[1])
    return [
        Lap(extrapolate(ends, (low.wall, high.wall), size), extrapolate(ends, (low.cpu, high.cpu), size))
        for low, high in zip(*laps, strict=True)
    ]


def _memory(
    setup: PerfSetup, case: Case, contenders: Contenders, sizes: Sequence[int], runs: Mapping[str, Work]
) -> dict[str, int | None]:
    """Measure the memory of both contenders at the case's size."""
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
    size = getattr(case.size, case.workload.grows)
    return {"plain": int(extrapolate((sizes[0], sizes[1]), (known[0], known[1]), size)), "ours": ours}


def _peak(setup: PerfSetup, case: Case, who: str, size: int, run: Work) -> int | None:
    """Measure the peak memory of a contender, in a child process if this one's peak cannot be reset."""
    if setup.device.type == "cuda" or can_reset_peak():
        return peak_memory(run, setup.device)
    return peak_in_child(work_in_child, setup, case, who, size)


def work_in_child(setup: PerfSetup, case: Case, who: str, size: int) -> tuple[Work, Work]:
    """Return what a child process runs: nothing first, then one contender."""
    contenders = build_contenders(setup, case)
    return lambda: None, contenders.ours if who == "ours" else contenders.plain_at(size)


def with_targets(row: Measurement, peak: Rate, setup: PerfSetup) -> Measurement:
    """Fill in the fraction of the machine's matmul rate and the targets that apply."""
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
    """Return whether the targets apply: ViT-B shapes on a CPU in float32."""
    return setup.shape.startswith("ViT-B") and setup.device.type == "cpu" and setup.precision == "32-true"


def targets_met(row: Measurement) -> dict[str, bool]:
    """Return whether each target is met, by name; targets that could not be measured are left out."""
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
    on_step: Callable[[Case, str], object] = lambda case, step: None,
    on_done: Callable[[Measurement], object] = lambda row: None,
) -> dict[str, Any]:
    """Measure cases, and the machine's matmul rate before and after them.

    Args:
        setup: Backbones, device and precision.
        cases: The cases.
        budget: How long to measure each.
        on_step: Called with a case and a description of each step.
        on_done: Called with each measurement, before its fraction of the matmul rate is known.

    Returns:
        ``rows`` (records of ``Measurement``), ``peak`` (matmul rates), ``settings``, ``machine`` and ``versions``.
    """
    clock = device_clock(setup.device)
    rates = matmul_rates(setup, clock)
    rows = []
    for case in cases:
        rows.append(measure_case(setup, case, budget, partial(on_step, case)))
        on_done(rows[-1])
    rates += matmul_rates(setup, clock)
    with setup.products():
        path = matmul_path(setup.device.type)
    peak = best_rate(*rates)
    return {
        "settings": {
            "backbone": setup.shape,
            "device": str(setup.device),
            "precision": setup.precision,
            "compile": setup.compile,
            "float32": path,
            "threads": torch.get_num_threads(),
            "targets_hold": targets_hold(setup),
            **asdict(budget),
        },
        "machine": machine(setup.device),
        "versions": library_versions(),
        "peak": {"first": asdict(rates[0]), "last": asdict(rates[-1]), "best": asdict(peak)},
        "rows": [with_targets(row, peak, setup).to_json() for row in rows],
    }


def matmul_rates(setup: PerfSetup, clock: Clock) -> list[Rate]:
    """Return the machine's rate on torch's default path, and on that of the library."""
    default = matmul_rate(setup.device, setup.dtype, clock)
    with setup.products():
        return [default, matmul_rate(setup.device, setup.dtype, clock)]


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, load and GPU."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = models[0] if models else cpu
    return {
        "system": platform.platform(terse=True),
        "processor": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "free_memory": available_memory(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def _json_values(value: Any) -> Any:
    """Convert nested values to JSON values, which have no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {str(key): _json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
