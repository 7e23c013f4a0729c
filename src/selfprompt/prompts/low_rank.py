"""Low-rank updates of the attention's projections, as a prompter without prompts (LoRA).

Source: Hu et al. 2021 (arXiv 2106.09685), section 4.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Tower

LEVELS = 2**16
"""Values of a number of 16 bits."""


class LowRankUpdates(nn.Module):
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
        dropped = dropped_copies(x, 3, self.dropout).flatten(1, 2)
        updates = dropped @ self.down[index].mT @ (self.scale * self.up[index]).mT
        return updates.view(3, *x.shape).permute(1, 2, 0, 3).flatten(2)


def dropped_copies(x: Tensor, copies: int, probability: float) -> Tensor:
    """Return copies of a tensor with separate dropout, (copies, *x.shape).

    On a CPU PyTorch draws one number for each element, one after another, which takes as long as a block of a small
    tower. Here a draw of 64 bits decides over four elements, so the probability is rounded to 16 bits.
    """
    shape = (copies, *x.shape)
    if x.device.type != "cpu":
        return F.dropout(x.expand(shape), probability)
    bound, count = min(round(probability * LEVELS), LEVELS - 1), copies * x.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.int16)[:count].view(shape) >= bound - LEVELS // 2
    return x * (LEVELS / (LEVELS - bound)) * kept.to(x.dtype)
