"""CLIP-LoRA: low-rank updates of the q, k and v projections in every block of both CLIP towers."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import PHOTO, check_template, filled_templates
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.low_rank import LowRankUpdates


@dataclass(frozen=True)
class CLIPLoRAOptions:
    """Options of CLIP-LoRA."""

    rank: int = 2
    """Rank of each update."""
    alpha: float = 1.0
    """Updates are scaled by alpha / sqrt(rank), as in the released code."""
    dropout: float = 0.25
    """Dropout on the input of the updates, in training."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(rank=self.rank)
        check_template(self.template)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")


class CLIPLoRA(Method[CLIPLoRAOptions]):
    """``logits = scale cos(f, t_c)`` from two towers whose q, k and v projections have low-rank updates.

    The frozen weights are not changed; an update is added while its block runs (``LowRankUpdates``).

    Source: Zanella and Ben Ayed 2024 (arXiv 2405.18541), section 3; scaling and dropout as released.
    """

    Options = CLIPLoRAOptions
    ids: Tensor

    @classmethod
    def traits_for(cls, options: CLIPLoRAOptions) -> Traits:
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        scale = options.alpha / options.rank**0.5
        updates = partial(LowRankUpdates, rank=options.rank, scale=scale, dropout=options.dropout, generator=generator)
        self.text_updates = updates(self.text)
        self.image_updates = updates(self.vision)
        self.register_texts(filled_templates([options.template], self.descriptions))

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts(lambda rows, ids: self.text(ids, self.text_updates)))

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, self.image_updates))
