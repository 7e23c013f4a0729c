"""Names and options of methods: errors name the value, the rule and the nearest valid name."""

import dataclasses
from typing import Any

import pytest
import torch

from selfprompt.methods import list_methods
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method, find_method, make_options
from selfprompt.methods.traits import Traits
from selfprompt.models.loading.assemble import vit_backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.tower import Pooling
from selfprompt.utils.validation import TYPE_NAMES
from tests.methods.custom import Bias
from tests.methods.tiny import NAMES, backbone, images, small
from tests.models.tiny import vit

CUSTOM = "tests.methods.custom"


@pytest.mark.parametrize("name", list_methods())
def test_a_method_s_file_is_its_name_and_has_a_first_line(name: str) -> None:
    method = find_method(name)
    assert issubclass(method, Method)
    assert method.__module__ == f"selfprompt.methods.{name.replace('-', '_')}"
    assert list_methods()[name].endswith(".")
    assert dataclasses.is_dataclass(method.Options)
    options = method.Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.anything = 1


def test_an_unknown_method_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown method 'coopp'\. Did you mean 'coop'\? Known: .*\bcoop, full, "
    ) as caught:
        find_method("coopp")
    assert all(name in str(caught.value) for name in list_methods())
    with pytest.raises(ValueError, match=r"Unknown method '???'\. Known: ".replace("?", r"\?")):
        find_method("???")
    with pytest.raises(ValueError, match="Unknown method 'base'"):
        find_method("base")


def test_a_custom_method_needs_no_options() -> None:
    method = build_method(f"{CUSTOM}:Bias", backbone("mae"), NAMES)
    assert isinstance(method, Bias)
    assert method(images(2)).shape == (2, len(NAMES))
    with pytest.raises(ValueError, match=r"custom has no option 'prompts'\. Its options: none\."):
        build_method(f"{CUSTOM}:Bias", backbone("mae"), NAMES, prompts=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.at_all:Thing", "could not be imported: No module named 'nowhere'"),
        (f"{CUSTOM}:Missing", "could not be imported: .* has no attribute 'Missing'"),
        (":Thing", "could not be imported: "),
        (f"{CUSTOM}:NOT_A_METHOD", "must name a subclass of selfprompt.methods.base.Method"),
    ],
)
def test_a_custom_name_that_is_no_method_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_method(name)


@pytest.mark.parametrize("name", list_methods())
def test_an_unknown_option_lists_the_options(name: str) -> None:
    known = [field.name for field in dataclasses.fields(find_method(name).Options)]
    typo = known[0][:-1] + "x"
    with pytest.raises(ValueError, match=rf"{name} has no option '{typo}'\. Did you mean '{known[0]}'\?") as caught:
        make_options(find_method(name), {typo: 1})
    assert f"Its options: {', '.join(known)}." in str(caught.value)


@pytest.mark.parametrize("name", list_methods())
def test_an_option_of_another_kind_is_refused(name: str) -> None:
    for field in dataclasses.fields(find_method(name).Options):
        wrong: Any = 3.5 if field.type in (int, str, bool) else "many" if field.type is float else None
        if wrong is not None:
            with pytest.raises(ValueError, match=f"{field.name} must be {TYPE_NAMES[field.type]}, got {wrong!r}"):
                make_options(find_method(name), {field.name: wrong})


