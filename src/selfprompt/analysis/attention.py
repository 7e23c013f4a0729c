"""Attention of the tokens that become an image's features: to prompts, to patches and to the prefix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.analysis.tower_runs import TowerRun
from selfprompt.models.tower import Pooling, VisionTower


@dataclass(frozen=True)
class AttentionMass:
    """Attention weights, averaged over heads and queries; the three parts of an image sum to 1.

    Attributes:
        prefix: To CLS and registers, (depth, B, prefix).
        prompts: To prompts, (depth, B, P).
        patches: To patches, (depth, B, N).
    """

    prefix: Tensor
    prompts: Tensor
    patches: Tensor

    def shares(self) -> Tensor:
        """Return the mass on prefix, prompts and patches, averaged over images, (depth, 3)."""
        parts = (self.prefix, self.prompts, self.patches)
        return torch.stack([part.sum(dim=-1).mean(dim=-1) for part in parts], dim=-1)


def pools_class_token(tower: VisionTower, pooling: Pooling) -> bool:
    """Return whether features come from the class token; otherwise they come from the patches."""
    native = tower.class_token and tower.facts().get("pool") in ("token", "tok")  # timm's word, open_clip's word
    return pooling == "cls" or (pooling in ("native", "unprojected") and native)


@torch.no_grad()
def attention_mass(run: TowerRun) -> AttentionMass:
    """Compute the attention of the class token, or of the patches if these are averaged, in every block of a run.

    Raises:
        TypeError: If the tower cannot compute attention weights.
    """
    by_class = pools_class_token(run.tower, run.pooling)
    blocks = []
    for index, tokens in enumerate(run.inputs):
        first_patch = tokens.prefix + tokens.count
        queries = slice(0, 1) if by_class else slice(first_patch, None)
        row = run.attention(index)[:, :, queries].mean(dim=(1, 2))  # (B, L)
        blocks.append(row.split([tokens.prefix, tokens.count, row.shape[1] - first_patch], dim=1))
    prefix, prompts, patches = (torch.stack(part) for part in zip(*blocks, strict=True))
    return AttentionMass(prefix, prompts, patches)
