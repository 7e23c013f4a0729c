"""The CLIP towers equal open_clip's own encoders; kinds that prompts cannot enter are refused."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer

from selfprompt.models.open_clip_vit import OpenClipText, clip_towers
from selfprompt.prompts.static import Static
from tests.models.tiny import CONTEXT, VOCABULARY, assert_same, changed, clip, coca, images, texts

VARIANTS: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "QuickGELU": {"quick_gelu": True},
    "custom text": {"custom": True, "quick_gelu": True},
    "avg": {"vision": {"pool_type": "avg"}},
    "ln after pool": {"vision": {"pool_type": "avg", "final_ln_after_pool": True}},
    "no ln_pre": {"vision": {"no_ln_pre": True}},
    "layer scale": {"vision": {"ls_init_value": 0.1}, "text": {"ls_init_value": 0.1}},
    "attentional pooler": {"vision": {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2}},
    "patch dropout": {"vision": {"patch_dropout": 0.5}},
    "fixed positions": {"vision": {"pos_embed_type": "sin_cos_2d"}},
    "oblong images": {"vision": {"image_size": (32, 48)}},
    "other widths": {"vision": {"width": 96, "head_width": 32}, "text": {"width": 32, "heads": 2}},
    "qk norm": {"vision": {"qk_norm": True}, "text": {"qk_norm": True}},
    "custom block": {"vision": {"scale_fc": True}, "text": {"scale_attn": True}},
    "eos": {"text": {"pool_type": "eos", "eos_id": VOCABULARY - 1}},
    "eos, custom text": {"custom": True, "text": {"pool_type": "eos", "eos_id": VOCABULARY - 1}},
    "first": {"text": {"pool_type": "first"}},
    "no mask": {"text": {"no_causal_mask": True}},
    "SigLIP": {
        "custom": True,
        "bias": True,
        "text": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "no text projection": {"custom": True, "text": {"proj_type": "none"}},
}


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_open_clip(name: str) -> None:
    model = clip(**VARIANTS[name])
    size = model.visual.image_size
    image_features, text_features = model.encode_image(images(size=size)), model.encode_text(texts())
    vision, text = clip_towers(model)
    assert_same(vision(images(size=size)), image_features)
    assert_same(text(texts()), text_features)
    assert image_features.shape == (2, vision.features)
    assert text_features.shape == (3, text.features)
    assert text.causal == (model.attn_mask is not None if isinstance(model, CLIP) else name != "SigLIP")


@torch.no_grad()
def test_no_image_projection() -> None:
    model = clip()
    model.visual.proj = None
    vision, _ = clip_towers(model)
    assert_same(vision(images()), model.encode_image(images()))
    assert vision.features == 64


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"timm_pool": "", "timm_proj": "linear"},
        {"timm_pool": "avg", "timm_proj": "mlp", "timm_proj_bias": True},
        {"timm_pool": "map", "timm_proj": "none"},
        {"timm_pool": "token", "timm_proj": ""},
    ],
)
def test_timm_image_side(options: dict[str, Any]) -> None:
    name = "test_vit" if options["timm_pool"] != "map" else "vit_tiny_patch16_224"
    model = clip(custom=True, vision={"timm_model_name": name, "image_size": 160, **options})
    x = images(size=model.visual.trunk.patch_embed.img_size)
    vision, _ = clip_towers(model)
    features = model.encode_image(x)
    assert_same(vision(x), features)
    assert vision.features == features.shape[1]
    assert vision(x, pooling="avg").shape == features.shape
    unprojected = vision(x, pooling="unprojected")
    assert unprojected.shape[1] == vision.feature_size("unprojected")
    if options["timm_proj"] in ("linear", "none"):
        torch.testing.assert_close(unprojected @ vision.projection(), features)
    else:
        with pytest.raises(ValueError, match="are multiplied by one matrix and nothing else"):
            vision.projection()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "pool"), [("eva02_tiny_patch14_224", "token"), ("vit_pe_core_tiny_patch16_384", "map")]
)
def test_eva_image_side(name: str, pool: str) -> None:
    model = clip(custom=True, vision={"timm_model_name": name, "timm_pool": pool, "timm_proj": ""})
    vision, _ = clip_towers(model)
    x = images(count=1, size=vision.image_size)
    features = model.encode_image(x)
    assert_same(vision(x), features)
    assert vision.features == features.shape[1] == 16
    prompts = torch.randn(1, 4, vision.width, generator=torch.Generator().manual_seed(1))
    assert (vision(x, Static(prompts)) - features).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_features_before_the_projection(name: str) -> None:
    vision, _ = clip_towers(clip(**VARIANTS[name]))
    x = images(size=vision.image_size)
    unprojected = vision(x, pooling="unprojected")
    assert unprojected.shape == (2, vision.feature_size("unprojected"))
    assert vision.feature_size("native") == vision.features
    assert_same(vision.project(unprojected), vision(x))
    torch.testing.assert_close(unprojected @ vision.projection(), vision(x))


@torch.no_grad()
def test_poolings_by_hand() -> None:
    for after, name in ((False, "CLIP"), (True, "ln after pool")):
        vision, _ = clip_towers(clip(**VARIANTS[name]))
        tokens = vision.embed(images()).insert(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)))
        norm, proj, x = vision.visual.ln_post, vision.visual.proj, tokens.x
        parts = {"cls": x[:, :1], "avg": x[:, 1:], "patches": x[:, 4:], "prompts": x[:, 1:4]}
        for pooling, rows in parts.items():
            expected = norm(rows.mean(1)) if after else norm(rows).mean(1)
            found = vision.pool(tokens, images(), pooling)
            torch.testing.assert_close(found, expected @ proj, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_patches_have_no_class_token_and_no_position() -> None:
    vision, _ = clip_towers(clip())
    patches = vision.patches(images())
    assert patches.shape == (2, 16, 64)
    embedded = vision.embed(images()).body
    torch.testing.assert_close(patches + vision.visual.positional_embedding[1:], embedded)


@torch.no_grad()
@given(lengths=st.lists(st.integers(2, CONTEXT), min_size=1, max_size=4), spare=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_cutting_causal_text_changes_nothing(lengths: list[int], spare: int) -> None:
    _, text = clip_towers(clip())
    ids = texts(tuple(lengths))
    cut = ids[:, : min(max(lengths) + spare, CONTEXT)]
    torch.testing.assert_close(text(cut), text(ids), atol=1e-5, rtol=0)  # other matrix sizes round differently


def test_longer_texts_are_refused() -> None:
    _, text = clip_towers(clip())
    with pytest.raises(ValueError, match="at most 12 tokens, got 13"):
        text(torch.ones(1, 13, dtype=torch.long))


def test_texts_have_one_pooling() -> None:
    _, text = clip_towers(clip())
    with pytest.raises(ValueError, match="only the poolings 'native' and 'unprojected'"):
        text(texts(), pooling="avg")


def test_attentional_pooler_has_one_pooling() -> None:
    vision, _ = clip_towers(clip(**VARIANTS["attentional pooler"]))
    with pytest.raises(ValueError, match="attentional pooler"):
        vision(images(), pooling="avg")


@torch.no_grad()
@pytest.mark.parametrize("name", ["CLIP", "custom text", "custom block"])
def test_temperature(name: str) -> None:
    towers = clip_towers(clip(**VARIANTS[name]))
    for tower, inputs in zip(towers, (images(), texts()), strict=True):
        tokens = tower.enter(tower.embed(inputs))
        plain = tower.block(0, tokens).x
        torch.testing.assert_close(tower.block(0, tokens, temperature=torch.ones(())).x, plain, atol=1e-6, rtol=0)
        warm = tower.block(0, tokens, temperature=torch.tensor(2.0)).x
        tower.get_parameter(_first_projection(tower))[:64] /= 2
        tower.get_parameter(_first_projection(tower).replace("weight", "bias"))[:64] /= 2
        torch.testing.assert_close(tower.block(0, tokens).x, warm, atol=1e-6, rtol=0)
        assert not torch.allclose(warm, plain)


def _first_projection(tower: torch.nn.Module) -> str:
    return next(name for name, _ in tower.named_parameters() if name.endswith("attn.in_proj_weight"))


def test_temperature_gets_a_gradient() -> None:
    for tower, inputs in zip(clip_towers(clip()), (images(), texts()), strict=True):
        temperature = torch.ones((), requires_grad=True)
        tower.block(0, tower.enter(tower.embed(inputs)), temperature=temperature).x.square().sum().backward()
        assert temperature.grad is not None
        assert temperature.grad.abs() > 0


def test_temperature_needs_scaled_products() -> None:
    vision, _ = clip_towers(clip(vision={"scale_heads": True}))
    with pytest.raises(TypeError, match="needs scaled products"):
        vision.block(0, vision.embed(images()), temperature=torch.ones(()))


def test_describes_itself() -> None:
    vision, text = clip_towers(clip(quick_gelu=True))
    assert (vision.depth, vision.width, vision.features, vision.prefix) == (2, 64, 16, 1)
    assert (vision.image_size, vision.patch_size) == ((32, 32), (8, 8))
    assert (text.depth, text.width, text.features, text.context, text.causal) == (2, 64, 16, CONTEXT, True)
    assert vision.facts()["activation"] == text.facts()["activation"] == "QuickGELU"


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("length", [9, 12])
def test_coca(correct: bool, length: int) -> None:
    """Its class token, and the mask of padding, which is shifted in published weights; a text may fill the context."""
    options = {
        "layers": 3,
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "embed_cls": True,
        "output_tokens": True,
    }
    model = coca(options)
    model.text.correct_cls_mask = correct
    vision, text = clip_towers(model)
    ids = texts((5, length))
    ids[:, :3] = ids[0, :3]
    with torch.no_grad():
        expected = model.encode_text(ids, normalize=False)
        assert_same(text(ids), expected)
        assert_same(text(ids, shared_prefix=text.shared_prefix(ids[:1, :3])), expected)
        assert_same(vision(images()), model.encode_image(images(), normalize=False))
    assert (text.context, text.facts()["shifted_mask"]) == (CONTEXT, not correct)


def test_refuses_text_with_a_class_token() -> None:
    with pytest.raises(TypeError, match="appends a class token"):
        OpenClipText(clip(custom=True, text={"embed_cls": True}))


def test_refuses_other_text_towers() -> None:
    class Other(TextTransformer):
        pass

    model = clip(custom=True)
    assert isinstance(model, CustomTextCLIP)
    model.text = Other(context_length=4, vocab_size=8, width=64, heads=1, layers=1)
    with pytest.raises(TypeError, match="Other is not supported as a text tower"):
        clip_towers(model)


def test_refuses_vectors_per_token() -> None:
    for options in ({"vision": {"pool_type": "none"}}, {"text": {"pool_type": "none"}}):
        with pytest.raises(TypeError, match="pool_type 'none'"):
            clip_towers(clip(**options))


@torch.no_grad()
@pytest.mark.parametrize("name", ["CLIP", "QuickGELU", "custom text", "custom block"])
def test_given_weights_replace_those_of_a_block(name: str) -> None:
    for tower, inputs in zip(clip_towers(clip(**VARIANTS[name])), (images(), texts()), strict=True):
        tokens, own = tower.enter(tower.embed(inputs)), tower.block_weights(1)
        assert len(own) == 12
        before = tower.block(1, tokens).x
        torch.testing.assert_close(tower.block(1, tokens, weights=own).x, before, atol=1e-6, rtol=0)
        others = changed(own)
        found = tower.block(1, tokens, weights=others).x
        assert tower.block(1, tokens).x.equal(before)
        for tensor, other in zip(own.values(), others.values(), strict=True):
            tensor.copy_(other)
        expected = tower.upstream_block(1, tokens.x, tower.attention_mask(0, tokens.x.shape[1]))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)  # values above 10


def test_weights_need_scaled_products() -> None:
    vision, _ = clip_towers(clip(vision={"scale_heads": True}))
    with pytest.raises(TypeError, match="needs scaled products"):
        vision.block(0, vision.embed(images()), weights={})
    with pytest.raises(TypeError, match="needs scaled products"):
        vision.block_weights(0)


def test_the_mask_of_texts_that_prompts_make_longer_than_the_context_is_causal() -> None:
    _, text = clip_towers(clip())
    mask = text.attention_mask(3, CONTEXT)
    assert mask.shape == (CONTEXT, 3 + CONTEXT)
    sees = mask == 0
    assert sees.equal(torch.ones(CONTEXT, 3 + CONTEXT).tril(3).bool())
    assert text.attention_mask(0, CONTEXT).equal(mask[:, 3:])
