"""How far the results of the plain baseline lie from the library's, relative to their size."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
SMALL = 1e-2
"""A learned tensor's gradient counts as at least this share of the largest one: what hardly moves needs no digits."""


def difference(plain: Tensor, ours: Tensor, *, size: float = 0.0) -> float:
    """The largest difference of two results of one shape, relative to our largest element or to ``size``.

    Not a number where either holds something that is none, or the shapes differ.
    """
    plain, ours = plain.detach().float(), ours.detach().float()
    if plain.shape != ours.shape:
        return math.nan
    apart, largest = float((plain - ours).abs().max()), max(float(ours.abs().max()), size)
    return apart / largest if largest else apart


def gradient_difference(plain: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> float:
    """The largest difference over the gradients of all learned tensors, each relative to its own largest element.

    Learned numbers that stand alone count as one vector: each gradient is a long sum, which may cancel and then has no
    digits of its own.

    Not a number where the learned tensors differ by name.
    """
    if plain.keys() != ours.keys():
        return math.nan
    floor = SMALL * max(float(gradient.abs().max()) for gradient in ours.values())
    alone = max((float(gradient.abs()) for gradient in ours.values() if gradient.numel() == 1), default=0.0)
    return max_or_nan(
        difference(plain[name], gradient, size=max(floor, alone) if gradient.numel() == 1 else floor)
        for name, gradient in ours.items()
    )


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients of the learned tensors by name; zeros where there is none."""
    learned = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in learned.items()}


def max_or_nan(differences: Iterable[float]) -> float:
    """The largest of some differences; not a number if one of them is none (max() would pass over it)."""
    values = list(differences)
    return math.nan if any(math.isnan(value) for value in values) else max(values)
