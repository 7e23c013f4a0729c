"""SEP's edit: prompts refreshed in front of a block from representative tokens of the same stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfprompt.tokens import Tokens

FusionAxis = Literal["tokens", "batch"]
Selection = Literal["image", "batch"]


def attention_heads(width: int) -> int:
    """CLIP's rule: heads of 64 channels, at least one."""
    return max(1, width // 64)


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

    Source: SEP, arXiv 2405.15549.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int = 256,
        axis: FusionAxis = "tokens",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.axis = axis
        self.norm_attention = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, attention_heads(width), batch_first=True)
        self.norm_mlp = nn.LayerNorm(width)
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.keep_tokens = nn.Parameter(torch.full((1,), 0.75))
        self.keep_attention = nn.Parameter(torch.full((1,), 0.75))
        self._draw(generator)

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw the matrices; norms, biases and scalars have fixed starting values."""
        nn.init.xavier_uniform_(self.attention.in_proj_weight, generator=generator)
        for linear in (self.attention.out_proj, self.down, self.up):
            bound = linear.in_features**-0.5
            nn.init.uniform_(linear.weight, -bound, bound, generator=generator)

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """New prompts, (N, P, D), from representative tokens and prompts of that shape."""
        query, key = self.norm_attention(prompts), self.norm_attention(tokens)
        if self.axis == "batch":  # (N, P, D) -> (P, N, D): slot by slot across the inputs
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        answer, _ = self.attention(query, key, key, need_weights=False)
        if self.axis == "batch":
            answer = answer.transpose(0, 1)
        fused = self.keep_tokens * tokens + (1 - self.keep_tokens) * answer
        hidden = self.down(self.norm_mlp(fused))
        hidden = self.up(hidden * torch.sigmoid(1.702 * hidden))
        return self.keep_attention * fused + (1 - self.keep_attention) * hidden


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
    power = tokens.others().detach().square().mean(dim=-1)
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
    if selection == "batch":
        return tokens.others()[:, index]
    return tokens.others().gather(1, index[..., None].expand(-1, -1, tokens.x.shape[-1]))


@dataclass(frozen=True)
class Fuse:
    """The prompter of SEP: prompts enter once and are refreshed in front of chosen blocks.

    Attributes:
        prompts: (P, D).
        fusions: The token fusion module of each block that has one, by block index.
        choose: Takes the stream and gives its representative tokens, (B, P, D).
        in_place: The prompts' places exist already, as placeholders of a text.
        reach: Text positions that ``choose`` reads.
    """

    prompts: Tensor
    fusions: Mapping[int, TokenFusion]
    choose: Callable[[Tokens], Tensor]
    in_place: bool = False
    reach: int = 0

    def start(self, tokens: Tokens) -> Tokens:
        if self.in_place:
            return tokens.mark(len(self.prompts)).replace(self.prompts)
        return tokens.insert(self.prompts)

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index in self.fusions:
            tokens = tokens.replace(self.fusions[index](self.choose(tokens), tokens.prompts))
        return block(tokens)
