"""Training utilities: progress and learning rate, optimisers, checkpoints, log."""

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretraining.muon import Muon
from pretraining.parallel import average_gradients


@dataclass
class Clock:
    """Progress of a training, counted in samples, so that a slow machine only takes longer.

    Attributes:
        samples: Total number of samples.
        batch: Samples per step, over all processes.
        level: Fraction of the steps after which the learning rates start to fall.
        step: Steps done.
        seconds: Seconds of earlier sessions.
        began: Start of this session on the monotonic clock.
    """

    samples: int
    batch: int
    level: float = 0.0
    step: int = 0
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.samples // self.batch

    @property
    def part(self) -> float:
        """Fraction of the steps done, in [0, 1]."""
        return self.step / self.steps

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Factor of the learning rates: warm-up over 3 % of the steps, constant, then a cosine to 0."""
        warm = min(1.0, (self.step + 1) / max(1, 0.03 * self.steps))
        falling = max(0.0, self.part - self.level) / (1 - self.level)
        return warm * 0.5 * (1 + math.cos(math.pi * falling))


class Optimizers:
    """Muon for the matrices of blocks, which trains several times faster here, and AdamW for the rest."""

    def __init__(self, modules: Iterable[nn.Module], lr: float, muon_lr: float, weight_decay: float) -> None:
        named = [item for module in modules for item in module.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and "blocks" in name and p.requires_grad]
        inside = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in inside and p.requires_grad]
        self.parameters = [*matrices, *others]
        groups = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._all: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98)), lr),
            (Muon(matrices, lr=muon_lr, weight_decay=weight_decay), muon_lr),
        ]

    def step(self, rate: float) -> None:
        """Average gradients over processes, clip them, make one step, and clear them."""
        average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, lr in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """Return the state for a checkpoint."""
        return [optimizer.state_dict() for optimizer, _ in self._all]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Load the state of a checkpoint."""
        for (optimizer, _), saved in zip(self._all, state, strict=True):
            optimizer.load_state_dict(saved)


def save(
    path: Path, clock: Clock, optimizers: Optimizers, tensors: Mapping[str, Any], log: list[dict[str, Any]]
) -> None:
    """Write a checkpoint atomically, and the log next to it."""
    done = {"samples": clock.step * clock.batch, "seconds": clock.elapsed}
    state = {**done, "optimizers": optimizers.state(), "log": log, **tensors}
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)
    path.with_suffix(".log.json").write_text(json.dumps(log, indent=1))


def resume(path: Path, clock: Clock, optimizers: Optimizers) -> dict[str, Any] | None:
    """Load a checkpoint if it exists and return its state."""
    if not path.is_file():
        return None
    state = torch.load(path, weights_only=True)
    clock.step = state["samples"] // clock.batch  # the batch size may have changed
    clock.seconds, clock.began = state["seconds"], time.monotonic()
    optimizers.load(state["optimizers"])
    return state


class Average:
    """Mean of each logged value since the last read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, **values: Tensor) -> None:
        """Add the values of a step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().cpu()
        self._count += 1

    def read(self) -> dict[str, float]:
        """Return the means and reset."""
        means = {name: round(float(total) / self._count, 4) for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
