"""Classes with several names, descriptions and templates of their own, in every method that reads class texts."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.class_description import ClassDescription
from selfprompt.methods import list_methods
from selfprompt.methods.base import Method
from selfprompt.methods.clap import CLAP
from selfprompt.methods.class_texts import PHOTO, encode_template
from selfprompt.methods.cocoop import CoCoOp
from selfprompt.methods.promptsrc import PromptSRC
from selfprompt.methods.registry import build_method
from selfprompt.methods.sep import SEP
from tests.methods.tiny import NAMES, backbone, images, labelled_views, small, traits

READERS = [name for name in list_methods() if traits(name).needs_text]
PROMPTED = [
    "bitfit",
    "clip-lora",
    "clip-svd",
    "coop",
    "ivlp",
    "kgcoop",
    "ln-tuning",
    "maple",
    "mmrl",
    "prograd",
    "promptsrc",
    "skip-tuning",
    "two-stage",
]  # encode each name by itself
SAID = {
    "names": ["cat", "small_lion"],
    "descriptions": ["a pet that purrs."],
    "templates": ["a photo of a {}, a pet.", "the {}."],
}


def unit(features: Tensor) -> Tensor:
    return F.normalize(features.detach(), dim=-1)


def frozen(*texts: str) -> Tensor:
    """Unit features of whole texts, (T, E)."""
    return encode_template(backbone("clip"), "{}", texts)


def moved(name: str, classes: Sequence[Any], **options: Any) -> Method:
    """A method whose parameters are anything but their start, the same for any list of classes of one length."""
    method, generator = small(name, names=classes, **options), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return method


def test_zero_shot_averages_the_unit_features_of_all_texts() -> None:
    method = small("zero-shot", names=[SAID, "dog"])
    texts = [
        "a photo of a cat, a pet.",
        "a photo of a small lion, a pet.",
        "the cat.",
        "the small lion.",
        "a pet that purrs.",
    ]
    features = method.get_buffer("texts")
    assert method.classes == ("cat", "dog")
    torch.testing.assert_close(features[0], unit(frozen(*texts).mean(dim=0)))
    torch.testing.assert_close(features[1], frozen("a photo of a dog.")[0])


def test_an_ensemble_is_averaged_with_the_descriptions() -> None:
    method = small("zero-shot", names=[{"names": "cat", "descriptions": "a pet that purrs."}, "dog"], ensemble="simple")
    plain = build_method("zero-shot", backbone("clip"), ["cat", "dog"], ensemble="simple")
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    cats = frozen(*(template("cat") for template in SIMPLE_IMAGENET_TEMPLATES), "a pet that purrs.")
    torch.testing.assert_close(method.get_buffer("texts")[0], unit(cats.mean(dim=0)))
    torch.testing.assert_close(method.get_buffer("texts")[1], plain.get_buffer("texts")[1])


def test_many_texts_are_encoded_in_buckets() -> None:
    names = [f"{adjective} {noun}" for adjective in ("red", "very big", "old and green") for noun in NAMES[:3] * 3]
    names = [f"{name} {number}" for number, name in enumerate(names)]
    features = encode_template(backbone("clip"), PHOTO, [ClassDescription(tuple(names)), ClassDescription(("dog",))])
    expected = unit(torch.cat([encode_template(backbone("clip"), PHOTO, [name]) for name in names]).mean(dim=0))
    torch.testing.assert_close(features[0], expected)


@pytest.mark.parametrize("name", PROMPTED)
def test_prompted_names_are_encoded_one_by_one_and_averaged(name: str) -> None:
    method = moved(name, [{"names": ["cat", "small_lion"]}, "dog", "stop sign"])
    one, other = (moved(name, [cat, "dog", "stop sign"]).encode_classes() for cat in ("cat", "small_lion"))
    features = method.encode_classes()
    torch.testing.assert_close(features[0].detach(), unit((one[0] + other[0]) / 2))
    torch.testing.assert_close(features[1:], one[1:])


@pytest.mark.parametrize("options", [{"class_specific": True}, {"class_token_position": "middle"}])
def test_contexts_belong_to_classes_not_to_texts(options: dict[str, Any]) -> None:
    method = moved("coop", ["dog", {"names": "cat", "descriptions": "small lion."}], **options)
    cats = [moved("coop", ["dog", cat], **options).encode_classes() for cat in ("cat", "small lion")]
    torch.testing.assert_close(method.encode_classes()[1].detach(), unit(cats[0][1] + cats[1][1]))
    assert [len(p) for p in method.trainable().values()] == [
        len(p) for p in moved("coop", NAMES[:2], **options).trainable().values()
    ]


def test_sep_averages_prompted_names_and_frozen_texts() -> None:
    rows = ([SAID, "dog"], ["cat", "dog"], ["small lion", "dog"], ["a pet that purrs", "dog"])
    methods = [moved("sep", classes) for classes in rows]
    assert all(isinstance(method, SEP) for method in methods)
    described, *single = methods
    prompted = unit(torch.stack([unit(one.prompted_texts()[0]) for one in single]).mean(dim=0))
    frozen_text = small("zero-shot", names=[SAID, "dog"]).get_buffer("texts")[0]
    torch.testing.assert_close(described.encode_classes()[0].detach(), unit(prompted + frozen_text))


def test_sep_as_released_averages_too() -> None:
    method = small("sep", names=[{"names": ["cat", "small lion"]}, "dog"], fusion_axis="batch", selection="batch")
    assert method.encode_classes().shape[0] == 2


def test_cocoop_averages_for_each_image() -> None:
    described, *single = (
        moved("cocoop", [cat, "dog"]) for cat in ({"names": ["cat", "small lion"]}, "cat", "small lion")
    )
    features = unit(torch.randn(3, described.feature_size, generator=torch.Generator().manual_seed(1)))
    assert isinstance(described, CoCoOp)
    ours = described.encode_classes_for(features).detach()
    parts = [one.encode_classes_for(features).detach() for one in single]
    torch.testing.assert_close(ours[:, 0], unit(parts[0][:, 0] + parts[1][:, 0]))
    torch.testing.assert_close(ours[:, 1], parts[0][:, 1])


def test_clap_keeps_the_mean_norm_of_the_texts() -> None:
    method = build_method("clap", backbone("clip"), [{"names": ["cat", "small lion"]}, "dog"])
    assert isinstance(method, CLAP)
    texts = encode_template(backbone("clip"), PHOTO, ["cat", "small lion"], normalize=False)
    torch.testing.assert_close(method.texts[0].norm(), texts.norm(dim=-1).mean())
    torch.testing.assert_close(unit(method.texts[0]), unit(unit(texts).mean(dim=0)))


def test_promptsrc_stays_close_to_the_templates_of_a_class() -> None:
    method = small("promptsrc", names=[SAID, "dog"])
    assert isinstance(method, PromptSRC)
    torch.testing.assert_close(method.text_targets()[0], small("zero-shot", names=[SAID, "dog"]).get_buffer("texts")[0])


@pytest.mark.parametrize("name", READERS)
def test_every_method_that_reads_class_texts_reads_descriptions(name: str) -> None:
    plain = small(name)
    method = small(name, names=[SAID, *NAMES[1:]])
    assert method.classes == plain.classes
    assert not torch.allclose(method(images(2)), plain(images(2)), rtol=0, atol=1e-3)
    counts, plain_counts = ([p.numel() for p in one.trainable().values()] for one in (method, plain))
    assert counts == plain_counts
    if method.trainable():
        method.train().loss(labelled_views(4)).backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in method.trainable().values())


@pytest.mark.parametrize("name", READERS)
def test_one_name_said_in_full_changes_nothing(name: str) -> None:
    said = [{"names": [one]} for one in NAMES]
    assert small(name, names=said)(images(2)).equal(small(name)(images(2)))


@pytest.mark.parametrize("name", ["coop", "sep", "zero-shot", "gda"])
def test_other_classes_may_be_described(name: str) -> None:
    method = small(name)
    other = method.with_classes([SAID, "dog"])
    fresh = small(name, names=[SAID, "dog"])
    fresh.load_adapter_state_dict(method.adapter_state_dict())
    assert other.classes == ("cat", "dog")
    assert other(images(2)).equal(fresh(images(2)))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([{"names": ["cat", "dog"]}, "dog"], "must differ, got dog twice"),
        ([{"names": ["cat", "Dog"]}, "dog"], "'Dog' and 'dog' are the same tokens"),
        (["cat", {"names": ["dog"], "template": "x"}], "class 2: Unknown key 'template'. Did you mean 'templates'?"),
        (["cat", {"names": ["dog"], "templates": "a dog"}], r"class 2: template must contain \{\} once"),
        (["cat", {"descriptions": ["a dog"]}], "class 2: names must hold at least one name"),
        (["cat", {"names": "dog", "descriptions": "very " * 40}], "does not fit the model's 32 text tokens"),
    ],
)
def test_wrong_descriptions_are_refused(classes: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("coop", backbone("clip"), classes)
