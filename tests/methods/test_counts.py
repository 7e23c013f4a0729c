"""How many numbers each method tunes on the papers' backbones."""

from dataclasses import dataclass

import pytest
import timm
import torch

from selfprompt.methods.base import Method, build_method
from selfprompt.towers.load import Backbone, Preprocess, load_backbone
from selfprompt.towers.timm_vit import TimmViT


@dataclass(frozen=True)
class Size:
    """A ViT of the papers: timm's name, depth, width and numbers without a head."""

    name: str
    depth: int
    width: int
    frozen: int


B16 = Size("vit_base_patch16_224", 12, 768, 85_798_656)
L16 = Size("vit_large_patch16_224", 24, 1024, 303_301_632)
H14 = Size("vit_huge_patch14_224", 32, 1280, 630_764_800)


def tuned(method: Method) -> int:
    return sum(p.numel() for p in method.trainable().values())


def build(size: Size, name: str, classes: int, **options: object) -> Method:
    """A method on a backbone whose weights are only shapes."""
    with torch.device("meta"):
        vit = timm.create_model(size.name, num_classes=0)
    preprocess = Preprocess(224, (0.5,) * 3, (0.5,) * 3)
    shapes = Backbone(size.name, TimmViT(vit), None, None, 1.0, preprocess)
    return build_method(name, shapes, [f"class {i}" for i in range(classes)], **options)


@pytest.mark.parametrize(
    ("size", "classes", "deep", "expected", "percent"),
    [
        (B16, 200, False, 230_600, 0.268),
        (B16, 200, True, 338_120, 0.393),
        (B16, 555, False, 503_595, 0.584),
        (B16, 555, True, 611_115, 0.707),
        (B16, 102, True, 262_758, 0.305),
        (B16, 120, False, 169_080, 0.197),
        (B16, 196, True, 335_044, 0.389),
        (L16, 200, False, 307_400, 0.101),
        (L16, 200, True, 696_520, 0.229),
        (H14, 200, False, 384_200, 0.061),
        (H14, 200, True, 1_075_400, 0.170),
    ],
)
def test_spt(size: Size, classes: int, deep: bool, expected: int, percent: float) -> None:
    method = build(size, "spt", classes, deep=deep, prompts=20 if deep else 100)
    frozen = sum(p.numel() for p in method.vision.parameters())
    assert tuned(method) == expected
    assert frozen == size.frozen
    assert 100 * expected / (frozen + expected) == pytest.approx(percent, abs=1e-3)


@pytest.mark.parametrize(("classes", "expected"), [(200, 153_800), (555, 426_795), (102, 78_438), (120, 92_280)])
def test_linear_probe(classes: int, expected: int) -> None:
    assert tuned(build(B16, "linear", classes)) == expected


@pytest.mark.parametrize("size", [B16, L16])
@pytest.mark.parametrize(("prompts", "classes"), [(100, 200), (7, 3)])
def test_gatevpt_has_a_gate_less_than_blocks_and_a_temperature_each(size: Size, prompts: int, classes: int) -> None:
    method = build(size, "gatevpt", classes, prompts=prompts)
    head = classes * (size.width + 1)
    assert tuned(method) == prompts * size.width + (size.depth - 1) + size.depth + head


@pytest.mark.parametrize("deep", [True, False])
def test_vpt(deep: bool) -> None:
    layers, head = B16.depth if deep else 1, 100 * (B16.width + 1)
    assert tuned(build(B16, "vpt", 100, prompts=10, deep=deep)) == layers * 10 * B16.width + head
    projected = tuned(build(B16, "vpt", 100, prompts=10, deep=deep, project=64))
    assert projected == layers * 10 * 64 + 64 * B16.width + B16.width + head


def test_full_tunes_everything() -> None:
    assert tuned(build(B16, "full", 200)) == B16.frozen + 153_800


@pytest.fixture(scope="module")
def clip() -> Backbone:
    return load_backbone("open_clip/ViT-B-16/random")


@pytest.mark.parametrize("classes", [10, 50])
def test_sep_on_vit_b_16(clip: Backbone, classes: int) -> None:
    method = build_method("sep", clip, [f"class {i}" for i in range(classes)])
    assert tuned(method) == 44_814_380 + 512 * classes
    assert sum(t.numel() for t in method.learned().values()) == 44_814_380  # all that a prediction needs


def test_coop_on_vit_b_16(clip: Backbone) -> None:
    assert tuned(build_method("coop", clip, ["cat", "dog", "fish"])) == 8_192
    assert tuned(build_method("coop", clip, ["cat", "dog", "fish"], class_specific=True)) == 3 * 8_192
    assert tuned(build_method("coop", clip, ["cat", "dog"], words="a photo of a")) == 4 * 512
    assert tuned(build_method("zero-shot", clip, ["cat", "dog"])) == 0
    assert sum(p.numel() for tower in (clip.vision, clip.text) for p in tower.parameters()) == 149_620_737 - 1
