"""The modules of the embedded CLIP, which hold its weights under open_clip's names; the towers compute with them.

Written out here because importing open_clip and timm takes longer than predicting with this model.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Layer norm that returns its input's type under autocast, as open_clip's does."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(input.dtype)


class ResidualAttentionBlock(nn.Module):
    """The weights of a block; the class has open_clip's name, which is part of the fingerprint."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1 = nn.Identity()
        self.ln_2 = LayerNorm(width)
        parts = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.ls_2 = nn.Identity()


class Transformer(nn.Module):
    """The blocks of one side."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))


class EmbeddedVision(nn.Module):
    """The image side; pools the mean of the patches."""

    pool_type, final_ln_after_pool, attn_pool = "avg", False, None

    def __init__(
        self, features: int, *, image_size: int, patch_size: int, width: int, head_width: int, layers: int, **_: Any
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.output_dim = (image_size,) * 2, (patch_size,) * 2, features
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + (image_size // patch_size) ** 2, width))
        self.ln_pre = nn.Identity()
        self.transformer = Transformer(width, width // head_width, layers)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, features))

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of the patches, and the patches."""
        patches = self.ln_post(x)[:, 1:]
        return patches.mean(dim=1), patches


class EmbeddedClip(nn.Module):
    """Both sides of the embedded CLIP.

    Args:
        config: open_clip's configuration of the model.
    """

    text_pool_type = "argmax"

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        features, text = config["embed_dim"], config["text_cfg"]
        width, context = text["width"], text["context_length"]
        self.text_eos_id = text["vocab_size"] - 1
        self.visual = EmbeddedVision(features, **config["vision_cfg"])
        self.token_embedding = nn.Embedding(text["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.transformer = Transformer(width, text["heads"], text["layers"])
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, features))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("attn_mask", torch.full((context, context), -torch.inf).triu(1), persistent=False)
