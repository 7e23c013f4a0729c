"""An exponential moving average of the trainable parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from selfprompt.methods.base import Method


class Ema:
    """``e <- d e + (1 - d) m`` after every optimiser step, starting as a copy of m; no warm-up of d.

    Differs from the reference code (SPT, ``--model_ema``): it also averages the frozen weights, which only adds
    rounding errors.

    Args:
        tensors: The trainable parameters by name, as returned by ``Method.trainable()``.
        decay: d, in (0, 1).
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be between 0 and 1, got {decay}.")
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Update the average after an optimiser step."""
        for name, average in self.average.items():
            average.lerp_(tensors[name], 1 - self.decay)  # exact if a tensor does not change

    @contextmanager
    def applied(self, method: "Method") -> Iterator[None]:
        """Replace the method's trainable parameters by their average inside the context; they are restored exactly."""
        tensors = method.trainable()
        saved = {name: tensors[name].detach().clone() for name in self.average}
        overwrite(tensors, self.average)
        try:
            yield
        finally:
            overwrite(tensors, saved)


@torch.no_grad()
def overwrite(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same names, in place."""
    for name, value in values.items():
        tensors[name].copy_(value)
