"""What works with an architecture of timm or open_clip, found by building it without weights."""

import warnings
from dataclasses import dataclass
from functools import cache

import timm
import torch

from selfprompt.models.loading import assemble, open_clip_models, timm_models
from selfprompt.models.loading.catalogue import open_clip_tags
from selfprompt.models.open_clip_vit import clip_towers

VIT_MODULES = (
    *("vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam"),
    *("beit", "cait", "deit", "eva", "naflexvit", "vitamin"),
)
"""Modules of timm that build ViTs."""


@dataclass(frozen=True)
class Support:
    """What can be done with an architecture.

    Attributes:
        blocks: Whether prompts can enter its image side; if not, its features are known.
        text: Whether class names can be read, with prompts and without.
        refusal: Why it does not load at all, as a sentence; empty if it does.
    """

    blocks: bool
    text: bool
    refusal: str = ""


@cache
def support_of(model: str) -> Support:
    """Build an architecture, "timm/NAME" or "open_clip/NAME", without weights, and return what works with it."""
    family, _, name = model.partition("/")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, about configurations
            return _of_timm(model, name) if family == "timm" else _of_open_clip(model, name)
    except (TypeError, ValueError, RuntimeError) as error:
        return Support(blocks=False, text=False, refusal=str(error).splitlines()[0])


def _of_timm(model: str, name: str) -> Support:
    timm_models.check_name(model, name)
    backbone = assemble.vit_backbone(model, timm.create_model(name, num_classes=0))
    return Support(blocks=backbone.vision.has_blocks, text=False)


def _of_open_clip(model: str, name: str) -> Support:
    open_clip_models.check_name(model, name)
    vision, text = clip_towers(open_clip_models.random_clip(name, device="meta"))
    return Support(blocks=vision.has_blocks, text=text is not None)


def architectures() -> dict[str, int]:
    """Return every architecture of open_clip and of timm's ViT modules, with its number of pretrained weights."""
    counts = {f"open_clip/{name}": len(tags) for name, tags in open_clip_tags().items()}
    weights = [name.partition(".")[0] for name in timm.list_pretrained()]
    for module in VIT_MODULES:
        counts |= {f"timm/{name}": weights.count(name) for name in timm.list_models(module=module)}
    return counts
