"""Full fine-tuning: all weights of a copy of the vision tower, and a linear head."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class FullOptions:
    """Options of full fine-tuning."""

    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg or patches."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights."""


class Full(Method[FullOptions]):
    """``logits = W f + b``; all weights of a copy of the tower are trained, without dropout or drop path.

    The given backbone is not changed.
    """

    Options = FullOptions

    @classmethod
    def traits_for(cls, options: FullOptions) -> Traits:
        return Traits(pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        self.vision = copy.deepcopy(self.backbone.vision).requires_grad_(True)
        self.head = linear_head(self.feature_size, len(self.classes), std=self.options.head_std, generator=generator)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.vision(views.pixels, pooling=self.pooling))
