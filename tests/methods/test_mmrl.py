"""MMRL: tokens in the later blocks alone, and scores that new class names share."""

from typing import Any

import pytest
import torch

from selfprompt.data.views import Views
from selfprompt.methods.heads import unit
from tests.methods.tiny import images, small


@torch.no_grad()
def test_known_classes_have_both_scores_and_new_ones_make_all_use_the_class_token() -> None:
    method: Any = small("mmrl")
    features, others = method.image_features(views := Views(images(3)))
    texts, scale = method.class_features(), method.backbone.scale
    assert torch.allclose(method.logits(views), scale * (0.7 * features + 0.3 * others) @ texts.t(), atol=1e-4)
    mixed = method.with_classes(["cat", "a bird"])
    assert torch.allclose(mixed.logits(views), scale * features @ mixed.class_features().t(), atol=1e-4)
    fewer = method.with_classes(["X", "cat"])
    assert torch.allclose(fewer.logits(views), method.logits(views)[:, [3, 0]], atol=1e-4)


@torch.no_grad()
def test_texts_equal_those_whose_tokens_stand_behind_sos() -> None:
    method: Any = small("mmrl")
    text, first = method.text, method.text.depth - method.options.last
    tokens = text.enter(text.embed(method.ids))
    for index in range(text.depth):
        if index >= first:
            own = method.text_maps(method.tokens)[index - first]
            rest = tokens.x[:, 1 + (0 if index == first else len(own)) :]
            tokens = tokens._replace(x=torch.cat([tokens.x[:, :1], own.expand(len(rest), -1, -1), rest], dim=1))
        tokens = text.block(index, tokens)
    behind = tokens._replace(x=torch.cat([tokens.x[:, :1], tokens.x[:, 1 + method.options.tokens :]], dim=1))
    assert torch.allclose(method.class_features(), unit(text.pool(behind, method.ids)), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 0}, "last must be at least 1, got 0"),
        ({"alpha": 1.5}, "alpha must be from 0 to 1, got 1.5"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("mmrl", **options)


def test_a_small_tower_has_tokens_in_all_blocks_but_its_first() -> None:
    method: Any = small("mmrl", last=99)
    assert len(method.image_maps.weight) == method.vision.depth - 1
    assert len(method.text_maps.weight) == method.text.depth - 1
