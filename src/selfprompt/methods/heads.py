"""What stands behind the pooled features: linear classifiers and their starts, unit vectors, the pooling choice."""

import math
from typing import get_args

import torch
from torch import Tensor, nn

from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.tower import Pooling


def linear_head(inputs: int, classes: int, *, std: float, generator: torch.Generator) -> nn.Linear:
    """A classifier with normal weights of that std and zero bias (SPT's head: 0.02, for MoCo-v3 0.01)."""
    head = nn.Linear(inputs, classes)
    nn.init.normal_(head.weight, std=std, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def rare_class_head(inputs: int, classes: int, *, generator: torch.Generator) -> nn.Linear:
    """VPT's classifier: Kaiming-normal (fan-out) weights and a bias of -log(99), as if each class were rare."""
    head = nn.Linear(inputs, classes)
    nn.init.kaiming_normal_(head.weight, a=0, mode="fan_out", generator=generator)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def linear_layer(inputs: int, outputs: int, *, generator: torch.Generator) -> nn.Linear:
    """A layer as PyTorch starts it, but from a generator: weights and bias uniform in +-1 / sqrt(inputs)."""
    layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def pooling_for(option: str, backbone: Backbone) -> Pooling:
    """The pooling that an option names; "auto" is what suits the backbone (MAE: average; others: their own).

    Raises:
        ValueError: If there is no such pooling.
    """
    if option == "auto":
        return backbone.pooling
    if option not in get_args(Pooling):
        raise ValueError(f"pooling must be auto, {', '.join(get_args(Pooling))}; got {option!r}.")
    return option  # type: ignore[return-value]
