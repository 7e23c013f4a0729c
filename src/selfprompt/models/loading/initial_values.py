"""How models get their initial values: from a fixed seed, or not at all where a file replaces them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SEED = 0
_FILLS = {
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_),
    Tensor.erfinv_,  # makes a truncated normal distribution of a uniform one
}


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global random state, the only one that the libraries draw weights from, and restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


@contextmanager
def unfilled() -> Iterator[None]:
    """Leave tensors as they are in memory where they would be filled at random, and keep the global random state.

    For models all of whose weights are read from a file: drawing values for a ViT-B/16 takes longer than reading them.
    Masks, tables of positions and other constants are computed as usual.
    """
    with seeded(), _WithoutFills():
        yield


class _WithoutFills(TorchFunctionMode):
    """Returns tensors unchanged that would be filled at random. A dispatch mode would import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
