"""The transformer block of all libraries as one function that computes only the tokens that are read.

Upstream computes every token of a block. Here tokens may serve as keys and values alone (deep prompts, whose outputs
the next block discards), and the last block may compute the pooled tokens alone. Results equal upstream's up to float
rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QKVDelta = Tensor | Callable[[Tensor], Tensor]
"""A change of a block's stacked projection to q, k and v: added to its weight, (3D, D), or, as a function of its input,
(B, L, D) -> (B, L, 3D), to its output (where the two differ: dropout of the input)."""

Weights = Mapping[str, Tensor]
"""Weights and biases of a block, by name and kind: "norm1", "qkv", "out", "norm2", "up" and "down", each ".weight" and
".bias". q, k and v are stacked; up and down are the two layers of the MLP."""

FEW_KEYS = 32
"""Number of keys up to which plain products are faster on a CPU (measured: twice as fast at 6 to 25 keys; slower from
200 on)."""

Map = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return the tokens as they are."""
    return x


class Rotary(NamedTuple):
    """Rotary position embedding: queries and keys of the patches, the last N tokens of a stream, are rotated.

    All tokens in front of them (class token, registers, prompts, ``extra_kv``) have no position and stay as they are.

    Attributes:
        table: Sine, then cosine, of the angle of each channel of a head: (1, N, 2A / heads), or (heads, N, 2A / heads)
            if the heads differ.
        half: Whether channel i is rotated with channel i + A / (2 heads); otherwise neighbours, 2i with 2i + 1.
    """

    table: Tensor
    half: bool


@dataclass(frozen=True)
class BlockParts:
    """The parts of a block ``x + out_proj(attention(norm(x)))``, then ``x + mlp(x)``; width D outside, A inside.

    A block of the first transformers (BERT) has no norm in front; there each of the two sums is normed.

    Attributes:
        norm: Norm before the attention.
        weight: Stacked projection to q, k and v, (3A, D).
        bias: Its bias, (3A,), or None.
        heads: Number of heads.
        norm_q: Norm of the queries, (B, heads, L, A / heads).
        norm_k: Norm of the keys.
        out_proj: Maps the heads' outputs, (B, L, A), and the normed input of the queries, (B, L, D), to the first
            residual.
        mlp: Norm, MLP and scale: the second residual.
        rotary: Rotation of normed queries and keys; None for blocks that know no positions.
        norm_attended: Norm of the first sum.
        norm_output: Norm of the second sum.
    """

    norm: Map
    weight: Tensor
    bias: Tensor | None
    heads: int
    norm_q: Map
    norm_k: Map
    out_proj: Callable[[Tensor, Tensor], Tensor]
    mlp: Map
    rotary: Rotary | None = None
    norm_attended: Map = identity
    norm_output: Map = identity


