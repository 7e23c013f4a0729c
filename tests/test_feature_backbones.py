"""Backbones of which only image features are known, from `tune` to the saved classifier and new class names."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import selfprompt
from selfprompt import tune
from tests.models.tiny import resnet_clip

NAMES = ["navy", "scarlet"]


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    """The name of a CLIP with a ResNet, read from a file."""
    save_file(resnet_clip(vocabulary=49408).state_dict(), tmp_path / "resnet.safetensors")
    return f"file/{tmp_path}/resnet.safetensors"


@pytest.mark.parametrize(("method", "settings"), [("coop", {"epochs": 1, "options": {"prompts": 2}}), ("ridge", {})])
def test_a_clip_with_a_resnet(photos, resnet, tmp_path, method, settings):
    tuned = tune(photos, method=method, backbone=resnet, out=tmp_path / "out", **settings)
    loaded = selfprompt.load(tmp_path / "out", backbone=resnet)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.method(x), tuned.method(x))
    assert loaded.method.backbone.fingerprint == tuned.results["backbone"]["fingerprint"]
    if method == "coop":
        assert loaded.with_classes(NAMES).classes == tuple(NAMES)
    else:
        with pytest.raises(ValueError, match="ridge cannot take new class names"):
            loaded.with_classes(NAMES)


def test_its_text_prompts_are_analysed(photos, resnet, tmp_path, run):
    tune(photos, method="coop", backbone=resnet, out=tmp_path / "out", epochs=1, options={"prompts": 2})
    done = run("analyze", tmp_path / "out", "--backbone", resnet)
    assert done.status == 0, done.err
    assert "index.html" in done.out


def test_a_folder_of_a_named_network(tmp_path):
    model = timm.create_model("test_convnext")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    images = {"tag": "mine", "input_size": [3, 160, 160]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_convnext", "pretrained_cfg": images}))
    backbone = selfprompt.load_backbone(f"timm/local-dir:{tmp_path}", image_size=96)
    x = torch.randn(2, 3, 96, 96)
    model.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(backbone.vision(x), model.eval()(x))


def test_a_convnext_of_timm(photos, tmp_path):
    tuned = tune(photos, method="ridge", backbone="timm/test_convnext/random", out=tmp_path / "out")
    loaded = selfprompt.load(tmp_path / "out")
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(loaded.method(x), tuned.method(x))


def test_a_method_that_puts_prompts_into_images_is_refused_before_training(photos, resnet):
    with pytest.raises(
        TypeError, match=r"sep puts prompts into the image side .* \(zero-shot, coop, tip-adapter, ridge\)"
    ):
        tune(photos, method="sep", backbone=resnet)
