"""Trainable parameters of each method on the backbones of the papers."""

from dataclasses import dataclass

import pytest
import timm
import torch

from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone, Preprocess, load_backbone
from selfprompt.models.timm_vit import TimmViT


@dataclass(frozen=True)
class Size:
    """A ViT of the papers: timm's name, depth, width and parameters without a head."""

    name: str
    depth: int
    width: int
    frozen: int


B16 = Size("vit_base_patch16_224", 12, 768, 85_798_656)
L16 = Size("vit_large_patch16_224", 24, 1024, 303_301_632)
H14 = Size("vit_huge_patch14_224", 32, 1280, 630_764_800)


def trainable_count(method: Method) -> int:
    return sum(p.numel() for p in method.trainable().values())


def build(size: Size, name: str, classes: int, **options: object) -> Method:
    """Build a method on a backbone without weights (device "meta")."""
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
    assert trainable_count(method) == expected
    assert frozen == size.frozen
    assert 100 * expected / (frozen + expected) == pytest.approx(percent, abs=1e-3)


@pytest.mark.parametrize(("classes", "expected"), [(200, 153_800), (555, 426_795), (102, 78_438), (120, 92_280)])
def test_linear_probe(classes: int, expected: int) -> None:
    assert trainable_count(build(B16, "linear", classes)) == expected


@pytest.mark.parametrize("size", [B16, L16])
@pytest.mark.parametrize(("prompts", "classes"), [(100, 200), (7, 3)])
def test_gatevpt_has_a_gate_between_blocks_and_a_temperature_in_each(size: Size, prompts: int, classes: int) -> None:
    method = build(size, "gatevpt", classes, prompts=prompts)
    head = classes * (size.width + 1)
    assert trainable_count(method) == prompts * size.width + (size.depth - 1) + size.depth + head


@pytest.mark.parametrize("deep", [True, False])
def test_vpt(deep: bool) -> None:
    layers, head = B16.depth if deep else 1, 100 * (B16.width + 1)
    assert trainable_count(build(B16, "vpt", 100, prompts=10, deep=deep)) == layers * 10 * B16.width + head
    projected = trainable_count(build(B16, "vpt", 100, prompts=10, deep=deep, project=64))
    assert projected == layers * 10 * 64 + 64 * B16.width + B16.width + head


@pytest.mark.parametrize(("prompts", "rank", "deep", "factors"), [(50, 50, True, 183_600), (100, 75, False, 65_100)])
def test_bpt(prompts: int, rank: int, deep: bool, factors: int) -> None:
    method = build(B16, "bpt", 200, prompts=prompts, rank=rank, deep=deep)
    assert trainable_count(method) == factors + 200 * (B16.width + 1)


def test_full_trains_everything() -> None:
    assert trainable_count(build(B16, "full", 200)) == B16.frozen + 153_800


@pytest.fixture(scope="module")
def clip() -> Backbone:
    return load_backbone("open_clip/ViT-B-16/random")


@pytest.mark.parametrize("classes", [10, 50])
def test_sep_on_vit_b_16(clip: Backbone, classes: int) -> None:
    method = build_method("sep", clip, [f"class {i}" for i in range(classes)])
    assert trainable_count(method) == 44_814_380 + 512 * classes
    assert sum(t.numel() for t in method.adapter_state_dict().values()) == 44_814_380  # all that a prediction needs


def fusion_parameters(width: int, rank: int) -> int:
    """Count a fusion module: D x D and D x 256 matrices, whole or as products, four biases, two norms, s1, s2."""
    matrices = 4 * 2 * width * rank + 2 * rank * (width + 256) if rank else 4 * width**2 + 2 * 256 * width
    return matrices + 8 * width + 2


