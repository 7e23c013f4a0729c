"""Attention of the tokens that make the features, and its sum."""

import pytest
import torch

from selfprompt.analysis.attention import attention_mass, pools_class_token
from selfprompt.models.open_clip_vit import vision_tower
from selfprompt.models.timm_vit import TimmViT
from tests.analysis.tiny import seen
from tests.methods.tiny import small
from tests.models.tiny import clip, vit

CASES = [("sep", "clip"), ("vpt", "mae"), ("gatevpt", "mae"), ("maple", "clip")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_parts_of_an_image_sum_to_one(name: str, kind: str) -> None:
    stream = seen(small(name, kind), 3)
    found = attention_mass(stream)
    tokens = stream.inputs[0]
    depth, total = stream.tower.depth, found.prefix.sum(-1) + found.prompts.sum(-1) + found.patches.sum(-1)
    assert found.prompts.shape == (depth, 3, tokens.count)
    assert found.patches.shape == (depth, 3, tokens.body.shape[1])
    assert (total - 1).abs().max() < 1e-5
    assert (found.shares().sum(-1) - 1).abs().max() < 1e-5


def test_the_queries_are_the_tokens_that_features_are_made_of() -> None:
    towers = {
        "class token": (vision_tower(clip().visual), TimmViT(vit())),
        "patches": (vision_tower(clip(vision={"pool_type": "avg"}).visual), TimmViT(vit(global_pool="avg"))),
    }
    assert all(pools_class_token(tower, "native") for tower in towers["class token"])
    assert not any(pools_class_token(tower, "native") for tower in towers["patches"])
    for tower in (*towers["class token"], *towers["patches"]):
        assert pools_class_token(tower, "cls")
        assert not pools_class_token(tower, "avg")


def test_the_class_token_is_the_query_if_it_is_the_feature() -> None:
    stream = seen(small("vpt", "mae", pooling="cls"))
    weights = stream.attention(1)
    assert (attention_mass(stream).prefix[1] - weights[:, :, 0, :1].mean(dim=1)).abs().max() < 1e-7


def test_patches_are_the_queries_if_features_are_averaged() -> None:
    stream = seen(small("vpt", "mae", pooling="avg"))
    first = stream.inputs[1].prefix + stream.inputs[1].count
    rows = stream.attention(1)[:, :, first:]
    assert (attention_mass(stream).patches[1] - rows[..., first:].mean(dim=(1, 2))).abs().max() < 1e-7


def test_the_temperature_of_the_block_applies() -> None:
    method = small("gatevpt", "mae")
    before = seen(method).attention(0)
    with torch.no_grad():
        method.temperatures.fill_(10)
    warm = seen(method).attention(0)
    entropy = [torch.special.entr(weights).sum(-1).mean() for weights in (before, warm)]
    assert entropy[1] > entropy[0]
