"""Export of every method with torch.export, for any number of images."""

from typing import Any

import pytest
import torch

from selfprompt.methods import list_methods
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.assemble import vit_backbone
from selfprompt.models.loading.by_name import load_backbone
from tests.methods.tiny import SMALL, images, small, traits
from tests.models.test_timm_eva import model_of
from tests.models.tiny_texts import FAMILIES, loaded

FEWER: dict[str, dict[str, Any]] = {"sep": {"layers": (1,)}}  # one fused block in each tower, to save time
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "clip", FEWER.get(name, {})) for name in list_methods()),
    *((name, "mae", {}) for name in ("gatevpt", "spt") if not traits(name).needs_text),
    ("sep", "clip", {"layers": (1, 3), "fusion": "shared", "fusion_rank": 8}),
]


ROTARY = ("DINOv3", "PE-Spatial", "ROPE-ViT mixed", "EVA-02 enormous CLIP")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "options"), CASES)
def test_predictions_are_exported_for_any_number_of_images(name: str, kind: str, options: dict[str, Any]) -> None:
    check(small(name, kind, **options), 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family"), [*(("coop", family) for family in FAMILIES), ("sep", "siglip2"), ("sep", "bert")]
)
def test_so_are_those_of_clips_with_other_texts(name: str, family: str) -> None:
    options = SMALL.get(name, {}) | FEWER.get(name, {})
    check(build_method(name, loaded(family)[0], ("cat", "dog"), **options).eval(), 32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROTARY)
def test_so_are_those_of_rotary_towers(kind: str) -> None:
    backbone = vit_backbone("tiny", model_of(kind))
    check(build_method("spt", backbone, ("cat", "dog"), prompts=2).eval(), 48)


def test_so_are_those_of_image_sides_of_which_only_features_are_known() -> None:
    check(build_method("linear", load_backbone("timm/test_convnext/random"), ("cat", "dog")).eval(), 160)


def check(method: Method, size: int) -> None:
    """Export the method, and compare the predictions for other numbers of images."""
    with torch.no_grad():
        count = torch.export.Dim("images", min=1, max=1024)
        program = torch.export.export(method, (images(2, size=size),), dynamic_shapes=({0: count},))
        exported = program.module()
        for number, seed in ((2, 1), (5, 2), (1, 3)):
            pictures = images(number, seed, size)
            difference = (exported(pictures) - method(pictures)).abs().max()
            assert difference < 1e-5 * max(1.0, method.backbone.scale)  # float32 in another order
