"""Relative differences between the results of the plain baseline and the library."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
SMALL = 1e-2
"""Gradient differences are relative to at least this fraction of the largest gradient: tiny ones need no digits."""


def difference(plain: Tensor, ours: Tensor, *, size: float = 0.0) -> float:
    """Return the largest difference of two results, relative to our largest entry or to ``size`` if that is larger.

    NaN if either holds NaN, or the shapes differ.
    """
    plain, ours = plain.detach().float(), ours.detach().float()
    if plain.shape != ours.shape:
        return math.nan
    absolute, scale = float((plain - ours).abs().max()), max(float(ours.abs().max()), size)
    return absolute / scale if scale else absolute


def gradient_difference(plain: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> float:
    """Return the largest difference over the gradients of all trainable tensors, each relative to its largest entry.

    All scalars count as one vector: the gradient of a scalar is a long sum, which loses its digits if it cancels.

    NaN if the trainable tensors have different names.
    """
    if plain.keys() != ours.keys():
        return math.nan
    floor = SMALL * max(float(gradient.abs().max()) for gradient in ours.values())
    scalars = max((float(gradient.abs()) for gradient in ours.values() if gradient.numel() == 1), default=0.0)
    return max_or_nan(
        difference(plain[name], gradient, size=max(floor, scalars) if gradient.numel() == 1 else floor)
        for name, gradient in ours.items()
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the trainable tensors by name; zeros where there is none."""
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trainable.items()}


def max_or_nan(differences: Iterable[float]) -> float:
    """Return the largest difference, or NaN if one of them is NaN (which max() may ignore)."""
    values = list(differences)
    return math.nan if any(math.isnan(value) for value in values) else max(values)
