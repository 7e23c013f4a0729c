"""The plain baselines compute what the library computes: logits, losses and gradients, for each pooling and axis."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from perf.compare import TOLERANCE, difference, gradient_difference, gradients
from perf.plain_clip import plain_clip
from perf.plain_coop import PlainCoOp
from perf.plain_sep import PlainSEP
from perf.plain_vit import PlainPrompted, plain_vit
from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.backbone import Backbone
from selfprompt.models.loading import assemble
from tests.methods.tiny import NAMES, backbone, images
from tests.models import tiny

LABELS = torch.tensor([0, 3, 1, 2])
RELEASED = {"fusion_axis": "batch", "selection": "batch"}


class Letters:
    """A tokenizer of one id a letter: 58 opens a text, 59 ends it, 0 fills it up."""

    def __call__(self, texts: list[str]) -> Tensor:
        rows = [[58, *self.encode(text), 59] for text in texts]
        return torch.tensor([row + [0] * (30 - len(row)) for row in rows])

    def encode(self, text: str) -> list[int]:
        return [1 + ord(letter) % 50 for letter in text.lower().replace(" ", "")]


def clip_of(pool: str) -> Backbone:
    """A CLIP with one head and QuickGELU that pools the class token, or the embedded one that takes the mean."""
    if pool == "avg":
        return backbone("clip")
    model = tiny.clip(quick_gelu=True, text={"context_length": 30})
    return assemble.clip_backbone("tiny", model, Letters(), images={})


def trainable_of(method: Method) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in method.trainable().items()}


def assert_same(method: Method, plain: nn.Module, size: int) -> None:
    """Logits, loss and gradients of every trainable tensor agree to 1e-4 of the largest entry."""
    pictures = images(4, size=size)
    terms = method.loss(Views(pictures, labels=LABELS))
    terms.total.backward()
    loss, logits = plain.loss(pictures, LABELS)
    loss.backward()
    close(logits, terms.logits)
    close(loss, terms.total)
    assert gradient_difference(gradients(plain), gradients(method)) <= TOLERANCE
    assert all(gradient.abs().max() > 0 for gradient in gradients(method).values())


def close(plain: Tensor, ours: Tensor) -> None:
    assert difference(plain, ours) <= TOLERANCE


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("options", [{}, RELEASED, {"layers": (1,), "text_prompts": 2}], ids=["own", "released", "one"])
def test_sep(pool: str, options: dict[str, Any]) -> None:
    clip = clip_of(pool)
    method = build_method("sep", clip, NAMES, **options)
    plain = PlainSEP(plain_clip(clip), method.classes, method.options, trainable_of(method))
    assert_same(method, plain, clip.preprocess.size)
    with torch.no_grad():
        close(plain.text_features(), method.encode_classes())


def test_sep_refuses_what_only_the_library_has() -> None:
    method = build_method("sep", backbone("clip"), NAMES, fusion="shared")
    with pytest.raises(ValueError, match="released fusion modules"):
        PlainSEP(plain_clip(backbone("clip")), method.classes, method.options, trainable_of(method))


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_coop(pool: str) -> None:
    clip = clip_of(pool)
    method = build_method("coop", clip, NAMES, prompts=5)
    assert_same(method, PlainCoOp(plain_clip(clip), method.classes, method.context), clip.preprocess.size)


@pytest.mark.parametrize("pooling", ["cls", "avg"])
@pytest.mark.parametrize("name", ["spt", "linear"])
def test_vit(name: str, pooling: str) -> None:
    method = build_method(name, backbone("mae"), NAMES, pooling=pooling)
    if name == "linear" and pooling == "avg":
        method.pooling = "patches"  # without prompts the same
    plain = PlainPrompted(plain_vit(backbone("mae")), trainable_of(method), average=pooling == "avg")
    assert_same(method, plain, 64)


def test_weights_are_shared_and_frozen() -> None:
    for plain, original in (
        (plain_clip(backbone("clip")), backbone("clip")),
        (plain_vit(backbone("mae")), backbone("mae")),
    ):
        addresses = {tensor.data_ptr() for tensor in original.vision.state_dict().values()}
        side = plain.visual if hasattr(plain, "visual") else plain
        assert {p.data_ptr() for p in side.parameters()} <= addresses
        assert not any(p.requires_grad for p in plain.parameters())


def test_a_vit_is_no_clip() -> None:
    with pytest.raises(ValueError, match=r"embedded/mae has another"):
        plain_clip(backbone("mae"))
    with pytest.raises(ValueError, match=r"embedded/clip has another"):
        plain_vit(backbone("clip"))


def test_collection_keeps_the_tokens_of_every_layer() -> None:
    vit = plain_vit(backbone("mae"))
    tokens = vit.collect(images(2))
    assert tokens.shape == (6, 2, 64, 128)
    close(tokens[0], backbone("mae").vision.patches(images(2)))


def test_a_baseline_shares_weights_with_the_library_and_no_code() -> None:
    for path in (Path(__file__).parents[2] / "perf").glob("plain_*.py"):
        modules = re.findall(r"^(?:from|import) ((?:selfprompt|perf)[\w.]*)", path.read_text(), re.MULTILINE)
        shared = [module for module in modules if not module.startswith("perf.plain_")]
        assert set(shared) <= {"selfprompt.models.backbone"}, path.name
