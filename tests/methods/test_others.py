"""CoOp, zero-shot, linear probe and full fine-tuning beyond the contract tests."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from selfprompt.methods.class_texts import embed_text, encode_template
from selfprompt.methods.coop import CoOp
from tests.methods.tiny import NAMES, backbone, images, labelled_views, small


@torch.no_grad()
@pytest.mark.parametrize("init_text", ["a photo of a", "a centered satellite photo of"])
def test_coop_with_an_init_text_starts_as_zero_shot_with_that_text(init_text: str) -> None:
    coop = small("coop", init_text=init_text)
    zero = small("zero-shot", template=f"{init_text} {{}}.")
    assert (coop.class_features() - zero.texts).abs().max() < 1e-5
    assert coop.context.equal(embed_text(backbone("clip"), init_text))
    scale = backbone("clip").scale
    assert (coop(images(2)) - zero(images(2))).abs().max() < 1e-5 * scale


@torch.no_grad()
def test_coop_in_the_middle_and_in_front_reads_the_words_in_that_order() -> None:
    """With embeddings of words as context, the features are those of the written text."""
    for position, template in (("middle", "a photo {} of a."), ("front", "{} a photo of a.")):
        coop = small("coop", class_token_position=position)
        coop.context.copy_(embed_text(backbone("clip"), "a photo of a"))
        expected = encode_template(backbone("clip"), template, NAMES)
        assert (coop.class_features() - expected).abs().max() < 1e-5


def test_coop_s_context_is_shared_or_specific_to_each_class() -> None:
    shared, specific = small("coop"), small("coop", class_specific=True)
    assert isinstance(shared, CoOp)
    assert shared.context.shape == (4, 128)
    assert specific.context.shape == (4, 4, 128)
    assert shared.traits.open_vocabulary
    assert not specific.traits.open_vocabulary
    assert float(specific.context.detach().std()) == pytest.approx(0.02, rel=0.1)
    specific.loss(labelled_views(2)).backward()
    assert (specific.context.grad.abs().amax(dim=(1, 2)) > 0).all()


@torch.no_grad()
def test_a_class_specific_context_affects_only_its_class() -> None:
    method = small("coop", class_specific=True)
    before = method.encode_classes()
    method.context[2] += torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    change = (method.encode_classes() - before).abs().amax(dim=1)
    assert change[2] > 1e-4
    assert change[[0, 1, 3]].max() == 0


@torch.no_grad()
def test_zero_shot_is_the_scaled_cosine_with_the_template() -> None:
    method, clip = small("zero-shot"), backbone("clip")
    texts = encode_template(clip, "a photo of a {}.", NAMES)
    cosines = F.normalize(clip.vision(images(3)), dim=-1) @ texts.t()
    assert (method(images(3)) - clip.scale * cosines).abs().max() < 1e-5 * clip.scale
    assert method.adapter_state_dict() == {}


@torch.no_grad()
@pytest.mark.parametrize(
    ("ensemble", "templates"), [("simple", SIMPLE_IMAGENET_TEMPLATES), ("full", OPENAI_IMAGENET_TEMPLATES)]
)
def test_ensembles_average_unit_features_and_normalise_again(ensemble: str, templates: tuple) -> None:
    names = ["cat", "stop sign"]
    texts = [encode_template(backbone("clip"), template("{}"), names) for template in templates]
    expected = F.normalize(torch.stack(texts).mean(dim=0), dim=-1)
    assert (small("zero-shot", names=names, ensemble=ensemble).texts - expected).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "mae"])
def test_the_linear_probe_is_linear_in_the_frozen_features(kind: str) -> None:
    method, shared = small("linear", kind), backbone(kind)
    features = shared.vision(images(3), pooling=shared.pooling)
    assert method(images(3)).equal(F.linear(features, method.head.weight, method.head.bias))
    assert not method.head.bias.any()


@pytest.mark.parametrize("kind", ["clip", "mae"])
def test_full_fine_tuning_starts_as_the_linear_probe_on_a_copy_of_the_tower(kind: str) -> None:
    full, linear = small("full", kind), small("linear", kind)
    assert (full(images(2)) - linear(images(2))).abs().max() < 1e-4  # kernels with and without gradient differ
    shared = {p.data_ptr() for p in backbone(kind).vision.parameters()}
    copied = {p.data_ptr() for p in full.vision.parameters()}
    assert not shared & copied
    assert set(full.adapter_state_dict()) == {f"vision.{name}" for name, _ in full.vision.named_parameters()} | {
        "head.weight",
        "head.bias",
    }
    with torch.no_grad():
        for parameter in full.vision.parameters():
            parameter.add_(0.01)
    assert linear(images(2)).equal(small("linear", kind)(images(2)))
