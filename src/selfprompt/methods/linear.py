"""Linear probe: a linear layer on frozen features."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class LinearOptions:
    """Options of the linear probe."""

    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg, patches, or unprojected (before a CLIP's projection)."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights."""


class Linear(Method[LinearOptions]):
    """``logits = W f + b`` on frozen features f."""

    Options = LinearOptions

    @classmethod
    def traits_for(cls, options: LinearOptions) -> Traits:
        return Traits(inputs="features", pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        self.head = linear_head(self.feature_size, len(self.classes), std=self.options.head_std, generator=generator)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.frozen_features(views))
