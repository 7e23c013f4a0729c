"""A cache of class features, so that evaluation encodes the class texts once instead of in every batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfprompt.methods.frozen_features import active_autocast


@dataclass
class _Entry:
    tensors: Mapping[str, Tensor]
    setting: tuple[Any, ...]
    features: Tensor


class ClassFeatureCache:
    """Class features, (C, E), with copies of the tensors that they were computed from.

    Copies are compared by value, not by torch's version counters, which fused optimisers, ``tensor.data`` and other
    libraries do not raise.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def get(self, tensors: Mapping[str, Tensor], weight: Tensor, encode: Callable[[], Tensor]) -> Tensor:
        """Return the features, computed again only if something changed.

        Args:
            tensors: The tensors that the features depend on, by name.
            weight: A weight of the frozen towers; its device and dtype, and the active autocast, count, too.
            encode: Computes the features.
        """
        setting = (weight.device, weight.dtype, active_autocast(weight.device.type))
        entry = self._entry
        if entry is None or entry.setting != setting or not _equal(entry.tensors, tensors):
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            self._entry = entry = _Entry(copies, setting, encode())
        return entry.features


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, first[name]) for name, tensor in second.items())
