"""Normalised mutual information between prompts and patch tokens.

SPT's paper reports that prompts come to share information with patch tokens; its code does not measure it. The
definition here is ours, modelled on the one published for attention maps of self-supervised ViTs (Park et al. 2023,
arXiv 2305.00729): the attention of prompts over tokens is read as a joint distribution with a uniform marginal over the
prompts. Values depend on the scale of the tokens, so compare only values of the same kind.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfprompt.analysis.tower_runs import TowerRun

Mean = Literal["geometric", "arithmetic"]


@dataclass(frozen=True)
class Information:
    """Mutual information and the two entropies in nats, with the leading dimensions of the attention."""

    mutual: Tensor
    prompts: Tensor
    tokens: Tensor

    def normalised(self, mean: Mean = "geometric") -> Tensor:
        """Return I / sqrt(Hp Ht), or 2 I / (Hp + Ht), in [0, 1]; 0 for one prompt or an entropy of 0."""
        geometric = mean == "geometric"
        scale = (self.prompts * self.tokens).sqrt() if geometric else (self.prompts + self.tokens) / 2
        share = self.mutual / scale.clamp_min(torch.finfo(scale.dtype).tiny)
        return torch.where(scale > 0, share, 0.0).clamp_max(1)  # rounding may exceed 1 in the last digit


def information(attention: Tensor) -> Information:
    """Compute the information of attention rows, (..., P, N), each of which sums to 1.

    p(i) = 1/P, p(i, j) = A_ij / P, p(j) = sum_i p(i, j), I = sum_ij p(i, j) log(A_ij / p(j)); 0 log 0 is 0.
    """
    prompts = attention.shape[-2]
    marginal = attention.mean(dim=-2)
    conditional = torch.special.entr(attention).sum(dim=-1).mean(dim=-1)
    tokens = torch.special.entr(marginal).sum(dim=-1)
    mutual = (tokens - conditional).clamp_min(0)
    return Information(mutual, torch.full_like(mutual, prompts).log(), tokens)


def raw_attention(prompts: Tensor, tokens: Tensor) -> Tensor:
    """Compute softmax(<prompt, token> / sqrt(D)), (B, P, N), from prompts (P, D) or (B, P, D) and tokens (B, N, D)."""
    result: Tensor = (prompts @ tokens.transpose(-1, -2) / prompts.shape[-1] ** 0.5).softmax(dim=-1)
    return result


def block_attention(prompts: Tensor, tokens: Tensor, norm: nn.Module, qkv: nn.Linear, heads: int) -> Tensor:
    """Compute attention through a block's norm and its q and k projections, (B, heads, P, N).

    Args:
        prompts: (P, D).
        tokens: (B, N, D).
        norm: The block's first layer norm.
        qkv: Stacked projection with rows in the order q, k, v.
        heads: Number of attention heads.
    """
    width = prompts.shape[-1]
    weight_q, weight_k, _ = qkv.weight.chunk(3)
    bias_q, bias_k, _ = qkv.bias.chunk(3) if qkv.bias is not None else (None, None, None)
    query = nn.functional.linear(norm(prompts), weight_q, bias_q)
    key = nn.functional.linear(norm(tokens), weight_k, bias_k)
    query = query.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (heads, P, D / heads)
    key = key.unflatten(-1, (heads, -1)).transpose(-2, -3)  # (B, heads, N, D / heads)
    result: Tensor = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(dim=-1)
    return result


@torch.no_grad()
def raw_information(prompted: TowerRun, unprompted: TowerRun) -> list[float]:
    """Compute the normalised information of each block's prompts and the patch tokens of the frozen backbone.

    Args:
        prompted: A run of images with prompts.
        unprompted: A run of the same images without prompts; its tokens do not change while prompts are trained.

    Returns:
        One mean over images for each block, in [0, 1].
    """
    pairs = zip(prompted.inputs, unprompted.inputs, strict=True)
    rows = [raw_attention(tokens.prompts, frozen.body) for tokens, frozen in pairs]
    return [float(information(attention.double()).normalised().mean()) for attention in rows]


@torch.no_grad()
def projected_information(run: TowerRun) -> list[float]:
    """Compute the normalised information of prompts and patches from each block's own attention between them.

    Returns:
        One mean over heads and images for each block, in [0, 1].
    """
    values = []
    for index, tokens in enumerate(run.inputs):
        start, stop = tokens.prefix, tokens.prefix + tokens.count
        rows = run.attention(index)[:, :, start:stop, stop:].double()
        values.append(float(information(rows / rows.sum(dim=-1, keepdim=True)).normalised().mean()))
    return values
