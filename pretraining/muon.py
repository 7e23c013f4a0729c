"""Muon (Jordan et al. 2024): momentum that is orthogonalised before the step.

torch.optim.Muon iterates in bfloat16, fifty times slower than float32 on a CPU without bfloat16; this version does not.
The step is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable": 0.2 sqrt(max(rows, columns))).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for matrices, with Nesterov momentum and decoupled weight decay."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                direction = orthogonal(p.grad.lerp(momentum, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrix by a quintic iteration on the singular values."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.t() if tall else x
    for _ in range(steps):
        gram = x @ x.t()
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.t() if tall else x