def test_lists_become_tuples_and_whole_numbers_do_for_floats() -> None:
    options = make_options(find_method("sep"), {"layers": [2, 1], "text_weight": 4})
    assert options.layers == (2, 1)
    assert options.text_weight == 4
    with pytest.raises(ValueError, match=r"layers must be a list, each a whole number, got \[1, 'two'\]"):
        make_options(find_method("sep"), {"layers": [1, "two"]})
    with pytest.raises(ValueError, match="prompts must be a whole number, got True"):
        make_options(find_method("vpt"), {"prompts": True})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vpt", {"prompts": 0}, "prompts must be at least 1, got 0"),
        ("vpt", {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ("vpt", {"project": -2}, r"project must be 0 \(none\) or a width, got -2"),
        (
            "vpt",
            {"pooling": "mean"},
            "pooling must be auto, native, cls, avg, patches, prompts, .*; got 'mean'",
        ),
        ("spt", {"prompts": 0}, "prompts must be at least 1, got 0"),
        ("spt", {"start": "median"}, "start must be one of random, mean, max, kmeans, got 'median'"),
        ("spt", {"images": -1}, r"images must be 0 \(all\) or more, got -1"),
        ("gatevpt", {"prompts": -3}, "prompts must be at least 1, got -3"),
        ("gatevpt", {"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ("linear", {"pooling": "first"}, "pooling must be auto, .*; got 'first'"),
        ("full", {"pooling": "first"}, "pooling must be auto, .*; got 'first'"),
        ("coop", {"prompts": 0}, "prompts must be at least 1, got 0"),
        (
            "coop",
            {"class_token_position": "back"},
            "class_token_position must be one of end, middle, front, got 'back'",
        ),
        ("coop", {"init_text": "a photo", "class_specific": True}, "init_text and class_specific exclude each other"),
        ("sep", {"text_prompts": 0}, "text_prompts must be at least 1, got 0"),
        ("sep", {"image_prompts": 0}, "image_prompts must be at least 1, got 0"),
        ("sep", {"fusion_axis": "image"}, "fusion_axis must be one of tokens, batch, got 'image'"),
        ("sep", {"selection": "tokens"}, "selection must be one of image, batch, got 'tokens'"),
        ("sep", {"text_tokens": "all"}, "text_tokens must be one of following, valid, got 'all'"),
        ("sep", {"consistency_on": "frozen"}, "consistency_on must be one of mixed, prompted, got 'frozen'"),
        ("sep", {"prototype_views": "none"}, "prototype_views must be one of train, plain, got 'none'"),
        ("sep", {"layers": (1, 1)}, r"layers must be different block numbers from 0, got \[1, 1\]"),
        ("sep", {"layers": (-1,)}, r"layers must be different block numbers from 0, got \[-1\]"),
        ("sep", {"layers": (5,)}, "layers names block 5, but a tower has blocks 0 to 3"),
        ("sep", {"template": "a photo"}, r"template must contain \{\} once"),
        (
            "sep",
            {"init_text": "a photo of a", "text_prompts": 3},
            "init_text 'a photo of a' is 4 tokens, but text_prompts is 3",
        ),
        ("sep", {"init_text": "a photo", "text_start": "random"}, "init_text and text_start exclude each other"),
        ("sep", {"text_start": "mean"}, "text_start must be one of normal, random, kmeans, got 'mean'"),
        ("sep", {"image_start": "words"}, "image_start must be one of normal, random, mean, max, kmeans, got 'words'"),
        ("sep", {"fusion": "none"}, "fusion must be one of own, shared, got 'none'"),
        ("sep", {"fusion_rank": -1}, r"fusion_rank must be 0 \(full matrices\) or more, got -1"),
        ("sep", {"fusion_rank": 5000}, r"fusion_rank must be 0 \(full matrices\) to \d+, the width .*; got 5000"),
        ("cocoop", {"reduction": 0}, "reduction must be at least 1, got 0"),
        ("kgcoop", {"class_specific": True}, "init_text and class_specific exclude each other"),
        ("kgcoop", {"template": "a photo"}, r"template must contain \{\} once"),
        ("prograd", {"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ("prograd", {"strength": -1.0}, r"strength must be 0 \(CoOp\) or more, got -1.0"),
        ("promptsrc", {"average_std": 0.0}, "average_std must be above 0, got 0.0"),
        ("tcp", {"text": "a type of pet"}, r"template must contain \{\} once"),
        ("tcp", {"layer": -1}, r"layer must be 0 \(at two thirds\) or a block's number, got -1"),
        ("zero-shot", {"template": "{} {}"}, r"template must contain \{\} once"),
        ("zero-shot", {"ensemble": "half"}, "ensemble must be one of none, simple, full, got 'half'"),
    ],
)
def test_a_wrong_value_is_named_with_the_rule(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(name, backbone("clip"), NAMES, **options)


@pytest.mark.parametrize("pooling", ["avg", "cls", "patches"])
def test_class_texts_are_compared_with_native_features_alone(pooling: Pooling, monkeypatch: pytest.MonkeyPatch) -> None:
    traits = Traits(inputs="features", needs_text=True, pooling=pooling)
    monkeypatch.setattr(find_method("zero-shot"), "traits_for", classmethod(lambda cls, options: traits))
    with pytest.raises(ValueError, match=f"image features of the pooling native, got '{pooling}'"):
        build_method("zero-shot", backbone("clip"), NAMES)


def test_a_pooling_that_a_backbone_lacks_is_refused_when_a_method_is_built() -> None:
    averaging = vit_backbone("tiny", vit(class_token=False, global_pool="avg", img_size=224, patch_size=56))
    with pytest.raises(ValueError, match="Pooling 'cls' needs a class token, and this backbone has none; use 'avg'"):
        build_method("ridge", averaging, NAMES, pooling="cls")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat"], "needs at least 2 class names, got 1"),
        ([], "needs at least 2 class names, got 0"),
        (["cat", "  "], "Class names must not be empty"),
        (["fish_tank", "cat", "fish  tank"], "Class names must differ, got fish tank twice"),
    ],
)
def test_wrong_class_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method("linear", backbone("mae"), names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Cat", "dog", "cat"], "names 'Cat' and 'cat' are the same tokens .*merge the two classes"),
        (["CAFÉ", "café"], "names 'CAFÉ' and 'café' are the same tokens"),
        (["salt &amp; pepper", "salt & pepper"], "are the same tokens"),
        (["cat", "\x00"], r"name '\\x00' has no word that embedded/clip reads"),
        (["cat", "dog " * 40], "The text 'dog dog .*' does not fit the model's 32 text tokens; shorten the name"),
    ],
)
def test_names_that_the_text_tower_cannot_tell_apart_are_refused(names: list[str], message: str) -> None:
    frozen = load_backbone("embedded/clip")
    for name in ("zero-shot", "coop", "sep"):
        with pytest.raises(ValueError, match=message):
            build_method(name, frozen, names)
    with pytest.raises(ValueError, match=message):
        build_method("zero-shot", frozen, ["a", "b"]).with_classes(names)
    assert len(build_method("linear", frozen, names).classes) == len(names), "its head reads no names"


def test_published_names_may_be_the_same_tokens() -> None:
    method = build_method("zero-shot", load_backbone("embedded/clip"), ["crane", "cat", "Crane"], check=False)
    torch.testing.assert_close(method.texts[0], method.texts[2], rtol=0, atol=1e-6)  # other rows, other rounding


def test_one_text_is_no_list_of_class_names() -> None:
    with pytest.raises(TypeError, match="Class names must be a list of texts, got the text 'cats'"):
        build_method("linear", backbone("mae"), "cats")


def test_a_pooling_that_the_backbone_cannot_do_says_so() -> None:
    with pytest.raises(ValueError, match="Pooling 'prompts' needs prompts, and the sequence holds none"):
        small("linear", "mae", pooling="prompts")(torch.zeros(1, 3, 64, 64))
