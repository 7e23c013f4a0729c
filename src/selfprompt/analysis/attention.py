"""Where the tokens that become an image's features look: at prompts, at patches, at the prefix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.analysis.streams import Stream
from selfprompt.models.tower import Pooling, VisionTower


@dataclass(frozen=True)
class Look:
    """Attention of the asking tokens, mean over heads and asking tokens; the three parts of an image sum to 1.

    Attributes:
        prefix: On CLS and registers, (depth, B, prefix).
        prompts: On prompts, (depth, B, P).
        patches: On patches, (depth, B, N).
    """

    prefix: Tensor
    prompts: Tensor
    patches: Tensor

    def shares(self) -> Tensor:
        """Mass on prefix, prompts and patches, mean over images, (depth, 3)."""
        parts = (self.prefix, self.prompts, self.patches)
        return torch.stack([part.sum(dim=-1).mean(dim=-1) for part in parts], dim=-1)


def class_token_asks(tower: VisionTower, pooling: Pooling) -> bool:
    """Whether features are the class token's; otherwise they are made of the patches."""
    native = tower.class_token and tower.facts().get("pool") in ("token", "tok")  # timm's word, open_clip's word
    return pooling == "cls" or (pooling == "native" and native)


@torch.no_grad()
def look(stream: Stream) -> Look:
    """Attention of the class token, or of the patches where features are averaged, in every block of a run.

    Raises:
        TypeError: If the tower's attention cannot be looked at.
    """
    by_class = class_token_asks(stream.tower, stream.pooling)
    parts = []
    for index, tokens in enumerate(stream.inputs):
        first_patch = tokens.prefix + tokens.count
        asking = slice(0, 1) if by_class else slice(first_patch, None)
        row = stream.attention(index)[:, :, asking].mean(dim=(1, 2))  # (B, L)
        parts.append(row.split([tokens.prefix, tokens.count, row.shape[1] - first_patch], dim=1))
    prefix, prompts, patches = (torch.stack(part) for part in zip(*parts, strict=True))
    return Look(prefix, prompts, patches)
