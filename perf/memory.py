"""Peak memory of a piece of work by the operating system's account, and how much there is; torch's only on a GPU."""

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
    """Bytes that a run needs at its peak beyond what the process holds before it; None where nobody tells.

    On Linux: VmHWM, which is reset before, minus VmRSS before, after freed pages were given back. On a GPU: torch's own
    account, for the driver keeps none by process that could be reset.
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
    """Whether this system resets the peak of a running process (Linux, unless a sandbox hides it)."""
    return STATUS.exists() and os.access(CLEAR, os.W_OK) and "VmHWM:" in STATUS.read_text()


def release_freed_pages() -> None:
    """Return freed pages to the system, where the C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _status(name: str) -> int:
    """A size of this process in bytes."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def peak_in_child(work: Callable[..., tuple[Callable[[], object], ...]], *arguments: Any) -> int | None:
    """The same for systems that cannot reset the peak: a child process that does this work and nothing else.

    Args:
        work: Importable by name; called with the arguments it gives what to run: first that whose memory does not
            count, then that whose does.

    Returns:
        Growth of the child's greatest resident size; None without ``resource`` (Windows), or if the child fails.
    """
    if sys.platform == "win32":
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (work, arguments))


def _growth(work: Callable[..., tuple[Callable[[], object], ...]], arguments: tuple[Any, ...]) -> int:
    before, counted = work(*arguments)
    before()
    start = _greatest()
    counted()
    return _greatest() - start


def _greatest() -> int:
    """This process's greatest resident size so far, in bytes."""
    if STATUS.exists():
        return _status("VmHWM")  # on Linux ru_maxrss begins with what the parent had
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take; None where nobody tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(1024 * int(lines["MemAvailable"].split()[0]))
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        found.append(int(limit) - int((group / "memory.current").read_text()))
    if not found and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(found, default=None)


@contextmanager
def saved_for_backward(*without: nn.Module) -> Iterator[dict[int, int]]:
    """Counts what autograd keeps for the backward pass, each storage once, parameters left out.

    Args:
        without: Modules whose parameters and buffers do not count.

    Yields:
        Bytes by the address of the storage.
    """
    known = {t.untyped_storage().data_ptr() for module in without for t in [*module.parameters(), *module.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
