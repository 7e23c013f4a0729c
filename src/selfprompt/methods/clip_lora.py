"""CLIP-LoRA: low-rank updates of the q, k and v projections in every block of both CLIP towers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import PHOTO, check_template, filled_templates
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Tower


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


class LowRank(nn.Module):
    """A prompter without prompts: ``W x + s B A dropout(x)`` in place of ``W x`` for q, k and v of every block.

    A is uniform in +-D^-0.5 and B zero at first, so the tower starts unchanged. Without dropout the update is added to
    the weights while the block runs.

    Attributes:
        down: A for q, k and v of each block, (depth, 3, r, D).
        up: B for the same, (depth, 3, D, r).
    """

    needs_all_outputs = False

    def __init__(self, tower: Tower, rank: int, *, scale: float, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        bound = tower.width**-0.5
        down = torch.empty(tower.depth, 3, rank, tower.width).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(tower.depth, 3, tower.width, rank))
        self.scale = scale
        self.dropout = dropout

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        if self.training and self.dropout:
            return block(tokens, qkv_delta=partial(self.output_delta, index))
        return block(tokens, qkv_delta=self.weight_delta(index))

    def weight_delta(self, index: int) -> Tensor:
        """Return the update of a block's stacked q, k and v weights, (3D, D)."""
        return self.scale * (self.up[index] @ self.down[index]).flatten(0, 1)

    def output_delta(self, index: int, x: Tensor) -> Tensor:
        """Return the update of a block's q, k and v, each with separate dropout: (B, L, D) to (B, L, 3D)."""
        dropped = F.dropout(x.expand(3, *x.shape), self.dropout)
        return self.scale * torch.einsum("sbld,srd,sor->blso", dropped, self.down[index], self.up[index]).flatten(2)


class CLIPLoRA(Method[CLIPLoRAOptions]):
    """``logits = scale cos(f, t_c)`` from two towers whose q, k and v projections have low-rank updates.

    The frozen weights are not changed; an update is added while its block runs (``LowRank``).

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
        updates = partial(LowRank, rank=options.rank, scale=scale, dropout=options.dropout, generator=generator)
        self.text_updates = updates(self.text)
        self.image_updates = updates(self.vision)
        self.register_texts(filled_templates([options.template], self.descriptions))

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts(lambda rows, ids: self.text(ids, self.text_updates)))

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, self.image_updates))
