"""Normalised mutual information between prompts and patch tokens.

SPT's paper reports that prompts come to share information with patch tokens; its code has no such measurement. The
definition here is ours, modelled on the one published for attention maps of self-supervised ViTs (Park et al. 2023,
arXiv 2305.00729): attention of prompts over tokens is read as a joint distribution with a uniform marginal over the
prompts. Values depend on the tokens' scale, so compare only like with like.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfprompt.analysis.streams import Stream

Mean = Literal["geometric", "arithmetic"]


@dataclass(frozen=True)
class Information:
    """Mutual information and the two entropies in nats; leading axes as in the attention given."""

    mutual: Tensor
    prompts: Tensor
    tokens: Tensor

    def normalised(self, mean: Mean = "geometric") -> Tensor:
        """I / sqrt(Hp Ht), or 2 I / (Hp + Ht); in [0, 1], 0 for one prompt or an entropy of 0."""
        geometric = mean == "geometric"
        scale = (self.prompts * self.tokens).sqrt() if geometric else (self.prompts + self.tokens) / 2
        share = self.mutual / scale.clamp_min(torch.finfo(scale.dtype).tiny)
        return torch.where(scale > 0, share, 0.0).clamp_max(1)  # rounding goes beyond 1 by the last digit


def information(attention: Tensor) -> Information:
    """Information of attention rows, (..., P, N); each row sums to 1.

    p(i) = 1/P, p(i, j) = A_ij / P, p(j) = sum_i p(i, j), I = sum_ij p(i, j) log(A_ij / p(j)); 0 log 0 is 0.
    """
    prompts = attention.shape[-2]
    marginal = attention.mean(dim=-2)
    conditional = torch.special.entr(attention).sum(dim=-1).mean(dim=-1)
    tokens = torch.special.entr(marginal).sum(dim=-1)
    mutual = (tokens - conditional).clamp_min(0)
    return Information(mutual, torch.full_like(mutual, prompts).log(), tokens)


def raw_attention(prompts: Tensor, tokens: Tensor) -> Tensor:
    """softmax(<prompt, token> / sqrt(D)), (B, P, N), from prompts (P, D) or (B, P, D) and tokens (B, N, D)."""
    return (prompts @ tokens.transpose(-1, -2) / prompts.shape[-1] ** 0.5).softmax(dim=-1)


def block_attention(prompts: Tensor, tokens: Tensor, norm: nn.Module, qkv: nn.Linear, heads: int) -> Tensor:
    """Attention through a block's norm and its q and k projections, (B, heads, P, N).

    Args:
        prompts: (P, D).
        tokens: (B, N, D).
        norm: The block's first layer norm.
        qkv: Packed projection with rows ordered q, k, v.
        heads: Attention heads.
    """
    width = prompts.shape[-1]
    weight_q, weight_k, _ = qkv.weight.chunk(3)
    bias_q, bias_k, _ = qkv.bias.chunk(3) if qkv.bias is not None else (None, None, None)
    query = nn.functional.linear(norm(prompts), weight_q, bias_q)
    key = nn.functional.linear(norm(tokens), weight_k, bias_k)
    query = query.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (heads, P, D / heads)
    key = key.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (B, heads, N, D / heads)
    return (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(dim=-1)


@torch.no_grad()
def raw_by_block(prompted: Stream, plain: Stream) -> list[float]:
    """Normalised information of the prompts of each block and the patch tokens of the frozen backbone, [0, 1].

    Means over images.

    Args:
        prompted: Images with prompts.
        plain: The same images without; its tokens stay the same while prompts are trained.
    """
    pairs = zip(prompted.inputs, plain.inputs, strict=True)
    rows = [raw_attention(with_prompts.prompts, without.body) for with_prompts, without in pairs]
    return [float(information(attention.double()).normalised().mean()) for attention in rows]


@torch.no_grad()
def asked_by_block(stream: Stream) -> list[float]:
    """The same from what the prompts of a run ask its patches through each block's queries and keys, [0, 1].

    Means over heads and images.
    """
    values = []
    for index, tokens in enumerate(stream.inputs):
        first, behind = tokens.prefix, tokens.prefix + tokens.count
        rows = stream.attention(index)[:, :, first:behind, behind:].double()
        values.append(float(information(rows / rows.sum(dim=-1, keepdim=True)).normalised().mean()))
    return values
