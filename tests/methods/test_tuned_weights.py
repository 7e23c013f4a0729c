"""LN-tuning, BitFit, CLIP-SVD and 2SFS: the frozen CLIP at first, and later a CLIP whose weights were changed."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfprompt.methods import clip_svd
from selfprompt.methods.base import Method
from selfprompt.methods.clip_svd import recompose
from selfprompt.methods.heads import unit
from selfprompt.models.backbone import Backbone
from selfprompt.models.timm_vit import TimmViT
from selfprompt.prompts.tuned_weights import TunedWeights
from tests.methods.tiny import backbone, images, labelled_views, small
from tests.models.tiny import vit

TUNED = ["ln-tuning", "bitfit"]
ALL = [*TUNED, "clip-svd"]


def shaken(method: Method) -> Method:
    """Move the tuned weights, not the head."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in method.trainable().items():
        if "_weights." in name or "_values." in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> bool:  # logits have the scale of CLIP
    return float((ours - theirs).abs().max()) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_at_first_they_are_the_zero_shot_clip(name: str) -> None:
    assert close(small(name)(images(3)), small("zero-shot")(images(3)))


def with_tuned_weights(method: Any) -> Backbone:
    """Copy the backbone, and write the tuned weights into the copy."""
    written = copy.deepcopy(backbone("clip"))
    sides = ("image_weights", "text_weights") if hasattr(method, "image_weights") else ("image_values", "text_values")
    for tower, tuned in zip((written.vision, written.text), (getattr(method, side) for side in sides), strict=True):
        for index in range(tower.depth):
            own = tower.block_weights(index)
            for weight, tensor in tuned.weights(index).items():
                own[weight].copy_(tensor)
    return written


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_the_tuned_weights_in_a_clip_give_the_same_logits(name: str) -> None:
    method: Any = shaken(small(name))
    written = with_tuned_weights(method)
    expected = written.scale * unit(written.vision(images(3))) @ unit(written.text(method.ids)).t()
    assert close(method(images(3)), expected)
    assert not close(small("zero-shot")(images(3)), expected, 0.1)


@torch.no_grad()
@pytest.mark.parametrize("name", TUNED)
def test_a_vit_without_text_has_a_linear_head(name: str) -> None:
    method: Any = small(name, "mae", head="linear")
    features = method.vision(images(3), pooling="avg")
    assert method.pooling == "avg"
    assert close(method(images(3)), method.head(features))
    assert not close(shaken(method)(images(3)), method.head(features), 1e-2)
    assert {name.partition(".")[0] for name in method.trainable()} == {"image_weights", "head"}


def test_weights_that_a_tower_does_not_have_are_left_out() -> None:
    tower = TimmViT(vit(qkv_bias=False))
    assert TunedWeights(tower, ["qkv.bias", "out.bias"]).names == ("out.bias",)
    with pytest.raises(ValueError, match=r"blocks of this backbone have no qkv\.bias; use another method"):
        TunedWeights(tower, ["qkv.bias"])


def test_norms_of_another_kind_are_not_tuned() -> None:
    tower = TimmViT(vit(norm_layer=nn.RMSNorm))
    with pytest.raises(ValueError, match=r"have no norm1\.weight"):
        TunedWeights(tower, ["norm1.weight"])


@torch.enable_grad()
def two_stages() -> Any:
    """2SFS after an epoch of each stage."""
    method: Any = small("two-stage").train()
    for epoch in range(2):
        adam = torch.optim.AdamW(method.trainable().values(), lr=0.01)
        terms = method.loss(labelled_views(4))
        terms.backward()
        adam.step()
        adam.zero_grad()
        method.after_epoch(epoch, 2)
    return method.eval()


def test_the_first_stage_of_2sfs_tunes_norms_and_the_second_the_classifier() -> None:
    method: Any = small("two-stage").train()
    assert method.traits.stage(0, 2) == range(1)
    trained = []
    for epoch in range(2):
        method.zero_grad()
        method.loss(labelled_views(4)).backward()
        trained.append({name.partition(".")[0] for name, p in method.trainable().items() if p.grad is not None})
        method.after_epoch(epoch, 2)
    assert trained == [{"image_weights", "text_weights"}, {"classifier"}]


@torch.no_grad()
def test_the_second_stage_of_2sfs_begins_where_the_first_ended() -> None:
    method: Any = shaken(small("two-stage"))
    before = method(images(3))
    method.after_epoch(0, 5)
    assert not method.second_stage
    method.after_epoch(2, 5)
    assert method.second_stage
    assert close(method(images(3)), before)
    assert close(method.classifier, method.encode_class_texts(), 1e-6)


@torch.no_grad()
def test_2sfs_scores_known_classes_by_their_row_and_new_ones_by_text() -> None:
    method: Any = two_stages()
    other = method.with_classes(["stop sign", "a bird", "cat"])
    scores, known = other(images(3)), method(images(3))
    assert close(scores[:, [0, 2]], known[:, [2, 0]])
    features = unit(method.vision(images(3), method.image_weights))
    texts = method.text(other.ids, method.text_weights)
    assert close(scores[:, 1], method.backbone.scale * features @ unit(texts)[1])
    by_text = method.backbone.scale * features @ method.encode_class_texts().t()
    assert not close(known, by_text, 1e-2)


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_2sfs_has_two_stages(first: float) -> None:
    with pytest.raises(ValueError, match=f"first must be above 0 and below 1, got {first}"):
        small("two-stage", first=first)


@torch.no_grad()
def test_clip_svd_changes_singular_values_alone() -> None:
    method: Any = shaken(small("clip-svd"))
    for index, name in ((0, "q"), (1, "up"), (2, "down")):
        factors, values = method.image_values.factors(index, name), method.image_values.get_parameter(name)[index]
        changed = recompose(factors, values)
        assert close(factors.left.t() @ changed @ factors.right.t(), values.diag())
        assert close(changed, factors.left @ values.diag() @ factors.right)


def test_matrices_are_decomposed_once_for_all_methods_on_a_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = small("clip-svd")

    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(clip_svd, "decompose", refuse)
    assert method.with_classes(["a bird", "a fish"]).classes == ("a bird", "a fish")
    assert small("clip-svd", seed=2)(images(1)).isfinite().all()
