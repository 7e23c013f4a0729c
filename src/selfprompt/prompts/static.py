"""Prompts that are given: in front of the first block (shallow), of every block (deep), or at places of a text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.tokens import Tokens


@dataclass(frozen=True)
class Static:
    """Prompts put behind the prefix, and exchanged in front of each further block that has its own.

    Deep prompts of images stand beside the stream: what a block makes of them is thrown away, so they are keys and
    values alone. In a text they keep their places.

    Attributes:
        prompts: (1, P, D) for shallow prompts, (depth, P, D) for deep ones, which throw away what the block before
            made of the prompts (VPT, section 3.2; SPT). Own prompts for each input of a batch: (1, B, P, D).
        dropout: Rate of the dropout on prompts, drawn anew for each image; 0 in evaluation.
        in_place: The prompts' places exist already, as placeholders of a text.
    """

    prompts: Tensor
    dropout: float = 0.0
    in_place: bool = False
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        prompts = self._for_batch(0, tokens)
        if self.in_place:
            return tokens.mark(prompts.shape[-2]).replace(prompts)
        return tokens.insert(prompts)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        if self.in_place:
            own = 0 < index < len(self.prompts)
            return block(tokens.replace(self._for_batch(index, tokens)) if own else tokens)
        if index + 1 < len(self.prompts):  # the next block has prompts of its own
            if index > 0:
                return block(tokens, extra_kv=self._for_batch(index, tokens))
            first = (
                tokens.prompts if self.dropout else tokens.prompts[:1]
            )  # a norm before block 0 may have changed them
            others = tokens.drop()  # no prompt has touched them yet, so no gradient passes through them
            return block(others._replace(x=others.x.detach()), extra_kv=first.clone())
        return block(tokens.insert(self._for_batch(index, tokens)) if 0 < index < len(self.prompts) else tokens)

    def _for_batch(self, index: int, tokens: Tokens) -> Tensor:
        prompts = self.prompts[index]
        if self.dropout:
            prompts = F.dropout(prompts.expand(tokens.x.shape[0], -1, -1), self.dropout)
        return prompts


@dataclass(frozen=True)
class Scatter:
    """Shallow text prompts written over placeholders anywhere in a text (CoOp's three class positions).

    Attributes:
        prompts: (P, D), shared by the classes, or (C, P, D).
        slots: Position of each prompt in each text, (C, P), or (1, P) where it is the same in all.
    """

    prompts: Tensor
    slots: Tensor
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        width = tokens.x.shape[-1]
        prompts = self.prompts.to(tokens.x.dtype).expand(tokens.x.shape[0], -1, -1)
        places = self.slots[..., None].expand(tokens.x.shape[0], -1, width)
        return tokens._replace(x=tokens.x.scatter(1, places, prompts))

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        return block(tokens)


def uniform_prompts(
    layers: int, count: int, width: int, patch_size: tuple[int, int], generator: torch.Generator
) -> nn.Parameter:
    """VPT's start, (layers, count, width): uniform in +-sqrt(6 / (3 patch pixels + width))."""
    bound = math.sqrt(6 / (3 * math.prod(patch_size) + width))
    return nn.Parameter(torch.empty(layers, count, width).uniform_(-bound, bound, generator=generator))


def deep_prompts(first: Tensor, layers: int, generator: torch.Generator) -> nn.Parameter:
    """Prompts that start as ``first``, (P, D), in front of the first block and from N(0, 0.02^2) further on.

    Returns:
        (layers, P, D)
    """
    further = 0.02 * torch.randn(layers - 1, *first.shape, generator=generator)
    return nn.Parameter(torch.cat([first[None], further.to(first.device)]))
