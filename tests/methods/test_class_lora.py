"""CLIP-LoRA with class vectors: who has a vector, what it moves, and what is kept of it."""

from typing import Any

import pytest
import torch

from tests.methods.tiny import NAMES, images, labelled_views, small


def moved(**options: Any) -> Any:
    """A method whose updates and vectors are not zero."""
    method: Any = small("class-lora", **options)
    generator = torch.Generator().manual_seed(5)
    for parameter in method.trainable().values():
        parameter.data = parameter + 0.05 * torch.randn(parameter.shape, generator=generator)
    return method


def test_at_first_it_is_the_zero_shot_clip() -> None:
    ours, theirs = (small(name)(images(3)).detach() for name in ("class-lora", "zero-shot"))
    assert torch.allclose(ours, theirs, atol=1e-4)


def without_vectors() -> Any:
    method = moved()
    method.vectors.data.zero_()
    return method


def test_a_class_vector_is_added_to_its_text_alone() -> None:
    method = moved()
    with torch.no_grad():
        texts = without_vectors().encode_classes()
        expected = torch.nn.functional.normalize(texts + method.vectors, dim=-1)
        assert torch.allclose(method.encode_classes(), expected, atol=1e-5)


def test_other_names_have_no_vector_and_known_ones_keep_theirs_in_any_order() -> None:
    method = moved()
    other: Any = method.with_classes(["bird", NAMES[2], NAMES[0]])
    plain: Any = without_vectors().with_classes(["bird", NAMES[2], NAMES[0]])
    with torch.no_grad():
        rows, before, texts = other.encode_classes(), method.encode_classes(), plain.encode_classes()
    assert torch.allclose(rows[1:], before[[2, 0]], atol=1e-5)
    assert torch.allclose(rows[0], texts[0], atol=1e-5)
    assert (rows[1] - texts[1]).abs().max() > 1e-3


def test_the_vectors_shrink_after_the_last_epoch_and_the_updates_do_not() -> None:
    method = moved(kept=0.25)
    before = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    method.after_epoch(0, 2)
    assert all(tensor.equal(before[name]) for name, tensor in method.adapter_state_dict().items())
    method.after_epoch(1, 2)
    for name, tensor in method.adapter_state_dict().items():
        assert torch.allclose(tensor, before[name] * (0.25 if name == "vectors" else 1), rtol=0, atol=1e-7)


def test_vectors_and_updates_both_get_gradients() -> None:
    method = moved().train()
    method.loss(labelled_views(4)).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.trainable().values())


@pytest.mark.parametrize("kept", [-0.1, 1.5])
def test_wrong_options(kept: float) -> None:
    with pytest.raises(ValueError, match=rf"kept must be in \[0, 1\], got {kept}"):
        small("class-lora", kept=kept)
