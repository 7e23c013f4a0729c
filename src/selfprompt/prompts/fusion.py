"""SEP's edit: prompts refreshed in front of a block from representative tokens of the same stream."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from selfprompt.models.block import FEW_KEYS, attend
from selfprompt.models.tokens import Tokens

FusionAxis = Literal["tokens", "batch"]
Selection = Literal["image", "batch"]


def attention_heads(width: int) -> int:
    """CLIP's rule: heads of 64 channels, at least one."""
    return max(1, width // 64)


class LowRank(nn.Module):
    """A linear layer whose matrix is a product of two narrow ones: ``W2 W1 x + b``, W1 (r, in) and W2 (out, r)."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, rank, bias=False)
        self.second = nn.Linear(rank, outputs, bias=bias)
        if bias:
            nn.init.zeros_(self.second.bias)

    @property
    def in_features(self) -> int:
        return self.first.in_features

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class LowRankAttention(nn.Module):
    """Multi-head attention whose projections to queries, keys, values and answers are of low rank."""

    def __init__(self, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out_proj = (LowRank(width, width, rank) for _ in range(4))

    def forward(self, prompts: Tensor, tokens: Tensor) -> Tensor:
        """What the prompts, (N, P, D), find among the tokens, (N, M, D)."""
        pairs = ((self.query, prompts), (self.key, tokens), (self.value, tokens))
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in pairs)
        answer = attend(query, key, value)  # (N, heads, P, D / heads)
        return self.out_proj(answer.transpose(1, 2).flatten(2))


def draw_uniform(layer: nn.Linear | LowRank, bound: float, generator: torch.Generator | None) -> None:
    """Draw a layer's matrix from U(-bound, bound); a product of two gets entries of the same variance."""
    if isinstance(layer, nn.Linear):
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        return
    narrow, rank = layer.in_features**-0.5, layer.first.out_features
    draw_uniform(layer.first, narrow, generator)
    draw_uniform(layer.second, bound / narrow * (3 / rank) ** 0.5, generator)  # bound^2 / 3 = r (n^2 / 3) (b^2 / 3)


def _attention(width: int, rank: int) -> nn.MultiheadAttention | LowRankAttention:
    heads = attention_heads(width)
    return LowRankAttention(width, heads, rank) if rank else nn.MultiheadAttention(width, heads, batch_first=True)


def _linear(inputs: int, outputs: int, rank: int) -> nn.Linear | LowRank:
    return LowRank(inputs, outputs, rank, bias=False) if rank else nn.Linear(inputs, outputs, bias=False)


class TokenFusion(nn.Module):
    """The token fusion module: prompts ask, representative tokens answer.

        A  = MHA(LNa(Q), LNa(R), LNa(R))
        R1 = s1 R + (1 - s1) A
        O  = s2 R1 + (1 - s2) W2 qgelu(W1 LNb(R1))

    R are the representative tokens, Q the prompts, O the new prompts, all (N, P, D); s1 and s2 are learned scalars
    that start at 0.75. The residual path carries R, not Q.

    Differs from the reference code: ``axis="batch"`` is what was released; there the attention runs across the N
    inputs, slot by slot, so that a result depends on the other inputs of the batch. ``axis="tokens"`` attends over
    the P tokens of one input, as the paper describes. The unused third layer norm does not exist here.

    Ours, not the paper's: with a ``rank`` r every matrix (q, k, v, out, W1, W2) is a product of two of rank r at most:
    10 D r + 512 r + 8 D + 2 numbers in place of 4 D^2 + 520 D + 2.

    Raises:
        ValueError: If the rank is above the width.

    Source: SEP, arXiv 2405.15549.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int = 256,
        axis: FusionAxis = "tokens",
        rank: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= rank <= width:
            raise ValueError(f"fusion_rank must be 0 (full matrices) to {width}, the width of the tokens; got {rank}.")
        self.axis = axis
        self.norm_attention = nn.LayerNorm(width)
        self.attention = _attention(width, rank)
        self.norm_mlp = nn.LayerNorm(width)
        self.down = _linear(width, hidden, rank)
        self.up = _linear(hidden, width, rank)
        self.keep_tokens = nn.Parameter(torch.full((1,), 0.75))
        self.keep_attention = nn.Parameter(torch.full((1,), 0.75))
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw the matrices; norms, biases and scalars have fixed starting values."""
        attention = self.attention
        if isinstance(attention, nn.MultiheadAttention):
            nn.init.xavier_uniform_(attention.in_proj_weight, generator=generator)
        else:
            for projection in (attention.query, attention.key, attention.value):
                draw_uniform(projection, (6 / (4 * projection.in_features)) ** 0.5, generator)  # Xavier's for (3D, D)
        for layer in (attention.out_proj, self.down, self.up):
            draw_uniform(layer, layer.in_features**-0.5, generator)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """New prompts, (N, P, D), from representative tokens and prompts of that shape."""
        query, key = self.norm_attention(prompts), self.norm_attention(tokens)
        if self.axis == "batch":  # (N, P, D) -> (P, N, D): slot by slot across the inputs
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        if isinstance(self.attention, LowRankAttention):
            answer = self.attention(query, key)
        else:
            # Asked for its weights, torch takes plain products, which are faster for few tokens: see attend.
            few = key.is_cpu and key.shape[1] <= FEW_KEYS
            answer, _ = self.attention(query, key, key, need_weights=few, average_attn_weights=False)
        if self.axis == "batch":
            answer = answer.transpose(0, 1)
        fused = self.keep_tokens * tokens + (1 - self.keep_tokens) * answer
        hidden = self.down(self.norm_mlp(fused))
        hidden = self.up(hidden * torch.sigmoid(1.702 * hidden))
        return self.keep_attention * fused + (1 - self.keep_attention) * hidden


def fusion_modules(
    width: int,
    blocks: int,
    *,
    shared: bool = False,
    rank: int = 0,
    axis: FusionAxis = "tokens",
    generator: torch.Generator | None = None,
) -> nn.ModuleList:
    """The fusion modules of a tower with so many refreshed blocks.

    One for each block, which all start with the same numbers; or, shared (ours, not the paper's), one for all blocks.
    """
    first = TokenFusion(width, axis=axis, rank=rank, generator=generator)
    return nn.ModuleList(copy.deepcopy(first) for _ in range(min(1, blocks) if shared else blocks))


def by_layer(layers: Sequence[int], modules: nn.ModuleList) -> dict[int, TokenFusion]:
    """The fusion module of each refreshed block: its own, in the order of the blocks, or the one that all share."""
    own = list(modules) * len(layers) if len(modules) == 1 else modules
    return {layer: module for layer, module in zip(layers, own, strict=True) if isinstance(module, TokenFusion)}


def strongest(tokens: Tokens, count: int, selection: Selection = "image") -> Tensor:
    """Indices of the tokens of largest mean square among all but the prompts, strongest first.

    Args:
        tokens: A stream; CLS may be chosen, prompts may not.
        count: How many tokens to choose, at most prefix + N.
        selection: "image" chooses for each image; "batch" chooses once, by the mean over the batch (as released).

    Returns:
        Indices into ``tokens.others()``, (B, count), or (count,) for "batch".

    Raises:
        ValueError: If there are fewer tokens.
    """
    power = Tokens(tokens.x.detach().square().mean(dim=-1, keepdim=True), tokens.prefix, tokens.count).others()[..., 0]
    if count > power.shape[1]:
        raise ValueError(
            f"{count} image prompts need as many representative tokens, an image has {power.shape[1]}; use fewer."
        )
    if selection == "batch":
        power = power.mean(dim=0)
    return power.topk(count, dim=-1).indices


def take_strongest(tokens: Tokens, count: int, selection: Selection = "image") -> Tensor:
    """The representative tokens of images, (B, count, D); gradient flows through them, not through the choice."""
    index = strongest(tokens, count, selection)
    index = index + tokens.count * (index >= tokens.prefix)  # into the stream itself, which holds the prompts, too
    if selection == "batch":
        return tokens.x[:, index]
    return tokens.x.gather(1, index[..., None].expand(-1, -1, tokens.x.shape[-1]))


@dataclass(frozen=True)
class Fuse:
    """The prompter of SEP: prompts enter once and are refreshed in front of chosen blocks.

    Attributes:
        prompts: (P, D).
        fusions: The token fusion module of each block that has one, by block index.
        choose: Takes the stream and gives its representative tokens, (B, P, D).
        in_place: The prompts' places exist already, as placeholders of a text.
    """

    prompts: Tensor
    fusions: Mapping[int, TokenFusion]
    choose: Callable[[Tokens], Tensor]
    in_place: bool = False
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        if self.in_place:
            return tokens.mark(len(self.prompts)).replace(self.prompts)
        return tokens.insert(self.prompts)

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index in self.fusions:
            tokens = tokens.replace(self.fusions[index](self.choose(tokens), tokens.prompts))
        return block(tokens)
