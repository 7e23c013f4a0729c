"""TimmEva equals timm's own forward in every published kind of Eva, without and with prompts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.layers import RmsNorm
from timm.models.eva import Eva
from torch import Tensor

from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.block import attention_weights, run_block
from selfprompt.models.timm_eva import TimmEva, is_dinov3, timm_tower
from selfprompt.models.timm_vit import TimmViT
from selfprompt.prompts.static import Static
from tests.models.tiny import Replace, assert_same, changed, eva, images, shake, vit

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones" / "dinov3"
SIZE = (48, 48)

DINOV3: dict[str, Any] = {
    "num_reg_tokens": 4,
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "rope_type": "dinov3",
    "rope_temperature": 100,
    "rope_rotate_half": True,
    "init_values": 0.1,
    "dynamic_img_size": True,
    "use_fc_norm": False,
}
EVA02: dict[str, Any] = {"swiglu_mlp": True, "mlp_ratio": 2.5, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
PE: dict[str, Any] = {
    "attn_type": "rope",
    "use_pre_transformer_norm": True,
    "use_rot_pos_emb": True,
    "rope_grid_offset": 1.0,
    "rope_grid_indexing": "xy",
    "ref_feat_shape": (4, 4),
    "global_pool": "map",
    "attn_pool_num_heads": 4,
}
ROPE: dict[str, Any] = {
    "attn_type": "rope",
    "use_rot_pos_emb": True,
    "no_embed_class": True,
    "rope_grid_indexing": "xy",
    "init_values": 0.1,
    "global_pool": "token",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "DINOv3": {**DINOV3, "qkv_bias": False},
    "DINOv3 with biases": DINOV3,
    "DINOv3 with SwiGLU": {**DINOV3, "qkv_bias": False, "swiglu_mlp": True, "swiglu_align_to": 8},
    "EVA": {},
    "EVA-02 small": EVA02,
    "EVA-02 base": {**EVA02, "qkv_fused": False, "scale_mlp": True},
    "EVA-02 CLIP": {
        **EVA02,
        "qkv_fused": False,
        "scale_mlp": True,
        "scale_attn_inner": True,
        "global_pool": "token",
    },
    "EVA-02 enormous CLIP": {"use_post_norm": True, "global_pool": "token"},
    "PE-Core": PE,
    "PE-Core G": {**PE, "class_token": False, "rope_grid_offset": 0.0},
    "PE-Spatial": {**PE, "global_pool": "avg", "use_post_transformer_norm": False, "use_fc_norm": False},
    "PE-Lang": {
        **PE,
        "global_pool": "avg",
        "use_post_transformer_norm": False,
        "use_fc_norm": False,
        "init_values": 0.1,
    },
    "ROPE-ViT": {**ROPE, "use_abs_pos_emb": False},
    "ROPE-ViT ape": ROPE,
    "ROPE-ViT mixed": {**ROPE, "use_abs_pos_emb": False, "rope_type": "mixed", "rope_temperature": 10.0},
    "ROPE-ViT mixed ape": {**ROPE, "rope_type": "mixed", "rope_temperature": 10.0},
    "registers and average": {
        "class_token": False,
        "num_reg_tokens": 4,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (16, 16),
        "init_values": 0.1,
    },
    "norms of q and k, scale of the attention alone": {
        **DINOV3,
        "attn_type": "rope",
        "qkv_fused": False,
        "qk_norm": True,
        "norm_layer": RmsNorm,
        "attn_only_layer_scale": True,
        "swiglu_mlp": True,
    },
    "gate": {**DINOV3, "gate": True},
}


def model_of(name: str) -> Eva:
    options = dict(VARIANTS[name])
    gated = options.pop("gate", False)
    model = eva(**options)
    for block in model.blocks if gated else ():  # timm's Eva has no option for the gate that its blocks know
        block.attn.gate = torch.nn.Linear(48, 48)
    shake(model)
    return model


def upstream(model: Eva, x: Tensor, prompts: Tensor) -> Tensor:
    """timm's own features when prompts, (P, D), count as further tokens of the prefix and are dropped at the end."""
    stream, rope = model._pos_embed(model.patch_embed(x))
    stream, prefix, count = model.norm_pre(stream), model.num_prefix_tokens, len(prompts)
    stream = torch.cat([stream[:, :prefix], prompts.expand(len(x), -1, -1), stream[:, prefix:]], dim=1)
    for index, block in enumerate(model.blocks):
        block.attn.num_prefix_tokens = prefix + count
        stream = block(stream, rope=rope[index] if model.rope_mixed else rope)
        block.attn.num_prefix_tokens = prefix
    stream = torch.cat([stream[:, :prefix], stream[:, prefix + count :]], dim=1)
    return model.forward_head(model.norm(stream), pre_logits=True)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_timm(name: str) -> None:
    model = model_of(name)
    expected = model.forward_head(model.forward_features(images(size=SIZE)), pre_logits=True)
    tower = timm_tower(model)
    assert isinstance(tower, TimmEva)
    assert_same(tower(images(size=SIZE)), expected)
    assert expected.shape == (2, tower.features)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_prompts_equal_a_longer_prefix_of_timm(name: str) -> None:
    model, prompts = model_of(name), drawn(5, 48)
    tower = TimmEva(model)
    expected = upstream(model, images(size=SIZE), prompts)
    assert_same(tower(images(size=SIZE), Static(prompts[None])), expected)
    assert_same(tower(images(size=SIZE), Replace(torch.empty(2, 0, 48))), tower(images(size=SIZE)))
    assert (expected - tower(images(size=SIZE))).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["native", "cls", "avg"])
