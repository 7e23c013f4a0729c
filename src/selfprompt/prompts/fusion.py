"""SEP's edit: prompts that are refreshed before a block from representative tokens of the same stream."""

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
    """Return CLIP's number of heads: one per 64 channels, at least one."""
    return max(1, width // 64)


class LowRank(nn.Module):
    """A linear layer whose matrix is a product of two: ``W2 W1 x + b`` with W1 (r, in) and W2 (out, r)."""

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
        result: Tensor = self.second(self.first(x))
        return result


class LowRankAttention(nn.Module):
    """Multi-head attention whose four projections (q, k, v and out) have low rank."""

    def __init__(self, width: int, heads: int, rank: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out_proj = (LowRank(width, width, rank) for _ in range(4))

    def forward(self, prompts: Tensor, tokens: Tensor) -> Tensor:
        """Attend from prompts, (N, P, D), to tokens, (N, M, D)."""
        pairs = ((self.query, prompts), (self.key, tokens), (self.value, tokens))
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer, x in pairs)
        attended = attend(query, key, value)  # (N, heads, P, D / heads)
        result: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return result


def draw_uniform(layer: nn.Linear | LowRank, bound: float, generator: torch.Generator | None) -> None:
    """Draw a layer's matrix from U(-bound, bound); a low-rank product gets entries of the same variance."""
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
    """SEP's token fusion module: prompts attend to representative tokens.

        A  = MHA(LNa(Q), LNa(R), LNa(R))
        R1 = s1 R + (1 - s1) A
        O  = s2 R1 + (1 - s2) W2 qgelu(W1 LNb(R1))

    R are the representative tokens, Q the prompts, O the new prompts, all (N, P, D); s1 and s2 are trainable scalars
    that start at 0.75. The residual path carries R, not Q.

    Differs from the reference code: ``axis="tokens"`` attends over the P tokens of one input, as the paper describes.
    The released code has ``axis="batch"``: for each of the P slots it attends across the N inputs, so that a result
    depends on the other inputs of the batch. The unused third layer norm is left out.

    Ours, not the paper's: with a ``rank`` r every matrix (q, k, v, out, W1, W2) is a product of two of rank r at most:
    10 D r + 512 r + 8 D + 2 parameters instead of 4 D^2 + 520 D + 2.

    Raises:
        ValueError: If the rank exceeds the width.

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
        """Draw the matrices; norms, biases and scalars have fixed initial values."""
        attention = self.attention
        if isinstance(attention, nn.MultiheadAttention):
            nn.init.xavier_uniform_(attention.in_proj_weight, generator=generator)
        else:
            for projection in (attention.query, attention.key, attention.value):
                draw_uniform(projection, (6 / (4 * projection.in_features)) ** 0.5, generator)  # Xavier's for (3D, D)
        for layer in (attention.out_proj, self.down, self.up):
            draw_uniform(layer, layer.in_features**-0.5, generator)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Compute new prompts, (N, P, D), from representative tokens and prompts of the same shape."""
        query, key = self.norm_attention(prompts), self.norm_attention(tokens)
        if self.axis == "batch":  # (N, P, D) -> (P, N, D): slot by slot across the inputs
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        if isinstance(self.attention, LowRankAttention):
            attended = self.attention(query, key)
        else:
            # need_weights makes torch use plain products, which are faster for few tokens; see attend
            few = key.is_cpu and key.shape[1] <= FEW_KEYS
            attended, _ = self.attention(query, key, key, need_weights=few, average_attn_weights=False)
        if self.axis == "batch":
            attended = attended.transpose(0, 1)
        fused = self.keep_tokens * tokens + (1 - self.keep_tokens) * attended
        hidden = self.down(self.norm_mlp(fused))
        hidden = self.up(hidden * torch.sigmoid(1.702 * hidden))
        result: Tensor = self.keep_attention * fused + (1 - self.keep_attention) * hidden
        return result


def fusion_modules(
    width: int,
    blocks: int,
    *,
    shared: bool = False,
    rank: int = 0,
    axis: FusionAxis = "tokens",
    generator: torch.Generator | None = None,
) -> nn.ModuleList:
    """Create the fusion modules of a tower with ``blocks`` refreshed blocks.

    There is one module per block, all with the same initial parameters, or, if ``shared`` (ours, not the paper's), one
    for all blocks.
    """
    first = TokenFusion(width, axis=axis, rank=rank, generator=generator)
    return nn.ModuleList(copy.deepcopy(first) for _ in range(min(1, blocks) if shared else blocks))


def by_layer(layers: Sequence[int], modules: nn.ModuleList) -> dict[int, TokenFusion]:
    """Return the fusion module of each refreshed block, by block index."""
    each = list(modules) * len(layers) if len(modules) == 1 else modules
    return {layer: module for layer, module in zip(layers, each, strict=True) if isinstance(module, TokenFusion)}


def strongest_indices(tokens: Tokens, count: int, selection: Selection = "image") -> Tensor:
    """Return the indices of the tokens of largest mean square, strongest first; prompts are excluded.

    Args:
        tokens: A stream; CLS may be selected.
        count: Number of tokens to select, at most prefix + N.
        selection: "image" selects for each image; "batch" selects once, by the mean over the batch (as released).

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


def strongest_tokens(tokens: Tokens, count: int, selection: Selection = "image") -> Tensor:
    """Return the representative tokens of images, (B, count, D); without gradient through the selection."""
    index = strongest_indices(tokens, count, selection)
    index = index + tokens.count * (index >= tokens.prefix)  # indices into the stream, which includes the prompts
    if selection == "batch":
        return tokens.x[:, index]
    return tokens.x.gather(1, index[..., None].expand(-1, -1, tokens.x.shape[-1]))


@dataclass(frozen=True)
class Fuse:
    """The prompter of SEP: prompts are inserted once and refreshed before some blocks.

    Attributes:
        prompts: (P, D).
        fusions: Token fusion modules by block index.
        select: Returns the representative tokens of a stream, (B, P, D).
        in_place: Whether the prompts replace the placeholders of a text.
    """

    prompts: Tensor
    fusions: Mapping[int, TokenFusion]
    select: Callable[[Tokens], Tensor]
    in_place: bool = False
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        if self.in_place:
            return tokens.mark(len(self.prompts)).replace(self.prompts)
        return tokens.insert(self.prompts)

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index in self.fusions:
            tokens = tokens.replace(self.fusions[index](self.select(tokens), tokens.prompts))
        return block(tokens)
