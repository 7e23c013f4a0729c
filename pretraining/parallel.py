"""Data-parallel training on several processes: each takes a part of the batch, gradients are averaged."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# glibc returns large blocks to the system and requests them again at every step, a fifth of the time; keep them.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}


def run_ranks(work: Callable[..., None], ranks: int, *arguments: Any) -> None:
    """Run ``work(rank, ranks, *arguments)`` in processes of one thread each; in this process if there is one rank."""
    if ranks == 1:
        work(0, 1, *arguments)
        return
    os.environ.update(_KEEP_MEMORY)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29512")
    torch.multiprocessing.spawn(_rank, (ranks, work, arguments), nprocs=ranks)


def _rank(rank: int, ranks: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    work(rank, ranks, *arguments)
    dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes, if there are several."""
    if not dist.is_initialized():
        return
    with_gradient = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in with_gradient])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, part in zip(with_gradient, flat.split([p.numel() for p in with_gradient]), strict=True):
        p.grad.copy_(part.view_as(p.grad))
