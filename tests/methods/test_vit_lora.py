"""LoRA in a vision transformer: it starts as the logistic regression, and its updates change the tower alone."""

from typing import Any

import pytest
import torch

from tests.methods.tiny import NAMES, Source, backbone, images, labelled, labelled_views, small


def prepared(kind: str = "mae", pictures: int = 8, **options: Any) -> Any:
    method: Any = small("vit-lora", kind, **options)
    method.prepare(Source(*labelled(pictures)), torch.Generator().manual_seed(0))
    return method


@pytest.mark.parametrize("kind", ["mae", "clip"])
@pytest.mark.parametrize("pictures", [4, 8])  # one image a class has no folds
def test_after_prepare_it_is_the_logistic_regression(kind: str, pictures: int) -> None:
    regression = small("logistic", kind)
    regression.prepare(Source(*labelled(pictures)), torch.Generator().manual_seed(0))
    ours, theirs = (method(images(5)).detach() for method in (prepared(kind, pictures), regression))
    assert (ours - theirs).abs().max() < 1e-3 * theirs.abs().max()


def test_a_constant_channel_has_no_weight() -> None:
    method = prepared()
    flat = torch.full((4, 3, 64, 64), 0.5)
    method.prepare(Source(flat, torch.arange(4)), torch.Generator())
    assert method(flat).isfinite().all()
    assert float(method.head.weight.detach().abs().max()) == 0.0


def test_a_class_without_images_is_named() -> None:
    pictures, labels = labelled(3)
    with pytest.raises(ValueError, match=f"No training images of: {NAMES[3]}"):
        small("vit-lora", "mae").prepare(Source(pictures, labels), torch.Generator())


def test_updates_and_head_get_gradients_and_the_tower_stays() -> None:
    method = prepared().train()
    torch.nn.init.normal_(method.updates.up, std=0.1)
    method.loss(labelled_views(4)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.trainable().values())
    assert not any(p.requires_grad for p in backbone("mae").vision.parameters())


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        small("vit-lora", "mae", dropout=1.0)
