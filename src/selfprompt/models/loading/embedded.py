"""The two small backbones that ship with the package: their architectures and weights.

The CLIP is built and run without open_clip and timm, whose import takes longer than predicting with it.
"""

import json
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.loading.bpe import BytePairTokenizer, clip_merges
from selfprompt.models.open_clip_vit import OpenClipText, OpenClipVision

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

IMAGE_SIZE = 64
CONTEXT = 32
VOCABULARY = 8192
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and deviation of the images that the CLIP was trained on: OpenAI's."""
MAE_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of the images that the masked autoencoder was trained on."""
_FOLDER = Path(str(files("selfprompt") / "weights"))


class LayerNorm(nn.LayerNorm):
    """Under autocast it returns what it got, as open_clip's does."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(input.dtype)


class ResidualAttentionBlock(nn.Module):
    """The weights of a block, under open_clip's names (its own is in the fingerprint)."""

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
    """The blocks of a side."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))


class EmbeddedVision(nn.Module):
    """The image side of the embedded CLIP, under open_clip's names; pools the mean of the patches."""

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
        """The mean of the patches, and the patches."""
        patches = self.ln_post(x)[:, 1:]
        return patches.mean(dim=1), patches


class EmbeddedClip(nn.Module):
    """The embedded CLIP as ``clip.json`` has it, under open_clip's names; the towers compute, this holds weights."""

    text_pool_type, text_eos_id = "argmax", VOCABULARY - 1

    def __init__(self) -> None:
        super().__init__()
        config = json.loads((_FOLDER / "clip.json").read_bytes())
        features, text = config["embed_dim"], config["text_cfg"]
        width, context = text["width"], text["context_length"]
        self.visual = EmbeddedVision(features, **config["vision_cfg"])
        self.token_embedding = nn.Embedding(text["vocab_size"], width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.transformer = Transformer(width, text["heads"], text["layers"])
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, features))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("attn_mask", torch.full((context, context), -torch.inf).triu(1), persistent=False)

    def backbone(self, name: str, note: str) -> Backbone:
        """Its towers with the tokenizer, frozen in place; they share its weights."""
        vision, text = OpenClipVision(self.visual), OpenClipText(self)
        scale = float(self.logit_scale.detach().exp())
        return Backbone(
            name, vision, text, EmbeddedTokenizer(), scale, Preprocess(IMAGE_SIZE, *CLIP_STATISTICS), note=note
        )


class EmbeddedTokenizer(BytePairTokenizer):
    """CLIP's tokenizer cut to its first 7,678 merges: 8,192 ids, 32 tokens a text."""

    def __init__(self) -> None:
        super().__init__(clip_merges(VOCABULARY - 2 * 256 - 2), CONTEXT)


def build_mae() -> "VisionTransformer":
    """The encoder of the embedded masked autoencoder, with weights drawn from the global random state."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=8, embed_dim=128, depth=6, num_heads=4, mlp_ratio=4, num_classes=0
    )


def weights_file(name: str) -> Path:
    """Where the weights of the embedded model ``name`` ("clip", "mae") are."""
    return _FOLDER / f"{name}.safetensors"
