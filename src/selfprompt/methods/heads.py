"""Linear heads and their initialisation, unit vectors, and the choice of pooling."""

import math
from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor, nn

from selfprompt.methods.traits import Traits
from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.tower import Pooling


class Linear(nn.Linear):
    """``nn.Linear`` with a typed result."""

    __call__: Callable[..., Tensor]


def linear_head(inputs: int, classes: int, *, std: float, generator: torch.Generator) -> Linear:
    """Return a classifier with weights from N(0, std^2) and zero bias (SPT: 0.02, for MoCo-v3 0.01)."""
    head = Linear(inputs, classes)
    nn.init.normal_(head.weight, std=std, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def rare_class_head(inputs: int, classes: int, *, generator: torch.Generator) -> Linear:
    """Return VPT's classifier: Kaiming-normal (fan-out) weights and bias -log(99), a prior of 0.01 for each class."""
    head = Linear(inputs, classes)
    nn.init.kaiming_normal_(head.weight, a=0, mode="fan_out", generator=generator)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def linear_layer(inputs: int, outputs: int, *, generator: torch.Generator) -> Linear:
    """Return a layer with PyTorch's initialisation from a generator: weights and bias uniform in +-1 / sqrt(inputs)."""
    layer = Linear(inputs, outputs)
    bound = inputs**-0.5
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def unit(vectors: Tensor) -> Tensor:
    """Normalise vectors to length 1 along the last axis."""
    result: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return result


def pooling_for(traits: Traits, backbone: Backbone) -> Pooling:
    """Return the pooling that the traits name; "auto" is the backbone's default (MAE: average; others: native).

    Raises:
        ValueError: If there is no such pooling, the vision tower does not have it, or its features cannot be compared
            with class texts.
    """
    option, known = traits.pooling, get_args(Pooling)
    if option not in ("auto", *known):
        raise ValueError(f"pooling must be auto, {', '.join(known)}; got {option!r}.")
    if traits.needs_text and option not in ("native", "unprojected"):  # ProLIP projects the latter itself
        raise ValueError(f"Class texts are compared with image features of the pooling native, got {option!r}.")
    pooling: Pooling = backbone.pooling if option == "auto" else option  # type: ignore[assignment]
    backbone.vision.check_pooling(pooling)
    return pooling
