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
from perf.arithmetic import Rate, best, count_operations, device_clock, matmul_rate
from perf.cases import Entry, Size
from perf.compare import worst
from perf.measure import Lap, Run, Spread, alternate, anchors, extrapolated, ratios
from perf.memory import account_can_be_reset, available_memory, peak_in_child, peak_memory
from perf.setup import Pair, PerfSetup
from selfprompt.inference.artifact import versions

BUILDERS: dict[str, Callable[[PerfSetup, Size], Pair]] = {
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
class Effort:
    """How long to measure.

    Attributes:
        rounds: Rounds at least.
        seconds: Go on with further rounds of a row for so long.
    """

    rounds: int = 3
    seconds: float = 5.0


@dataclass(frozen=True)
class Row:
    """What was measured of an entry.

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

    entry: Entry
    differences: Mapping[str, float]
    equal: bool
    plain: float
    ours: float
    faster: Spread
    faster_cpu: Spread | None
    memory: Mapping[str, int | None]
    measured_at: tuple[int, ...]
    operations: int
    of_peak: float | None
    of_peak_cpu: float | None
    met: Mapping[str, bool]
    laps: Mapping[str, Sequence[Lap]]

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; what is no number is None."""
        return _plain({**asdict(self), "name": str(self.entry)})


def measure(lab: PerfSetup, entry: Entry, effort: Effort, tell: Callable[[str], object] = lambda _: None) -> Row:
    """Measure one row.

    Args:
        lab: Where it is set up.
        entry: What to measure.
        effort: How long.
        tell: Called with what is being done.
    """
    tell("setting up")
    build = BUILDERS[entry.case.name]
    pair = build(lab, entry.size)
    tell("comparing results")
    differences = dict(pair.compare())
    equal = worst(differences.values()) <= entry.case.tolerance
    tell("looking how large the baseline is")
    sizes = baseline_sizes(lab, entry, pair)
    contenders: dict[str, Run] = {f"plain at {size}": pair.plain_at(size) for size in sizes}
    contenders["ours"] = pair.ours
    clock = device_clock(lab.device)
    tell("timing")
    effort = replace(effort, rounds=1, seconds=0.0) if entry.case.once else effort
    laps = alternate(contenders, rounds=effort.rounds, seconds=effort.seconds, clock=clock)
    tell("memory and arithmetic")
    memory = _memory(lab, entry, pair, sizes, contenders)
    operations = necessary_operations(lab, build(replace(lab, compile=False), entry.size) if lab.compile else pair)
    own, plain = laps["ours"], _line(entry, sizes, [laps[name] for name in contenders if name != "ours"])
    faster = ratios([one.wall for one in plain], [one.wall for one in own])
    on_cpu = lab.device.type == "cpu"
    wall = Spread.of([one.wall for one in own]).median
    return Row(
        entry=entry,
        differences=differences,
        equal=equal,
        plain=pair.count / Spread.of([one.wall for one in plain]).median,
        ours=pair.count / wall,
        faster=faster,
        faster_cpu=ratios([one.cpu for one in plain], [one.cpu for one in own]) if on_cpu else None,
        memory=memory,
        measured_at=sizes if len(sizes) > 1 else (),
        operations=operations,
        of_peak=None,
        of_peak_cpu=None,
        met={},
        laps=laps,
    )


def necessary_operations(lab: PerfSetup, pair: Pair) -> int:
    """Floating-point operations of a run of ours, without what it computes again to save memory.

    That is counted by giving it half of the free memory for once.
    """
    if pair.method is None:
        return count_operations(pair.ours)
    usual = pair.method.memory
    pair.method.memory = max(usual, (available_memory(lab.device) or 0) // 2)
    try:
        return count_operations(pair.ours)
    finally:
        pair.method.memory = usual


def baseline_sizes(lab: PerfSetup, entry: Entry, pair: Pair) -> tuple[int, ...]:
    """The sizes at which the plain baseline is run: the entry's own, or two smaller ones.

    Smaller ones where it would not fit into memory, or take too long: its time and memory grow on straight lines.
    """
    grows = entry.case.grows
    if not grows:
        return (0,)
    size, smallest = getattr(entry.size, grows), SMALLEST[grows]
    if size <= 2 * smallest:
        return (size,)
    probes = (smallest, 2 * smallest)
    needs, seconds = [], []
    for probe in probes:
        run, start = pair.plain_at(probe), time.perf_counter()
        needs.append(_peak(lab, entry, "plain", probe, run))
        seconds.append(time.perf_counter() - start)
    free = available_memory(lab.device)
    if needs[0] is None or needs[1] is None or free is None:
        return probes
    fits = probes[1] + (SHARE * free - needs[1]) / max(1.0, (needs[1] - needs[0]) / smallest)
    short = extrapolated(probes, (seconds[0], seconds[1]), size) <= LONGEST
    return (size,) if fits >= size and short else anchors(fits, smallest)


def _line(entry: Entry, sizes: Sequence[int], laps: Sequence[Sequence[Lap]]) -> list[Lap]:
    """The plain laps at the entry's own size, round by round."""
    if len(sizes) == 1:
        return list(laps[0])
    wanted = getattr(entry.size, entry.case.grows)
    ends = (sizes[0], sizes[1])
    return [
        Lap(extrapolated(ends, (low.wall, high.wall), wanted), extrapolated(ends, (low.cpu, high.cpu), wanted))
        for low, high in zip(*laps, strict=True)
    ]


def _memory(
    lab: PerfSetup, entry: Entry, pair: Pair, sizes: Sequence[int], contenders: Mapping[str, Run]
) -> dict[str, int | None]:
    """Memory of both contenders at the entry's size."""
    if entry.case.memory == "activations":
        assert pair.activations is not None
        return dict(pair.activations())
    ours = _peak(lab, entry, "ours", 0, contenders["ours"])
    plain = [_peak(lab, entry, "plain", size, contenders[f"plain at {size}"]) for size in sizes]
    known = [value for value in plain if value is not None]
    if len(known) < len(sizes):
        return {"plain": None, "ours": ours}
    if len(sizes) == 1:
        return {"plain": known[0], "ours": ours}
    wanted = getattr(entry.size, entry.case.grows)
    return {"plain": int(extrapolated((sizes[0], sizes[1]), (known[0], known[1]), wanted)), "ours": ours}


def _peak(lab: PerfSetup, entry: Entry, who: str, size: int, run: Run) -> int | None:
    """Peak memory of a contender, here or, where the account cannot be reset, in a process of its own."""
    if lab.device.type == "cuda" or account_can_be_reset():
        return peak_memory(run, lab.device)
    return peak_in_child(in_child, lab, entry, who, size)


def in_child(lab: PerfSetup, entry: Entry, who: str, size: int) -> tuple[Run, Run]:
    """What a process of its own runs: nothing before, then one contender."""
    pair = BUILDERS[entry.case.name](lab, entry.size)
    return lambda: None, pair.ours if who == "ours" else pair.plain_at(size)


def judged(row: Row, peak: Rate, lab: PerfSetup) -> Row:
    """The row with its share of the machine's matmul rate, and the targets that hold here."""
    wall = Spread.of([one.wall for one in row.laps["ours"]]).median
    cpu = Spread.of([one.cpu for one in row.laps["ours"]]).median
    on_cpu = lab.device.type == "cpu"
    row = replace(
        row,
        of_peak=row.operations / wall / peak.wall,
        of_peak_cpu=row.operations / cpu / peak.cpu if on_cpu and cpu else None,
    )
    return replace(row, met=targets_met(row) if targets_hold(lab) else {})


def targets_hold(lab: PerfSetup) -> bool:
    """Whether the targets were set for what is measured: ViT-B's shapes on a CPU in float32."""
    return lab.shape.startswith("ViT-B") and lab.device.type == "cpu" and lab.precision == "32-true"


def targets_met(row: Row) -> dict[str, bool]:
    """Each target of the row by name, and whether it is reached; one that could not be measured is left out."""
    target, plain, ours = row.entry.target, row.memory["plain"], row.memory["ours"]
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


def measure_all(
    lab: PerfSetup,
    entries: Sequence[Entry],
    effort: Effort,
    *,
    tell: Callable[[Entry, str], object] = lambda entry, doing: None,
    done: Callable[[Row], object] = lambda row: None,
) -> dict[str, Any]:
    """Measure rows, and the machine's matmul rate before and after them.

    Args:
        lab: Where they are set up.
        entries: What to measure.
        effort: How long, each.
        tell: Called with what is being done.
        done: Called with each finished row, before its share of the matmul rate is known.

    Returns:
        ``rows``: records of ``Row``; ``peak``: matmul rates; ``settings``, ``machine`` and ``versions``: how and where.
    """
    clock = device_clock(lab.device)
    rates = [matmul_rate(lab.device, lab.dtype, clock)]
    rows = []
    for entry in entries:
        rows.append(measure(lab, entry, effort, partial(tell, entry)))
        done(rows[-1])
    rates.append(matmul_rate(lab.device, lab.dtype, clock))
    peak = best(*rates)
    return {
        "settings": {
            "backbone": lab.shape,
            "device": str(lab.device),
            "precision": lab.precision,
            "compile": lab.compile,
            "threads": torch.get_num_threads(),
            "targets_hold": targets_hold(lab),
            **asdict(effort),
        },
        "machine": machine(lab.device),
        "versions": versions(),
        "peak": {"first": asdict(rates[0]), "last": asdict(rates[-1]), "best": asdict(peak)},
        "rows": [judged(row, peak, lab).to_json() for row in rows],
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
