"""TimmViT equals timm's own forward, in every variant that prompts can enter; the others are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from timm.models.vitamin import VitCfg, VitConvCfg

from selfprompt.models.timm_vit import TimmViT
from selfprompt.prompts.static import Static
from tests.models.tiny import SMALL, assert_same, changed, images, shake, vit

GOLDEN = Path(__file__).parents[1] / "golden"

VARIANTS: dict[str, dict[str, Any]] = {
    "token": {},
    "avg": {"global_pool": "avg"},
    "avg without fc_norm": {"global_pool": "avg", "fc_norm": False},
    "max": {"global_pool": "max"},
    "avgmax": {"global_pool": "avgmax"},
    "map": {"global_pool": "map"},
    "prr": {"global_pool": "prr"},
    "map without class token": {"global_pool": "map", "class_token": False},
    "pool with prefix": {"global_pool": "avg", "pool_include_prefix": True},
    "no class token": {"global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 4},
    "registers without class token": {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
    "distilled": {"distilled": True},
    "pre_norm": {"pre_norm": True},
    "no_embed_class": {"no_embed_class": True},
    "deit3": {"no_embed_class": True, "init_values": 1e-2},
    "dinov2": {"init_values": 1e-2, "reg_tokens": 4, "no_embed_class": True, "dynamic_img_size": True},
    "dynamic": {"dynamic_img_size": True},
    "no positions": {"pos_embed": "none"},
    "no final norm": {"final_norm": False},
    "qk_norm": {"qk_norm": True},
    "patch 16": {"patch_size": 16},
    "oblong images": {"img_size": (32, 48)},
    "oblong patches": {"patch_size": (8, 4)},
    "dropout": {"proj_drop_rate": 0.5, "attn_drop_rate": 0.5, "drop_path_rate": 0.5, "pos_drop_rate": 0.5},
    "patch dropout": {"patch_drop_rate": 0.5},
    "parallel blocks": {"block_fn": ParallelScalingBlock},
}


def _inputs(model: VisionTransformer) -> torch.Tensor:
    return images(size=model.patch_embed.img_size)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_timm(name: str) -> None:
    model = vit(**VARIANTS[name])
    x = _inputs(model)
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    tower = TimmViT(model)
    assert_same(tower(x), expected)
    assert expected.shape == (2, tower.features)


@torch.no_grad()
def test_vitamin_equals_timm_without_and_with_prompts() -> None:
    stages = VitCfg(
        embed_dim=(16, 24, 48), depths=(1, 1, 1), stem_width=16, conv_cfg=VitConvCfg(norm_layer="layernorm2d")
    )
    sizes = {"img_size": 48, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vitamin_small_224", embed_cfg=stages, **sizes).eval()
    shake(model)
    x = images(size=(48, 48))
    tower = TimmViT(model)
    assert_same(tower(x), model.forward_head(model.forward_features(x), pre_logits=True))
    prompts = torch.randn(5, 48, generator=torch.Generator().manual_seed(1))
    stream = torch.cat([prompts.expand(2, -1, -1), tower.patches(x) + model.pos_embed], dim=1)
    for block in model.blocks:
        stream = block(stream)
    expected = model.fc_norm(stream[:, 5:].mean(dim=1))
    assert_same(tower(x, Static(prompts[None])), expected)


@torch.no_grad()
def test_other_image_sizes_with_dynamic_img_size() -> None:
    model = vit(dynamic_img_size=True)
    x = images(size=(48, 64))
    assert_same(TimmViT(model)(x), model.forward_head(model.forward_features(x), pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_patches_have_no_prefix_and_no_position(name: str) -> None:
    model = vit(**VARIANTS[name])
    tower = TimmViT(model)
    x = _inputs(model)
    patches = tower.patches(x)
    assert patches.shape == (2, model.patch_embed.num_patches, tower.width)
    conv = model.patch_embed.proj(x).flatten(2).transpose(1, 2)
    assert torch.equal(patches, conv)


def test_describes_itself() -> None:
    tower = TimmViT(vit(img_size=(32, 48), reg_tokens=3))
    assert (tower.depth, tower.width, tower.features, tower.prefix) == (2, 48, 48, 4)
    assert (tower.image_size, tower.patch_size, tower.class_token) == ((32, 48), (8, 8), True)
    assert tower.facts()["activation"] == "GELU"
    assert tower.facts()["heads"] == 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "avg", "registers", "no_embed_class"])
def test_poolings_by_hand(name: str) -> None:
    model = vit(**VARIANTS[name])
    tower = TimmViT(model)
    tokens = tower.enter(tower.embed(images()).insert(torch.randn(3, 48, generator=torch.Generator().manual_seed(1))))
    norm = model.fc_norm if name == "avg" else model.norm
    x, n0 = tokens.x, tower.prefix
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(tower.pool(tokens, images(), "cls"), norm(x)[:, 0], **close)
    torch.testing.assert_close(tower.pool(tokens, images(), "avg"), norm(x[:, n0:].mean(1)), **close)
    torch.testing.assert_close(tower.pool(tokens, images(), "patches"), norm(x[:, n0 + 3 :].mean(1)), **close)
    torch.testing.assert_close(tower.pool(tokens, images(), "prompts"), norm(x[:, n0 : n0 + 3].mean(1)), **close)


@torch.no_grad()
def test_cls_needs_a_class_token() -> None:
    tower = TimmViT(vit(global_pool="avg", class_token=False, reg_tokens=2))
    with pytest.raises(ValueError, match="needs a class token"):
        tower(images(), pooling="cls")


@torch.no_grad()
@pytest.mark.parametrize(("pooling", "array"), [("cls", "cls"), ("native", "cls"), ("avg", "mae_norm")])
def test_equals_the_published_models(pooling: Any, array: str) -> None:
    weights, golden = np.load(GOLDEN / "spt_weights.npz"), np.load(GOLDEN / "spt_fwd_plain.npz")
    model = VisionTransformer(**{**SMALL, "depth": 4})
    names = [key for key in weights.files if key.startswith("w.")]
    model.load_state_dict({key.removeprefix("w."): torch.from_numpy(weights[key]) for key in names})
    features = TimmViT(model.eval())(torch.from_numpy(golden["images"]), pooling=pooling)
    np.testing.assert_allclose(features, golden[f"features_{array}"], atol=1e-5)
    double = TimmViT(model.double())(torch.from_numpy(golden["images"]).double(), pooling=pooling)
    np.testing.assert_allclose(double, golden[f"features_{array}_f64"], atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "qk_norm", "deit3", "registers"])
def test_temperature(name: str) -> None:
    tower = TimmViT(vit(**VARIANTS[name]))
    tokens = tower.embed(images())
    plain = tower.block(0, tokens)
    torch.testing.assert_close(tower.block(0, tokens, temperature=torch.ones(())).x, plain.x, atol=1e-6, rtol=0)
    warm = tower.block(0, tokens, temperature=torch.tensor(2.0))
    tower.vit.blocks[0].attn.fused_attn = False  # timm's own unfused path: q is scaled by hand
    tower.vit.blocks[0].attn.scale /= 2
    torch.testing.assert_close(tower.upstream_block(0, tokens.x, None), warm.x, atol=2e-6, rtol=1e-5)


def test_temperature_gets_a_gradient() -> None:
    tower = TimmViT(vit())
    temperature = torch.ones((), requires_grad=True)
    tower.block(0, tower.embed(images()), temperature=temperature).x.sum().backward()
    assert temperature.grad is not None
    assert temperature.grad.abs() > 0


def test_temperature_needs_a_plain_block() -> None:
    tower = TimmViT(vit(block_fn=ParallelScalingBlock))
    with pytest.raises(TypeError, match="ParallelScalingBlock"):
        tower.block(0, tower.embed(images()), temperature=torch.ones(()))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Eva, "Supported: plain timm VisionTransformer and Eva"),
        (Beit, "relative position bias"),
        (SwinTransformer, "windows"),
    ],
)
def test_refuses_other_families(kind: type, reason: str) -> None:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 48}
    more = {"depths": (1, 1), "num_heads": (3, 3), "window_size": 4}
    model = kind(**sizes, **(more if kind is SwinTransformer else {"depth": 1, "num_heads": 3}))
    with pytest.raises(TypeError, match=reason):
        TimmViT(model)


def test_refuses_a_subclass() -> None:
    class Other(VisionTransformer):
        pass

    with pytest.raises(TypeError, match="Supported: plain timm VisionTransformer"):
        TimmViT(Other(**SMALL))


def test_refuses_a_model_without_pooling() -> None:
    with pytest.raises(ValueError, match="global_pool"):
        TimmViT(vit(global_pool=""))


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "parallel blocks"])
def test_given_weights_replace_those_of_a_block(name: str) -> None:
    tower = TimmViT(vit(**VARIANTS[name]))
    tokens, block, own = tower.embed(images(size=tower.image_size)), tower.vit.blocks[1], tower.block_weights(1)
    assert {"norm1.weight", "qkv.weight", "out.bias", "norm2.bias", "up.weight", "down.bias"} <= own.keys()
    before = tower.block(1, tokens).x
    torch.testing.assert_close(tower.block(1, tokens, weights=own).x, before, atol=1e-6, rtol=0)
    others = changed(own)
    found = tower.block(1, tokens, weights=others).x
    assert tower.block(1, tokens).x.equal(before)
    for tensor, other in zip(own.values(), others.values(), strict=True):
        tensor.copy_(other)
    torch.testing.assert_close(found, block(tokens.x), atol=2e-5, rtol=1e-5)  # values above 10


def test_weights_of_an_unknown_name_or_block_are_refused() -> None:
    tower = TimmViT(vit(qkv_bias=False))
    with pytest.raises(ValueError, match=r"no out\.gain, qkv\.bias\. It has norm1\.weight, .*, down\.bias\."):
        tower.block(0, tower.embed(images()), weights={"qkv.bias": torch.zeros(144), "out.gain": torch.zeros(1)})
    tower = TimmViT(vit(block_fn=ParallelScalingBlock))
    with pytest.raises(TypeError, match="Changing a block needs timm's plain Block"):
        tower.block(0, tower.embed(images()), weights={})
    with pytest.raises(TypeError, match="Changing a block needs timm's plain Block"):
        tower.block_weights(0)
