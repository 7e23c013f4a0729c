"""The plain pre-norm block, whichever library built it: one computation for timm's and open_clip's.

Upstream's forward computes every token of a block. Here only those that somebody will read are computed: tokens may
stand beside the stream as keys and values alone (deep prompts, whose outputs the next block throws away), and the last
block may answer for the pooled row only. The numbers are upstream's, to float rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.models.attention import attend

QKVDelta = Tensor | Callable[[Tensor], Tensor]
"""What is added to a block's stacked projection to q, k and v: to its weight, (3D, D), or to its output, as a function
of its input, (B, L, D) -> (B, L, 3D), where the two differ (dropout of the input)."""

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plain:
    """The parts of a block ``x + answer(attention(norm(x)))``, then ``x + mlp(x)``; widths are D outside, A inside.

    Attributes:
        norm: In front of the attention.
        weight: Stacked projection to q, k and v, (3A, D).
        bias: (3A,), or none.
        heads: Number of heads.
        norm_q: Of queries, (B, heads, L, A / heads).
        norm_k: Of keys.
        answer: From the heads' answers, (B, L, A), and the normed tokens that asked, (B, L, D), to what is added.
        mlp: Norm, MLP and scale: what is added second.
    """

    norm: Map
    weight: Tensor
    bias: Tensor | None
    heads: int
    norm_q: Map
    norm_k: Map
    answer: Callable[[Tensor, Tensor], Tensor]
    mlp: Map


def run(
    block: Plain,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: Tensor | None = None,
    update: QKVDelta | None = None,
    beside: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """One block.

    Args:
        block: Its parts.
        x: The stream, (B, L, D).
        mask: Added to the attention's logits, (L, P + L) or broadcastable to (B, heads, R, P + L).
        temperature: Divides the attention's logits, a scalar.
        update: Added to the projections of the stream.
        beside: Tokens that are attended to and give no output, (P, D) for all or (B, P, D); keys stand before x's.
        rows: The tokens that ask and come out, (R,) or (B, R) indices; None is all.

    Returns:
        (B, R, D), or (B, L, D) without ``rows``.
    """
    if isinstance(update, Tensor):
        block, update = replace(block, weight=block.weight + update), None
    y = block.norm(x)
    asking = y if rows is None else pick(y, rows)
    if update is None and not (rows is None and beside is None):
        q, k, v = (F.linear(part, *own) for part, own in zip((asking, y, y), _parts(block), strict=True))
    else:
        q, k, v = _stacked(block, y, update)
        q = q if rows is None else pick(q, rows)
    if beside is not None:
        k, v = (torch.cat(pair, dim=1) for pair in zip(_keys_values(block, beside, x.shape[0]), (k, v), strict=True))
    q, k, v = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in (q, k, v))
    q = block.norm_q(q)
    if temperature is not None:
        q = q / temperature.to(q.dtype)
    mask = None if mask is None else mask.to(q.dtype)
    found = attend(q, block.norm_k(k), v, mask)  # (B, heads, R, A / heads)
    x = x if rows is None else pick(x, rows)
    x = x + block.answer(found.transpose(1, 2).flatten(2), asking)
    return x + block.mlp(x)


def attention_weights(
    block: Plain, x: Tensor, temperature: Tensor | None = None, update: QKVDelta | None = None
) -> Tensor:
    """The attention weights of a block without a mask from what enters it, (B, heads, L, L), to look at."""
    if isinstance(update, Tensor):
        block, update = replace(block, weight=block.weight + update), None
    q, k, _ = _stacked(block, block.norm(x), update)
    q, k = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in (q, k))
    q = block.norm_q(q)
    if temperature is not None:
        q = q / temperature.to(q.dtype)
    return (q @ block.norm_k(k).transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of a stream, (B, L, D): the same for all, (R,), or an own choice for each input, (B, R)."""
    if rows.ndim == 1:
        return x[:, rows]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``, which keeps one tensor for gradients in place of two; overwrites x."""
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return cast(Tensor, _QuickGELU.apply(x))
    return F.silu(x.mul_(1.702)).mul_(1 / 1.702)


class _QuickGELU(torch.autograd.Function):
    """The same with one kernel in the backward pass, where the two factors cancel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.mul_(1.702))
        return F.silu(x).mul_(1 / 1.702)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.aten.silu_backward(slope, *ctx.saved_tensors))


def _stacked(block: Plain, y: Tensor, update: Map | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of normed tokens in one product, (B, L, A) each."""
    qkv = F.linear(y, block.weight, block.bias)
    q, k, v = (qkv if update is None else qkv + update(y)).chunk(3, dim=-1)
    return q, k, v


def _keys_values(block: Plain, beside: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Keys and values of tokens beside the stream, (B, P, A); projected once where all inputs share them."""
    y = block.norm(beside)
    k, v = (F.linear(y, *own) for own in _parts(block)[1:])
    return k.expand(batch, -1, -1), v.expand(batch, -1, -1)


def _parts(block: Plain) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of the projections to q, k and v."""
    biases = (None, None, None) if block.bias is None else block.bias.chunk(3)
    return list(zip(block.weight.chunk(3), biases, strict=True))