@pytest.mark.parametrize("name", VARIANTS)
def test_deep_prompts_are_keys_without_outputs(name: str, pooling: Any) -> None:
    tower, deep = TimmEva(model_of(name)), drawn(2, 5, 48)
    if pooling == "cls" and not tower.class_token:
        with pytest.raises(ValueError, match="needs a class token"):
            tower(images(size=SIZE), pooling=pooling)
        return
    every_token = tower(images(size=SIZE), Replace(deep), pooling=pooling)  # computes all outputs in all blocks
    assert_same(tower(images(size=SIZE), Static(deep), pooling=pooling), every_token)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_attention_weights_are_those_of_the_block(name: str) -> None:
    tower = TimmEva(model_of(name))
    tokens = tower.embed(images(size=SIZE)).insert(drawn(3, 48))
    block: Any = tower.vit.blocks[1]
    parts = tower.block_parts(1)
    y = parts.norm(tokens.x)
    values = F.linear(y, parts.weight, parts.bias).chunk(3, dim=-1)[2].unflatten(-1, (3, -1)).transpose(1, 2)
    weights = tower.attention(1, tokens)
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-5
    attended = block.attn.norm((weights @ values).transpose(1, 2).flatten(2))
    attended = attended if block.attn.gate is None else attended * block.attn.gate(y).sigmoid()
    block.attn.num_prefix_tokens += 3
    rotary = tower.rotary(1)
    rope = None if rotary is None else rotary.table
    torch.testing.assert_close(block.attn.proj(attended), block.attn(y, rope=rope), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_given_weights_replace_those_of_a_block(name: str) -> None:
    model = model_of(name)
    tower = TimmEva(model)
    tokens, own = tower.embed(images(size=SIZE)), tower.block_weights(1)
    before = tower.block(1, tokens).x
    assert_same(tower.block(1, tokens, weights=own).x, before)
    others = changed(own)
    found = tower.block(1, tokens, weights=others).x
    attn: Any = model.blocks[1].attn
    attn.qkv = torch.nn.Linear(48, 144, bias="qkv.bias" in own)
    attn.q_bias = None
    layers = {"norm1": model.blocks[1].norm1, "qkv": attn.qkv, "out": attn.proj, "norm2": model.blocks[1].norm2}
    layers |= {"up": model.blocks[1].mlp.fc1, "down": model.blocks[1].mlp.fc2} if "up.weight" in own else {}
    for key, tensor in others.items():
        layer, _, kind = key.partition(".")
        getattr(layers[layer], kind).copy_(tensor)
    rotary = tower.rotary(1)
    expected = model.blocks[1](tokens.x, rope=None if rotary is None else rotary.table)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)  # values above 10
    assert not torch.allclose(found, before, atol=1e-3)


@torch.no_grad()
def test_biases_that_a_projection_lacks_are_zero() -> None:
    for name in ("DINOv3 with biases", "EVA-02 base"):
        _, k, _ = TimmEva(model_of(name)).block_weights(0)["qkv.bias"].chunk(3)
        assert not k.any()
    assert "qkv.bias" not in TimmEva(model_of("DINOv3")).block_weights(0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["DINOv3", "EVA-02 base", "ROPE-ViT mixed"])
def test_temperature_and_qkv_delta(name: str) -> None:
    tower, delta = TimmEva(model_of(name)), 0.1 * drawn(144, 48)
    tokens = tower.embed(images(size=SIZE))
    plain, warm = tower.attention(0, tokens), tower.attention(0, tokens, temperature=torch.tensor(2.0))
    again = warm.square() / warm.square().sum(dim=-1, keepdim=True)  # halved logits, doubled
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)
    weights = {"qkv.weight": tower.block_weights(0)["qkv.weight"] + delta}
    expected = tower.block(0, tokens, weights=weights).x
    assert_same(tower.block(0, tokens, qkv_delta=delta).x, expected)
    assert_same(tower.block(0, tokens, qkv_delta=lambda x: F.linear(x, delta)).x, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["DINOv3", "ROPE-ViT mixed"])
def test_rows_that_differ_between_images_keep_their_rotation(name: str) -> None:
    tower = TimmEva(model_of(name))
    tokens, extra = tower.embed(images(size=SIZE)).insert(drawn(3, 48)), drawn(2, 48)
    rows = torch.tensor([[0, 9, 30], [12, 2, 7]])
    parts = tower.block_parts(0)
    everything = run_block(parts, tokens.x, extra_kv=extra)
    found = run_block(parts, tokens.x, extra_kv=extra, rows=rows)
    assert_same(found, torch.stack([image[own] for image, own in zip(everything, rows, strict=True)]))
    assert attention_weights(parts, tokens.x).shape == (2, 3, tokens.x.shape[1], tokens.x.shape[1])