@pytest.mark.parametrize(
    ("options", "blocks", "rank", "expected"),
    [
        ({"image_start": "random", "text_start": "kmeans"}, 11, 0, 44_814_380),
        ({"fusion": "shared"}, 1, 0, 4_079_620),
        ({"fusion_rank": 16}, 11, 16, 2_551_852),
        ({"fusion": "shared", "fusion_rank": 16}, 1, 16, 237_572),
        ({"fusion_rank": 1, "layers": (2, 5, 11)}, 3, 1, 78_348),
    ],
)
def test_lighter_sep_on_vit_b_16(
    clip: Backbone, options: dict[str, object], blocks: int, rank: int, expected: int
) -> None:
    method = build_method("sep", clip, ["cat", "dog"], **options)
    modules = blocks * (fusion_parameters(512, rank) + fusion_parameters(768, rank))
    assert expected == 6 * 512 + 4 * 768 + modules
    assert trainable_count(method) - 2 * 512 == sum(t.numel() for t in method.adapter_state_dict().values()) == expected


def test_coop_on_vit_b_16(clip: Backbone) -> None:
    assert trainable_count(build_method("coop", clip, ["cat", "dog", "fish"])) == 8_192
    assert trainable_count(build_method("coop", clip, ["cat", "dog", "fish"], class_specific=True)) == 3 * 8_192
    assert trainable_count(build_method("coop", clip, ["cat", "dog"], init_text="a photo of a")) == 4 * 512
    assert trainable_count(build_method("zero-shot", clip, ["cat", "dog"])) == 0
    assert sum(p.numel() for tower in (clip.vision, clip.text) for p in tower.parameters()) == 149_620_737 - 1


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cocoop", {}, 35_360),
        ("cocoop", {"prompts": 16, "init_text": ""}, 41_504),
        ("kgcoop", {}, 2_048),
        ("prograd", {}, 8_192),
        ("tcp", {}, 2_048 + 329_856),
        ("promptsrc", {}, 46_080),
        ("promptsrc", {"depth": 3}, 15_360),
    ],
)
def test_context_learners_on_vit_b_16(clip: Backbone, name: str, options: dict[str, object], expected: int) -> None:
    for names in (["cat", "dog"], ["cat", "dog", "fish"]):
        assert trainable_count(build_method(name, clip, names, **options)) == expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("vpt-clip", {}, 73_728),
        ("vpt-clip", {"deep": False}, 8 * 768),
        ("ivlp", {}, 30_720),
        ("ivlp", {"text_prompts": 4, "image_prompts": 4, "depth": 9}, 46_080),
        ("ivlp", {"text_prompts": 4, "image_prompts": 4, "depth": 3}, 15_360),
        ("maple", {}, 3_555_072),
        ("maple", {"depth": 3}, 1_185_024),
        ("bitfit", {}, 12 * 11 * (768 + 512)),
        ("clip-lora", {}, 73_728 + 110_592),
        ("ln-tuning", {}, 61_440),
        ("mmrl", {}, 4_992_256),
        ("skip-tuning", {}, 62_099_456),
        ("tip-adapter", {}, 0),
    ],
)
def test_methods_with_image_prompts_on_vit_b_16(
    clip: Backbone, name: str, options: dict[str, object], expected: int
) -> None:
    for names in (["cat", "dog"], ["cat", "dog", "fish"]):
        assert trainable_count(build_method(name, clip, names, **options)) == expected


def test_methods_with_parameters_per_class_or_image_on_vit_b_16(clip: Backbone) -> None:
    names = [f"class {i}" for i in range(100)]
    for name in ("lpclip", "logistic", "lppp", "ridge", "simpleshot"):
        assert trainable_count(build_method(name, clip, names)) == 51_300
    assert trainable_count(build_method("gda", clip, names)) == 0
    assert trainable_count(build_method("two-stage", clip, names)) == 61_440 + 51_200
    assert trainable_count(build_method("class-lora", clip, names)) == 184_320 + 51_200
    cache = build_method("tip-adapter", clip, names, finetune=True)
    keys, labels = torch.zeros(16 * 100, 512), torch.arange(100).repeat(16)
    sharpness = {"alpha": torch.tensor(1.0), "beta": torch.tensor(1.0)}
    cache.load_adapter_state_dict({"keys": keys, "labels": labels, **sharpness})
    assert trainable_count(cache) == 819_200
