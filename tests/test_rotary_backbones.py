"""Methods on small backbones with rotary positions, from training to an artifact that is loaded again."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch

import selfprompt
from selfprompt import tune
from selfprompt.models.backbone import Backbone
from selfprompt.models.loading.assemble import clip_backbone, vit_backbone
from tests.models.test_timm_eva import VARIANTS, model_of
from tests.models.tiny import clip, eva

QUICK = {"epochs": 1, "shots": 2, "workers": 0, "batch_size": 4, "lr": 0.01}
HEAD = {"head": "linear"}
ON_VITS = [
    ("spt-deep", "DINOv3", {"prompts": 2}),
    ("spt-deep", "ROPE-ViT mixed", {"prompts": 2}),
    ("vpt-deep", "EVA-02 base", {"prompts": 2}),
    ("vpt-shallow", "EVA-02 enormous CLIP", {"prompts": 2}),
    ("linear", "PE-Spatial", {}),
    ("ridge", "registers and average", {}),
    ("full", "ROPE-ViT mixed", {}),
    ("full", "EVA-02 base", {}),
    ("bitfit", "DINOv3 with biases", HEAD),
    ("ln-tuning", "DINOv3", HEAD),
]
TRUNKS = {"EVA02": ("eva02_base_patch16_clip_224", "token"), "PE-Core": ("vit_pe_core_base_patch16_224", "map")}
SEP = {"text_prompts": 2, "image_prompts": 2}
ON_CLIPS = [
    ("sep", "EVA02", SEP),
    ("sep", "PE-Core", SEP),
    ("clip-lora", "EVA02", {}),
    ("clip-svd", "PE-Core", {}),
    ("bitfit", "EVA02", {}),
    ("vpt-clip", "PE-Core", {"prompts": 2}),
]


def vit(name: str) -> Backbone:
    return vit_backbone("tiny", model_of(name))


def clip_of(kind: str) -> Backbone:
    """A CLIP with a small image side of this kind, and CLIP's vocabulary."""
    name, pool = TRUNKS[kind]
    vision = {"timm_model_name": name, "timm_pool": pool, "timm_proj": ""}
    tokenizer = open_clip.SimpleTokenizer()
    text = {"vocab_size": tokenizer.vocab_size, "context_length": 77}
    return clip_backbone("tiny", clip(custom=True, vision=vision, text=text), tokenizer, images={})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **options, **sizes))


def check(photos: Path, out: Path, method: str, first: Backbone, again: Backbone, options: dict[str, Any]) -> None:
    """Train, save, load with the same backbone built again, and predict the same."""
    before = {key: tensor.clone() for key, tensor in first.vision.state_dict().items()}
    training = {"shots": 0} if method == "ridge" else QUICK
    tuned = tune(photos, method=method, backbone=first, out=out, options=options, **training)
    assert all(tensor.equal(before[key]) for key, tensor in first.vision.state_dict().items())
    loaded = selfprompt.load(out, backbone=again)
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loaded.logits(pixels), tuned.logits(pixels), atol=1e-5, rtol=0)
    assert loaded.classes == tuned.classes


@pytest.mark.parametrize(("method", "name", "options"), ON_VITS)
def test_methods_on_vits(method: str, name: str, options: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    check(photos, tmp_path, method, vit(name), vit(name), options)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind", "options"), ON_CLIPS)
@pytest.mark.usefixtures("small")
def test_methods_on_clips(method: str, kind: str, options: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    check(photos, tmp_path, method, clip_of(kind), clip_of(kind), options)


@pytest.mark.usefixtures("small")
def test_sep_on_a_rotary_clip_takes_new_names(photos: Path) -> None:
    tuned = tune(photos, method="sep", backbone=clip_of("EVA02"), options=SEP, **QUICK)
    renamed = tuned.with_classes(["sea", "wood", "sand"])
    assert renamed.logits(torch.zeros(1, 3, 48, 48)).shape == (1, 3)


def test_an_artifact_refuses_the_same_weights_with_other_rotations(photos: Path, tmp_path: Path) -> None:
    tune(photos, method="ridge", backbone=vit("EVA-02 small"), out=tmp_path, shots=0)
    other = vit_backbone("tiny", eva(**{**VARIANTS["EVA-02 small"], "ref_feat_shape": None}))
    with pytest.raises(ValueError, match="its weights or architecture differ"):
        selfprompt.load(tmp_path, backbone=other)
