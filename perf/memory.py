"""Peak and available memory as reported by the operating system, and by torch on a GPU."""

import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Return the peak memory of a run in bytes, beyond what the process held before; None if it cannot be measured.

    On Linux this is VmHWM, reset before the run, minus VmRSS before the run, after freed pages were returned to the
    system. On a GPU it comes from torch, because the driver's per-process account cannot be reset.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not can_reset_peak():
        return None
    release_freed_pages()
    CLEAR.write_text(RESET_PEAK)
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def can_reset_peak() -> bool:
    """Return whether the peak of a running process can be reset (on Linux, unless a sandbox hides it)."""
    return STATUS.exists() and os.access(CLEAR, os.W_OK) and "VmHWM:" in STATUS.read_text()


def release_freed_pages() -> None:
    """Return freed pages to the system, if the C library supports it (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    """Read a memory size of this process, in bytes."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def peak_in_child(work: Callable[..., tuple[Callable[[], object], ...]], *arguments: Any) -> int | None:
    """Measure peak memory in a child process, for systems that cannot reset the peak.

    Args:
        work: A function that can be imported by name. Called with the arguments, it returns two runs: one whose memory
            does not count, then the one to measure.

    Returns:
        Growth of the child's peak resident size in bytes; None on Windows, which lacks ``resource``.
    """
    if sys.platform == "win32":
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (work, arguments))


def _growth(work: Callable[..., tuple[Callable[[], object], ...]], arguments: tuple[Any, ...]) -> int:
    before, counted = work(*arguments)
    before()
    start = _peak_resident()
    counted()
    return _peak_resident() - start


def _peak_resident() -> int:
    """Return this process's peak resident size so far, in bytes."""
    if STATUS.exists():
        return _status("VmHWM")  # on Linux ru_maxrss starts at the parent's value
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that this process may still allocate; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        limits.append(int(limit) - int((group / "memory.current").read_text()))
    if not limits and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(limits, default=None)


@contextmanager
def saved_for_backward(*without: nn.Module) -> Iterator[dict[int, int]]:
    """Record what autograd saves for the backward pass, each storage once and without parameters.

    Args:
        without: Modules whose parameters and buffers do not count.

    Yields:
        A dict of bytes by storage address, filled during the context.
    """
    known = {t.untyped_storage().data_ptr() for module in without for t in [*module.parameters(), *module.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
