"""Fixed edits: prompts before the first block (shallow), before every block (deep), or anywhere in a text."""

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
    """Prompts behind the prefix, replaced before each further block that has prompts.

    The outputs of deep image prompts are discarded, so blocks take these prompts as keys and values alone
    (``extra_kv``). Text prompts keep their positions in the stream.

    Attributes:
        prompts: (1, P, D) for shallow prompts; (depth, P, D) for deep ones, which replace the prompts' outputs of the
            block before (VPT, section 3.2; SPT); (1, B, P, D) for shallow prompts that differ between inputs.
        dropout: Rate of the dropout on prompts, drawn for each image; 0 in evaluation.
        in_place: Whether the prompts replace the placeholders of a text.
        first: Block before which image prompts enter; from there on as if the blocks began here.
    """

    prompts: Tensor
    dropout: float = 0.0
    in_place: bool = False
    first: int = 0
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        if self.first:
            return tokens
        prompts = self._for_batch(0, tokens)
        if self.in_place:
            return tokens.mark(prompts.shape[-2]).replace(prompts)
        return tokens.insert(prompts)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        if self.in_place:
            replaced = 0 < index < len(self.prompts)
            return block(tokens.replace(self._for_batch(index, tokens)) if replaced else tokens)
        if index < self.first:
            return block(tokens)
        entering, index = index == 0, index - self.first
        if index + 1 < len(self.prompts):  # the next block has prompts, too
            if not entering:
                return block(tokens, extra_kv=self._for_batch(index, tokens))
            # a norm before block 0 may have changed the prompts
            first = tokens.prompts if self.dropout else tokens.prompts[:1]
            others = tokens.drop()  # they do not depend on prompts yet, so they need no gradient
            return block(others._replace(x=others.x.detach()), extra_kv=first.clone())
        inserted = not entering and index < len(self.prompts)
        return block(tokens.insert(self._for_batch(index, tokens)) if inserted else tokens)

    def _for_batch(self, index: int, tokens: Tokens) -> Tensor:
        prompts = self.prompts[index]
        if self.dropout:
            prompts = F.dropout(prompts.expand(tokens.x.shape[0], -1, -1), self.dropout)
        return prompts


@dataclass(frozen=True)
class Scatter:
    """Shallow text prompts that replace placeholders anywhere in a text (CoOp's three class token positions).

    Attributes:
        prompts: (P, D), shared by the classes, or (C, P, D).
        slots: Position of each prompt in each text, (C, P), or (1, P) if all texts have the same positions.
    """

    prompts: Tensor
    slots: Tensor
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        width = tokens.x.shape[-1]
        prompts = self.prompts.to(tokens.x.dtype).expand(tokens.x.shape[0], -1, -1)
        positions = self.slots[..., None].expand(tokens.x.shape[0], -1, width)
        return tokens._replace(x=tokens.x.scatter(1, positions, prompts))

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        return block(tokens)


def normal_prompts(*shape: int, generator: torch.Generator) -> nn.Parameter:
    """Draw prompts of a shape, (..., P, D), from N(0, 0.02^2)."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * 0.02)


def uniform_prompts(
    layers: int, count: int, width: int, patch_size: tuple[int, int], generator: torch.Generator
) -> nn.Parameter:
    """Draw VPT's initial prompts, (layers, count, width): uniform in +-sqrt(6 / (3 patch pixels + width))."""
    bound = math.sqrt(6 / (3 * math.prod(patch_size) + width))
    return nn.Parameter(torch.empty(layers, count, width).uniform_(-bound, bound, generator=generator))


def deep_prompts(first: Tensor, layers: int, generator: torch.Generator) -> nn.Parameter:
    """Return prompts, (layers, P, D): ``first``, (P, D), before block 0, drawn from N(0, 0.02^2) before the others."""
    further = 0.02 * torch.randn(layers - 1, *first.shape, generator=generator)
    return nn.Parameter(torch.cat([first[None], further.to(first.device)]))