def layer_weights(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the weights and biases of the layers that ``with_weights`` can run; a layer without a bias has none."""
    plain = {name: layer for name, layer in layers.items() if isinstance(layer, (nn.Linear, nn.LayerNorm))}
    tensors = {f"{name}.{kind}": getattr(layer, kind) for name, layer in plain.items() for kind in ("weight", "bias")}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def check_names(weights: Weights, known: Mapping[str, Tensor]) -> None:
    """Raise ValueError if there are weights of a name that a block does not have."""
    unknown = sorted(weights.keys() - known.keys())
    if unknown:
        raise ValueError(f"A block of this backbone has no {', '.join(unknown)}. It has {', '.join(known)}.")


def with_weights(layer: Any, name: str, weights: Weights | None) -> Map:
    """Return an ``nn.Linear`` or ``nn.LayerNorm`` with the weight and bias given for its name; as it is without any."""
    if weights is None or weights.keys().isdisjoint((f"{name}.weight", f"{name}.bias")):
        return cast(Map, layer)
    weight, bias = (weights.get(f"{name}.{kind}", getattr(layer, kind)) for kind in ("weight", "bias"))
    if isinstance(layer, nn.LayerNorm):
        return partial(F.layer_norm, normalized_shape=layer.normalized_shape, weight=weight, bias=bias, eps=layer.eps)
    return partial(F.linear, weight=weight, bias=bias)


def run_block(
    block: BlockParts,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: Tensor | None = None,
    qkv_delta: QKVDelta | None = None,
    extra_kv: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Run one block.

    Args:
        block: The parts of the block.
        x: The stream, (B, L, D).
        mask: Added to the attention logits, (L, P + L) or broadcastable to (B, heads, R, P + L).
        temperature: Divides the attention logits; a scalar.
        qkv_delta: Changes the projections of the stream.
        extra_kv: Tokens that are attended to and give no output, (P, D) or (B, P, D); their keys precede those of x.
        rows: Indices of the tokens to compute, (R,) or (B, R); None computes all.

    Returns:
        (B, R, D), or (B, L, D) without ``rows``.
    """
    if isinstance(qkv_delta, Tensor):
        block, qkv_delta = replace(block, weight=block.weight + qkv_delta), None
    y = block.norm(x)
    queries = y if rows is None else pick(y, rows)
    if qkv_delta is None and not (rows is None and extra_kv is None):
        q, k, v = (F.linear(part, *layer) for part, layer in zip((queries, y, y), _projections(block), strict=True))
    else:
        q, k, v = _stacked(block, y, qkv_delta)
        q = q if rows is None else pick(q, rows)
    if extra_kv is not None:
        k, v = (torch.cat(pair, dim=1) for pair in zip(_keys_values(block, extra_kv, x.shape[0]), (k, v), strict=True))
    q, k, v = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in (q, k, v))
    q, k = block.norm_q(q), block.norm_k(k)
    if block.rotary is not None:
        q, k = rotate(q, block.rotary, x.shape[1], rows), rotate(k, block.rotary, k.shape[2])
    if temperature is not None:
        q = q / temperature.to(q.dtype)
    mask = None if mask is None else mask.to(q.dtype)
    attended = attend(q, k, v, mask)  # (B, heads, R, A / heads)
    x = x if rows is None else pick(x, rows)
    x = block.norm_attended(x + block.out_proj(attended.transpose(1, 2).flatten(2), queries))
    return block.norm_output(x + block.mlp(x))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax attention, (B, heads, R, A / heads), with the kernel that is faster for its size.

    On a CPU the fused kernel, which runs head by head, does not pay for few tokens.
    """
    if not q.is_cpu or k.shape[-2] > FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    result: Tensor = (scores if mask is None else scores + mask).softmax(dim=-1).to(v.dtype) @ v
    return result


def attention_weights(
    block: BlockParts, x: Tensor, temperature: Tensor | None = None, qkv_delta: QKVDelta | None = None
) -> Tensor:
    """Return the attention weights of a block without a mask, (B, heads, L, L), from its input; for analysis only."""
    if isinstance(qkv_delta, Tensor):
        block, qkv_delta = replace(block, weight=block.weight + qkv_delta), None
    q, k, _ = _stacked(block, block.norm(x), qkv_delta)
    q, k = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in (q, k))
    q, k = block.norm_q(q), block.norm_k(k)
    if block.rotary is not None:
        q, k = (rotate(part, block.rotary, x.shape[1]) for part in (q, k))
    if temperature is not None:
        q = q / temperature.to(q.dtype)
    result: Tensor = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return result


def rotate(x: Tensor, rotary: Rotary, length: int, rows: Tensor | None = None) -> Tensor:
    """Rotate queries or keys by the positions of their tokens.

    Args:
        x: (B, heads, R, A / heads).
        rotary: The rotation of the last N tokens of a stream.
        length: Number of tokens of the stream.
        rows: Indices in the stream of those in x, (R,) or (B, R); None if x has all.

    Returns:
        The same shape; tokens without a position, whose angle is 0, have the same values.
    """
    front = (0, 0, length - rotary.table.shape[1], 0)
    sine, cosine = rotary.table.chunk(2, dim=-1)
    sine, cosine = F.pad(sine, front), F.pad(cosine, front, value=1.0)  # (1 or heads, length, A / heads)
    if rows is not None:
        sine, cosine = (part[:, rows].movedim(0, -3) for part in (sine, cosine))
    if rotary.half:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * cosine + turned * sine).to(x.dtype)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Select rows of a stream, (B, L, D): the same for the whole batch, (R,), or different ones per input, (B, R)."""
    if rows.ndim == 1:
        return x[:, rows]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def activation_name(activation: object) -> str:
    """Return the class of an activation; "GELUTanh", as timm's class, for PyTorch's GELU that approximates by tanh."""
    approximate = isinstance(activation, nn.GELU) and activation.approximate == "tanh"
    return "GELUTanh" if approximate else type(activation).__name__


def quick_gelu(x: Tensor) -> Tensor:
    """Compute ``x sigmoid(1.702 x)``, keeping one tensor for gradients instead of two; overwrites x."""
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return cast(Tensor, _QuickGELU.apply(x))
    return F.silu(x.mul_(1.702)).mul_(1 / 1.702)


class _QuickGELU(torch.autograd.Function):
    """``quick_gelu`` with one kernel in the backward pass, where the two factors cancel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.mul_(1.702))
        return F.silu(x).mul_(1 / 1.702)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.aten.silu_backward(grad, *ctx.saved_tensors))


def _stacked(block: BlockParts, y: Tensor, qkv_delta: Map | None) -> tuple[Tensor, Tensor, Tensor]:
    """Project normed tokens to queries, keys and values in one product, (B, L, A) each."""
    qkv = F.linear(y, block.weight, block.bias)
    q, k, v = (qkv if qkv_delta is None else qkv + qkv_delta(y)).chunk(3, dim=-1)
    return q, k, v


def _keys_values(block: BlockParts, extra_kv: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Project the extra tokens to keys and values, (B, P, A); once where the whole batch shares them."""
    y = block.norm(extra_kv)
    k, v = (F.linear(y, *layer) for layer in _projections(block)[1:])
    return k.expand(batch, -1, -1), v.expand(batch, -1, -1)


def _projections(block: BlockParts) -> list[tuple[Tensor, Tensor | None]]:
    """Return weight and bias of the projections to q, k and v."""
    biases = (None, None, None) if block.bias is None else block.bias.chunk(3)
    return list(zip(block.weight.chunk(3), biases, strict=True))
