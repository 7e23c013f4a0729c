"""The attention weights of a tower are those that its blocks use."""

import pytest
import torch
import torch.nn.functional as F

from selfprompt.models.open_clip_vit import vision_tower
from selfprompt.models.timm_vit import TimmViT
from tests.models import test_openclip, test_timm_vit
from tests.models.tiny import clip, images, vit

WITH_WEIGHTS = [name for name in test_timm_vit.VARIANTS if name != "parallel blocks"]


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_times_values_equal_a_timm_attention(name: str) -> None:
    tower = TimmViT(vit(**test_timm_vit.VARIANTS[name]))
    tokens = tower.enter(tower.embed(images(size=tower.image_size)))
    tokens = tokens.insert(torch.full((2, tower.width), 0.3))
    block = tower.vit.blocks[1]
    y = block.norm1(tokens.x)
    values = block.attn.qkv(y).chunk(3, dim=-1)[2].unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
    weights = tower.attention(1, tokens)
    assert weights.shape == (2, block.attn.num_heads, tokens.x.shape[1], tokens.x.shape[1])
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-5
    attended = block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attended, block.attn(y), atol=1e-5, rtol=1e-5)  # float32, values above 1


@torch.no_grad()
@pytest.mark.parametrize("name", test_openclip.VARIANTS)
def test_weights_times_values_equal_an_open_clip_attention(name: str) -> None:
    tower = vision_tower(clip(**test_openclip.VARIANTS[name]).visual)
    tokens = tower.enter(tower.embed(images(size=tower.image_size)).insert(torch.full((2, tower.width), 0.3)))
    block = tower.visual.transformer.resblocks[1]
    y, attn = block.ln_1(tokens.x), block.attn
    values = F.linear(y, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)[2]
    values = values.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
    weights = tower.attention(1, tokens)
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-5
    attended = attn.out_proj((weights @ values).transpose(1, 2).flatten(2))
    own = attn(y, y, y, need_weights=False)[0] if isinstance(attn, torch.nn.MultiheadAttention) else attn(y)
    torch.testing.assert_close(attended, own, atol=1e-5, rtol=1e-5)  # float32, values above 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_temperature_and_qkv_delta_apply_as_in_the_block(kind: str) -> None:
    tower = TimmViT(vit()) if kind == "timm" else vision_tower(clip().visual)
    tokens = tower.embed(images())
    qkv_delta = 0.1 * torch.randn(3 * tower.width, tower.width, generator=torch.Generator().manual_seed(3))
    plain = tower.attention(0, tokens)
    warm = tower.attention(0, tokens, temperature=torch.tensor(2.0))
    again = warm.square() / warm.square().sum(dim=-1, keepdim=True)  # halved logits, doubled
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)  # float32, values above 1
    moved = tower.attention(0, tokens, qkv_delta=qkv_delta)
    assert not torch.allclose(moved, plain, atol=1e-3)
    as_function = tower.attention(0, tokens, qkv_delta=lambda x: F.linear(x, qkv_delta))
    torch.testing.assert_close(as_function, moved, atol=1e-6, rtol=0)


def test_blocks_of_another_kind_are_refused() -> None:
    tower = TimmViT(vit(**test_timm_vit.VARIANTS["parallel blocks"]))
    with pytest.raises(TypeError, match="Looking at the attention needs timm's plain Block"):
        tower.attention(0, tower.embed(images()))
