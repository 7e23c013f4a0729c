"""VIPAMIN's initial prompts: means of patch tokens with similar keys, and a part whose value is new to the attention.

Source: VIPAMIN (arXiv 2510.16446, NeurIPS 2025).
Differs from the reference code: it multiplies by the inverse of W_V on the wrong side, so that the new part is not
orthogonal to the attention's outputs, and its deep variant takes W_V of block 11 in block 1. Here the paper's formula
holds in every block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.models.block import BlockParts, run_block
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import VisionTower
from selfprompt.prompts.prototypes import BATCH_SIZE, SampleSource


@dataclass(frozen=True)
class BlockMeans:
    """What the start needs of a block, as means over images.

    Attributes:
        keys: Key of each patch, averaged over the heads, (N, A / heads).
        tokens: Patch tokens that enter the block, (N, D).
        attended: Output of the attention before its projection, for the prefix and the patches, (L, A).
    """

    keys: Tensor
    tokens: Tensor
    attended: Tensor


def block_means(block: BlockParts, x: Tensor, prefix: int) -> BlockMeans:
    """Return the means over a batch of inputs of a block, (B, L, D), that begin with ``prefix`` other tokens."""
    attended: list[Tensor] = []

    def watch(outputs: Tensor, queries: Tensor) -> Tensor:
        attended.append(outputs.mean(dim=0))
        return block.out_proj(outputs, queries)

    run_block(replace(block, out_proj=watch), x)
    return BlockMeans(head_mean_keys(block, x[:, prefix:]).mean(dim=0), x[:, prefix:].mean(dim=0), attended[0])


def head_mean_keys(block: BlockParts, tokens: Tensor) -> Tensor:
    """Return the keys of tokens, (..., L, D), averaged over the heads, (..., L, A / heads); without positions."""
    bias = None if block.bias is None else block.bias.chunk(3)[1]
    keys = F.linear(block.norm(tokens), block.weight.chunk(3)[1], bias).unflatten(-1, (block.heads, -1))
    return block.norm_k(keys.transpose(-3, -2)).mean(dim=-3)


def matched_tokens(block: BlockParts, prompts: Tensor, means: BlockMeans, neighbours: int) -> Tensor:
    """Return for each prompt, (P, D), the mean of the mean patch tokens whose keys are most like its own, (P, D)."""
    similar = F.normalize(head_mean_keys(block, prompts), dim=-1) @ F.normalize(means.keys, dim=-1).t()
    nearest = similar.argsort(dim=1, descending=True, stable=True)[:, :neighbours]
    return means.tokens[nearest].mean(dim=1)


def orthogonal_tokens(block: BlockParts, random: Tensor, means: BlockMeans) -> Tensor:
    """Return tokens like random ones, (P, D), whose values are orthogonal to the attention's outputs, (P, D).

    With v the value of a random token and Q an orthonormal basis of the outputs, the value becomes (I - Q Q^T) v, and
    the token is found by the pseudo-inverse of W_V.

    Raises:
        ValueError: If the outputs span all directions, so that nothing is orthogonal to them.
    """
    outputs, width = means.attended.double(), means.attended.shape[1]
    if len(outputs) >= width:
        raise ValueError(
            f"VIPAMIN's orthogonal part needs fewer tokens than channels, got {len(outputs)} tokens of {width} "
            "channels; set orthogonal to 0."
        )
    basis = torch.linalg.qr(outputs.t()).Q
    weight = block.weight.chunk(3)[2].double()
    bias = weight.new_zeros(len(weight)) if block.bias is None else block.bias.chunk(3)[2].double()
    values = random.double() @ weight.t() + bias
    new = values - values @ basis @ basis.t()
    result: Tensor = (new - bias) @ torch.linalg.pinv(weight).t()
    return result.to(random.dtype)


@torch.no_grad()
def vipamin_start(
    tower: VisionTower,
    source: SampleSource,
    prompts: Tensor,
    random: Tensor,
    *,
    images: Sequence[int],
    neighbours: int,
    orthogonal: float,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return the initial prompts of each layer, (layers, P, D): ``(1 - orthogonal) match + orthogonal new``.

    Args:
        tower: The frozen backbone; its blocks must be known.
        source: Training images.
        prompts: Random prompts, (layers, P, D), whose keys choose the patches.
        random: Random tokens, (layers, P, D), whose values are made orthogonal.
        images: Indices of the images that the means are taken over.
        neighbours: Patches per prompt; at most N are there.
        orthogonal: Weight of the new part, in [0, 1].
        progress: Called with (images done, number of images).

    Raises:
        TypeError: If the blocks of the tower are not known.
        ValueError: If the attention's outputs span all directions.
    """
    weight = next(tower.parameters())
    watcher = _BlockWatcher(tower, len(prompts))
    for start in range(0, len(images), BATCH_SIZE):
        numbers = images[start : start + BATCH_SIZE]
        tower(source.batch(numbers).to(weight.device, weight.dtype), watcher)
        if progress:
            progress(start + len(numbers), len(images))
    result = []
    for index, (own, other) in enumerate(zip(prompts, random, strict=True)):
        block, means = watcher.block(index), watcher.mean(index)
        tokens = matched_tokens(block, own.to(weight), means, neighbours)
        if orthogonal:
            tokens = torch.lerp(tokens, orthogonal_tokens(block, other.to(weight), means), orthogonal)
        result.append(tokens)
    return torch.stack(result)


@dataclass
class _BlockWatcher:
    """A prompter without prompts that sums the means of the first blocks, weighted by the images of each batch."""

    tower: VisionTower
    layers: int
    images: int = 0
    sums: dict[int, BlockMeans] = field(default_factory=dict)

    def start(self, tokens: Tokens) -> Tokens:
        self.images += len(tokens.x)
        return tokens

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        if index < self.layers:
            means, size = block_means(self.block(index), tokens.x, tokens.prefix), len(tokens.x)
            before = self.sums.get(index)
            parts = {name: size * value for name, value in vars(means).items()}
            self.sums[index] = BlockMeans(
                **{name: value if before is None else value + getattr(before, name) for name, value in parts.items()}
            )
        return block(tokens) if index + 1 < self.layers else tokens

    def block(self, index: int) -> BlockParts:
        """Return the parts of a block."""
        block = self.tower.block_parts(index)
        if block is None:
            raise TypeError(f"VIPAMIN reads the keys and values of a block, which {self.tower.requirement(index)}.")
        return block

    def mean(self, index: int) -> BlockMeans:
        """Return the means over all images."""
        return BlockMeans(**{name: value / self.images for name, value in vars(self.sums[index]).items()})
