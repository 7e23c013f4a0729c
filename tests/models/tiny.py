"""Small models whose weights are all random (a zero class token would hide mistakes)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfprompt.models.tokens import Tokens

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
VOCABULARY = 60
CONTEXT = 12


def shake(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter random values of a useful size."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 0.2 if parameter.ndim > 1 else 0.1
        shift = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
        parameter.data = shift + scale * torch.randn(parameter.shape, generator=generator)


def vit(**options: Any) -> VisionTransformer:
    """A timm ViT of 48 channels and 2 blocks; options as timm's, ``distilled=True`` for DeiT's class."""
    kind = VisionTransformerDistilled if options.pop("distilled", False) else VisionTransformer
    model = kind(**{**SMALL, **options})
    shake(model)
    return model.eval()


def eva(**options: Any) -> Eva:
    """A timm Eva of 48 channels and 2 blocks, 36 patches of images of 48 pixels; options as timm's."""
    model = Eva(**{**SMALL, "img_size": 48, "num_classes": 0, **options})
    shake(model)
    return model.eval()


def clip(
    custom: bool = False,
    quick_gelu: bool = False,
    bias: bool = False,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> CLIP | CustomTextCLIP:
    """An open_clip model of 64 channels and 2 blocks a side, features of 16."""
    vision_cfg = CLIPVisionCfg(**{"layers": 2, "width": 64, "patch_size": 8, "image_size": 32, **(vision or {})})
    sizes = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 64, "heads": 1, "layers": 2}
    kind = CustomTextCLIP if custom else CLIP
    model = kind(
        16,
        vision_cfg,
        CLIPTextCfg(**{**sizes, **(text or {})}),
        quick_gelu,
        init_logit_bias=-1.0 if bias else None,
    )
    shake(model)
    return model.requires_grad_(False).eval()  # frozen: PyTorch rounds attention differently when it is not


def resnet_clip(vocabulary: int = VOCABULARY) -> CLIP:
    """A CLIP whose image side is a ResNet for images of 64 pixels, with quick GELU as OpenAI's; features of 16."""
    vision = CLIPVisionCfg(layers=(1, 2, 1, 1), width=8, image_size=64)
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=vocabulary, width=64, heads=1, layers=2)
    model = CLIP(16, vision, text, quick_gelu=True)
    shake(model)
    return model.requires_grad_(False).eval()


def coca(text: dict[str, Any]) -> CoCa:
    """A CoCa of 64 channels and 3 blocks on the image side, features of 16; options of the text side as open_clip's."""
    vision_cfg = CLIPVisionCfg(
        layers=3, width=64, patch_size=8, image_size=32, attentional_pool=True, output_tokens=True
    )
    decoder = MultimodalCfg(layers=1, width=64, heads=1)
    model = CoCa(16, decoder, CLIPTextCfg(**{"width": 64, "heads": 1, **text}), vision_cfg)
    shake(model)
    return model.requires_grad_(False).eval()


def images(count: int = 2, size: tuple[int, int] = (32, 32)) -> Tensor:
    """Random images, (count, 3, height, width)."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(7))


def texts(lengths: tuple[int, ...] = (5, 9, 12), length: int = CONTEXT) -> Tensor:
    """Random ids with the greatest id, the end of text, at position length - 1 and zeros behind it."""
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(1, VOCABULARY - 2, (len(lengths), length), generator=generator)
    for row, end in zip(ids, lengths, strict=True):
        row[end - 1] = VOCABULARY - 1
        row[end:] = 0
    return ids


@dataclass(frozen=True)
class Replace:
    """Deep prompts: inserted at the start, replaced before every block."""

    values: Tensor  # (depth, P, D)

    def start(self, tokens: Tokens) -> Tokens:
        """Insert the first prompts."""
        return tokens.insert(self.values[0])

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        """Replace the prompts, then run the block."""
        return block(tokens.replace(self.values[index]))


@dataclass(frozen=True)
class Placeholders:
    """Text prompts: the tokens behind SOS are replaced, the sequence keeps its length."""

    values: Tensor  # (P, D)

    def start(self, tokens: Tokens) -> Tokens:
        """Mark the placeholders and replace them."""
        return tokens.mark(len(self.values)).replace(self.values)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        """Run the block."""
        return block(tokens)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Assert equality up to float rounding: towers skip unused tokens, so sums run in another order."""
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=1e-5)


def changed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return other weights of the same names and shapes."""
    generator = torch.Generator().manual_seed(9)
    return {name: tensor + 0.03 * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
