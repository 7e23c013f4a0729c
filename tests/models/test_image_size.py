"""Another image size: positions as timm and open_clip resample them, and refusals before anything is fetched."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as eva_filter_fn
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from selfprompt.models.backbone import Preprocess
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.loading.assemble import vit_backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_eva import timm_tower
from tests.models.tiny import Replace, assert_same, clip, images, resnet_clip, shake, texts, vit

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"
VITS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers without positions": {"reg_tokens": 3, "no_embed_class": True},
    "no class token, average": {"class_token": False, "global_pool": "avg"},
    "dynamic": {"dynamic_img_size": True},
}
EVAS: dict[str, dict[str, Any]] = {
    "DINOv3": {
        "rope_type": "dinov3",
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_rotate_half": True,
        "num_reg_tokens": 2,
        "rope_grid_offset": 0.5,
    },
    "EVA-02": {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)},
    "mixed": {"use_rot_pos_emb": True, "rope_type": "mixed", "attn_type": "rope"},
}


SIZES: dict[str, Any] = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def eva(**options: Any) -> Eva:
    model = Eva(**{**SIZES, "img_size": 32, "num_classes": 0, **options})
    shake(model)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [24, 56])
@pytest.mark.parametrize("kind", VITS)
def test_a_vit_equals_one_that_timm_builds_at_this_size(kind: str, size: int) -> None:
    weights = vit(**VITS[kind])
    theirs = VisionTransformer(**{**SIZES, **VITS[kind], "img_size": size, "num_classes": 5})
    theirs.load_state_dict(checkpoint_filter_fn(weights.state_dict(), theirs))
    tower = timm_tower(weights)
    tower.set_image_size(size)
    x = images(size=(size, size))
    assert tower.image_size == (size, size)
    assert torch.equal(tower.state_dict()["vit.pos_embed"], theirs.pos_embed)
    assert_same(tower(x), theirs.eval().forward_head(theirs.forward_features(x), pre_logits=True))
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@torch.no_grad()
@pytest.mark.parametrize("size", [24, 56])
@pytest.mark.parametrize("kind", EVAS)
def test_an_eva_equals_one_that_timm_builds_at_this_size(kind: str, size: int) -> None:
    weights = eva(**EVAS[kind])
    theirs = eva(**EVAS[kind], img_size=size)
    theirs.load_state_dict(eva_filter_fn(weights.state_dict(), theirs))
    tower = timm_tower(weights)
    remark = tower.set_image_size(size)
    assert_same(tower(images(size=(size, size))), theirs(images(size=(size, size))))
    assert ("extrapolated" in remark) == (kind == "mixed" and size > 32)
    assert tower(images(size=(size, size)), Replace(torch.randn(2, 3, 48))).shape == (2, 48)


@torch.no_grad()
@pytest.mark.parametrize("size", [24, 56])
def test_a_clip_equals_one_that_open_clip_builds_at_this_size(size: int) -> None:
    weights, theirs = clip(), clip(vision={"image_size": size})
    state = weights.state_dict()
    resize_pos_embed(state, theirs)
    theirs.load_state_dict(state)
    vision, text = clip_towers(weights)
    vision.set_image_size(size)
    x = images(size=(size, size))
    assert torch.equal(vision.state_dict()["visual.positional_embedding"], theirs.visual.positional_embedding)
    assert_same(vision(x), theirs.encode_image(x))
    assert_same(text(texts()), theirs.encode_text(texts()))


def test_open_clip_itself_gives_the_same_bytes(tmp_path: Path) -> None:
    model = open_clip.create_model("ViT-S-32")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors")
    theirs: Any = open_clip.create_model("ViT-S-32", pretrained=path, force_image_size=320)
    ours = load_backbone(f"open_clip/ViT-S-32@{tmp_path}/model.safetensors", image_size=320)
    assert torch.equal(ours.vision.state_dict()["visual.positional_embedding"], theirs.visual.positional_embedding)
    assert (ours.preprocess.size, ours.vision.image_size, ours.image_size) == (320, (320, 320), 320)


def test_timm_itself_gives_the_same_bytes_and_one_fingerprint(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    local = {"file": str(tmp_path / "model.safetensors")}
    theirs = timm.create_model("test_vit", True, num_classes=0, img_size=192, pretrained_cfg_overlay=local)
    ours = load_backbone(f"timm/test_vit@{tmp_path}/model.safetensors", image_size=192)
    assert ours.fingerprint == vit_backbone("theirs", theirs).fingerprint
    own = load_backbone(f"timm/test_vit@{tmp_path}/model.safetensors")
    assert own.fingerprint != ours.fingerprint
    same = load_backbone(f"timm/test_vit@{tmp_path}/model.safetensors", image_size=160)
    assert same.fingerprint == own.fingerprint


def test_positions_of_a_file_are_resampled_once(tmp_path: Path) -> None:
    shown = timm.create_model("test_vit", num_classes=0, img_size=96)
    save_file(shown.state_dict(), tmp_path / "model.safetensors")
    ours = load_backbone(f"timm/test_vit@{tmp_path}/model.safetensors", image_size=96)  # the architecture's own is 160
    assert torch.equal(ours.vision.state_dict()["vit.pos_embed"], shown.pos_embed)


def test_naflex_resamples_bilinearly() -> None:
    folder = f"file/{GOLDEN}/siglip2_naflex"
    own, larger = load_backbone(folder), load_backbone(folder, image_size=48)
    grid = own.vision.state_dict()["vit.pos_embed"].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(6, 6), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(larger.vision.state_dict()["vit.pos_embed"], expected, atol=1e-6, rtol=0)
    assert larger.text is not None
    assert own.text is not None
    assert all(torch.equal(t, larger.text.state_dict()[name]) for name, t in own.text.state_dict().items())


def test_a_folder_says_which_size_its_preprocessing_is_for(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "clip_quickgelu", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config |= {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    own, small = load_backbone(f"file/{tmp_path}"), load_backbone(f"file/{tmp_path}", image_size=16)
    assert "image_size=16 takes those" in own.note
    assert "takes those" not in small.note
    assert (small.preprocess.size, small.preprocess.resize) == (16, 20)


@torch.no_grad()
def test_networks_of_convolutions_take_multiples_of_32() -> None:
    model = timm.create_model("test_convnext", num_classes=0).eval()
    expected = model(images(size=(96, 96)))
    backbone = vit_backbone("tiny", model).with_image_size(96)
    assert torch.equal(backbone.vision(images(size=(96, 96))), expected)
    assert (backbone.preprocess.size, backbone.vision.image_size) == (96, (96, 96))
    with pytest.raises(ValueError, match=r"multiple of 32, .*: 64 or 96, got 80"):
        backbone.with_image_size(80)


@pytest.mark.parametrize("size", [96, 90])
def test_an_attention_pool_takes_one_size(size: int) -> None:
    tower = FeatureTower(resnet_clip().visual, (64, 64))
    assert tower.set_image_size(64) == ""
    with pytest.raises(
        ValueError, match=rf"image_size must be 64, as ModifiedResNet takes no other images, got {size}; "
    ):
        tower.set_image_size(size)


REFUSED = {
    "timm/vit_small_patch14_dinov2.lvd142m": (220, "a multiple of 14, the patch size .*: 210 or 224, got 220"),
    "timm/vit_small_patch16_dinov3.lvd1689m": (8, "a multiple of 16, the patch size .*: 16, got 8"),
    "timm/swin_tiny_patch4_window7_224.ms_in1k": (256, "must be 224, as SwinTransformer takes no other images"),
    "timm/resnet18.a1_in1k": (230, "a multiple of 32, .*: 224 or 256, got 230"),
    "open_clip/ViT-B-32/openai": (225, "a multiple of 32, .*: 224 or 256, got 225"),
    "embedded/clip": (100, "a multiple of 8, .*: 96 or 104, got 100"),
    "embedded/mae": (5000, "image_size must lie in 1..4096 pixels, got 5000"),
    "open_clip/ViT-B-16/openai": (0, "image_size must lie in 1..4096 pixels, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_sizes_are_refused_before_anything_is_fetched(name: str) -> None:
    size, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        load_backbone(name, image_size=size, say=lambda line: pytest.fail(line))


def test_a_size_is_a_whole_number() -> None:
    with pytest.raises(TypeError, match=r"image_size must be a whole number of pixels, got 224\.0"):
        load_backbone("embedded/clip", image_size=224.0)  # type: ignore[arg-type]


def test_a_larger_resize_keeps_its_proportion() -> None:
    assert Preprocess(224, (0.5,) * 3, (0.5,) * 3, resize=256).at_size(518).resize == 592
    assert Preprocess(224, (0.5,) * 3, (0.5,) * 3).at_size(518).resize is None