def test_full_tuning_reaches_all_projections_and_the_learned_angles() -> None:
    for name, weight in (("EVA-02 base", "blocks.0.attn.k_proj.weight"), ("ROPE-ViT mixed", "rope.freqs")):
        tower = TimmEva(model_of(name)).requires_grad_(True)
        tower(images(size=SIZE)).square().sum().backward()
        gradient = tower.vit.get_parameter(weight).grad
        assert gradient is not None
        assert gradient.any()


def test_patches_are_flat_and_images_of_another_size_are_refused() -> None:
    tower = TimmEva(model_of("DINOv3"))
    assert tower.patches(images(size=SIZE)).shape == (2, 36, 48)
    with pytest.raises(ValueError, match=r"Images must have 48 x 48 pixels, got 32 x 48\."):
        tower(images(size=(32, 48)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["DINOv3", "EVA-02 base", "PE-Core", "ROPE-ViT mixed ape"])
def test_another_size_of_the_model_moves_the_rotation(name: str) -> None:
    model = model_of(name)
    model.set_input_size(img_size=(64, 64))
    x = images(size=(64, 64))
    assert_same(TimmEva(model)(x), model.forward_head(model.forward_features(x), pre_logits=True))


def fingerprint(model: Eva) -> str:
    return Backbone("tiny", TimmEva(model), None, None, 1.0, Preprocess(48, (0.5,) * 3, (0.5,) * 3)).fingerprint


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (DINOV3, {"rope_rotate_half": False}),
        (DINOV3, {"rope_temperature": 50}),
        (EVA02, {"rope_rotate_half": True}),
        (EVA02, {"rope_temperature": 100.0}),
        (EVA02, {"ref_feat_shape": None}),
        (PE, {"rope_grid_offset": 0.0}),
        (PE, {"rope_grid_indexing": "ij"}),
        (PE, {"attn_pool_num_heads": 3}),
        ({**ROPE, "rope_type": "mixed"}, {"rope_grid_indexing": "ij"}),
        (EVA02, {"use_rot_pos_emb": False}),
    ],
)
def test_models_that_differ_in_computed_positions_alone_have_other_fingerprints(
    kind: dict[str, Any], change: dict[str, Any]
) -> None:
    first, other = eva(**kind), eva(**{**kind, **change})
    assert first.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())
    assert fingerprint(first) != fingerprint(other)


def test_fingerprint_is_of_the_angles_and_not_of_their_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint(eva(**DINOV3))
    assert fingerprint(eva(**{**DINOV3, "dynamic_img_size": False})) == expected
    for factor, same in ((1 + 1e-6, True), (1.1, False)):
        model = eva(**DINOV3)
        periods: Any = model.rope.periods
        periods.mul_(factor)
        assert (fingerprint(model) == expected) is same


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_on_a_gpu(name: str) -> None:
    tower, prompter = TimmEva(model_of(name)), Static(drawn(1, 3, 48))
    expected, facts = tower(images(size=SIZE), prompter), tower.facts()
    tower.cuda()
    found = tower(images(size=SIZE).cuda(), Static(prompter.prompts.cuda()))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)  # other kernels
    assert tower.facts() == facts


def test_refuses_keys_that_heads_share() -> None:
    with pytest.raises(TypeError, match=r"keys that several heads share \(Sapiens2\); use DINOv3"):
        TimmEva(eva(attn_type="rope", qkv_fused=False, num_kv_heads=1))


def test_which_models_are_dinov3() -> None:
    assert is_dinov3(eva(**DINOV3))
    assert not is_dinov3(eva(**EVA02))
    assert not is_dinov3(vit())
    assert type(timm_tower(vit())) is TimmViT


@torch.no_grad()
def test_equals_the_dinov3_of_transformers() -> None:
    arrays = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "io.npz").items()}
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    model = Eva(**sizes, **{**DINOV3, "init_values": 1.0, "num_classes": 0}, norm_layer=_norm_of_dinov3)
    model.load_state_dict(load_file(GOLDEN / "converted.safetensors"))
    tower = TimmEva(model)
    for prompts, expected in ((drawn(0, 32), "tokens"), (arrays["image_prompts"], "prompted_tokens")):
        tokens = tower.embed(arrays["images"]).insert(prompts)
        for index in range(tower.depth):
            tokens = tower.block(index, tokens)
        torch.testing.assert_close(tower.vit.norm(tokens.x), arrays[expected], atol=1e-5, rtol=0)
        prompter = Static(prompts[None])
        cls, patches = (tower(arrays["images"], prompter, pooling=pooling) for pooling in ("cls", "native"))
        torch.testing.assert_close(cls, arrays[expected][:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(patches, arrays[expected][:, 5 + len(prompts) :].mean(dim=1), atol=1e-5, rtol=0)


def _norm_of_dinov3(width: int, **options: Any) -> torch.nn.LayerNorm:
    return torch.nn.LayerNorm(width, eps=1e-5, **options)
