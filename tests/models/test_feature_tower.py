"""Image sides of which only features are known give upstream's, and refuse prompts."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.loading.assemble import clip_backbone, vit_backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.tower import NoPrompts
from tests.models.tiny import CONTEXT, VOCABULARY, Replace, images, resnet_clip, shake, texts

NETWORKS = ("test_resnet", "test_convnext", "test_byobnet", "test_efficientnet", "test_vit_relpos")
"""Tiny models of timm, for images of 160 pixels."""


def network(name: str = "test_resnet", **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(name, num_classes=0, **options)
    shake(model)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer += 0.1 * torch.rand(buffer.shape, generator=torch.Generator().manual_seed(2))  # running statistics
    return model.eval().requires_grad_(False)


def timm_clip(trunk: str, **options: Any) -> CustomTextCLIP:
    vision = CLIPVisionCfg(timm_model_name=trunk, image_size=160, **options)
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, width=64, heads=1, layers=2)
    model = CustomTextCLIP(16, vision, text)
    shake(model)
    return model.requires_grad_(False).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_features_equal_those_of_timm(name: str) -> None:
    model = network(name)
    x = images(size=(160, 160))
    expected = model(x)
    backbone = vit_backbone(name, model)
    assert torch.equal(backbone.vision(x), expected)
    assert backbone.vision.features == backbone.vision.feature_size("native") == expected.shape[1]
    assert (backbone.preprocess.size, backbone.pooling, backbone.vision.has_blocks) == (160, "native", False)


@torch.no_grad()
def test_features_equal_those_of_a_clip_with_a_resnet() -> None:
    model = resnet_clip()
    x, ids = images(size=(64, 64)), texts()
    expected, expected_texts = model.encode_image(x), model.encode_text(ids)
    vision, text = clip_towers(model)
    assert torch.equal(vision(x), expected)
    torch.testing.assert_close(text(ids), expected_texts, atol=1e-5, rtol=1e-5)
    assert vision.facts()["class"] == "ModifiedResNet"


@torch.no_grad()
@pytest.mark.parametrize(
    ("trunk", "options"),
    [
        ("test_convnext", {"timm_proj": "mlp"}),
        ("test_resnet", {"timm_pool": "avg", "timm_proj": "linear"}),
        ("test_vit_relpos", {"timm_pool": "", "timm_proj": "linear"}),
    ],
)
def test_features_equal_those_of_a_clip_with_a_timm_trunk(trunk: str, options: dict[str, Any]) -> None:
    model = timm_clip(trunk, **options)
    x = images(size=(160, 160))
    expected = model.encode_image(x)
    backbone = clip_backbone("tiny", model, lambda written: texts((5,) * len(written)), images={})
    assert isinstance(backbone.vision, FeatureTower)
    assert torch.equal(backbone.vision(x), expected)
    assert backbone.vision.features == 16


def test_a_trunk_that_is_a_plain_vit_takes_prompts() -> None:
    vision, _ = clip_towers(timm_clip("test_vit", timm_proj="linear"))
    assert vision.has_blocks


def test_batch_normalisation_keeps_the_statistics_of_the_pretraining() -> None:
    tower = FeatureTower(network(), (160, 160))
    before = {name: tensor.clone() for name, tensor in tower.state_dict().items()}
    tower.train()
    tower(images(size=(160, 160)))
    assert all(torch.equal(before[name], tensor) for name, tensor in tower.state_dict().items())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_prompts_and_poolings_are_refused() -> None:
    tower, x = FeatureTower(network(), (160, 160)), images(size=(160, 160))
    assert torch.equal(tower(x, NoPrompts()), tower(x))
    with pytest.raises(TypeError, match="Prompts cannot enter ResNet, of which only the features are known"):
        tower(x, Replace(torch.zeros(1, 2, 8)))
    with pytest.raises(ValueError, match="Only the final features of ResNet are known, the pooling native, got 'avg'"):
        tower(x, pooling="avg")


def test_other_outputs_and_sizes_are_refused() -> None:
    with pytest.raises(TypeError, match="something else than one vector per image"):
        FeatureTower(network(global_pool=""), (160, 160))
    with pytest.raises(ValueError, match="ModifiedResNet does not take images of 96 x 96 pixels"):
        FeatureTower(resnet_clip().visual, (96, 96))


def test_the_fingerprint_depends_on_what_the_weights_do_not_show() -> None:
    plain = vit_backbone("plain", network())
    same = vit_backbone("same", network())
    strided = network()
    strided.maxpool.stride = 1
    strict = network()
    strict.bn1.eps = 1e-3
    prints = {vit_backbone("other", other).fingerprint for other in (strided, strict)}
    assert plain.fingerprint == same.fingerprint
    assert len(prints | {plain.fingerprint}) == 3


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_file_of_a_named_network(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name)  # with the classifier
    shake(model)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone(f"timm/{name}@{tmp_path}/weights.safetensors")
    model.reset_classifier(0)
    x = images(size=(160, 160))
    assert torch.equal(backbone.vision(x), model.eval()(x))
    with pytest.raises(ValueError, match=r"weights\.safetensors does not fit ByobNet: .* missing"):
        load_backbone(f"timm/test_byobnet@{tmp_path}/weights.safetensors")


def test_random_networks_are_always_the_same() -> None:
    first, second = (load_backbone("timm/test_resnet/random") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert "random weights" in first.note


@pytest.mark.parametrize("name", ["RN50", "MobileCLIP2-S0", "convnext_base", "ViT-B-32"])
def test_names_of_open_clip_are_accepted(name: str) -> None:
    from selfprompt.models.loading.open_clip_models import check_name

    assert name in open_clip.list_models()
    check_name(f"open_clip/{name}", name)
