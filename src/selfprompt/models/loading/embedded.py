"""The two small backbones that ship with the package: architectures, weight files and tokenizer."""

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.embedded_clip import EmbeddedClip
from selfprompt.models.loading.bpe import BytePairTokenizer, clip_merges
from selfprompt.models.open_clip_vit import OpenClipText, OpenClipVision

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

IMAGE_SIZE = 64
CONTEXT = 32
VOCABULARY = 8192
CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of the images that the CLIP was trained on: OpenAI's."""
MAE_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of the images that the masked autoencoder was trained on."""
_FOLDER = Path(str(files("selfprompt") / "weights"))


class EmbeddedTokenizer(BytePairTokenizer):
    """CLIP's tokenizer cut to its first 7,678 merges: 8,192 ids, 32 tokens per text."""

    def __init__(self) -> None:
        super().__init__(clip_merges(VOCABULARY - 2 * 256 - 2), CONTEXT)


def build_clip() -> EmbeddedClip:
    """Build the embedded CLIP with weights drawn from the global random state."""
    return EmbeddedClip(json.loads((_FOLDER / "clip.json").read_bytes()))


def clip_backbone(name: str, clip: EmbeddedClip, note: str) -> Backbone:
    """Wrap the embedded CLIP in towers that share its weights; freezes it in place."""
    vision, text = OpenClipVision(clip.visual), OpenClipText(clip)
    scale = float(clip.logit_scale.detach().exp())
    preprocess = Preprocess(IMAGE_SIZE, *CLIP_STATISTICS)
    return Backbone(name, vision, text, EmbeddedTokenizer(), scale, preprocess, note=note)


def build_mae() -> "VisionTransformer":
    """Build the encoder of the embedded masked autoencoder with weights drawn from the global random state."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=8, embed_dim=128, depth=6, num_heads=4, mlp_ratio=4, num_classes=0
    )


def weights_file(name: str) -> Path:
    """Return the path of the weights of the embedded model ``name`` ("clip", "mae")."""
    return _FOLDER / f"{name}.safetensors"
