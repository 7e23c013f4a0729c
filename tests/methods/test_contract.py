"""What every method promises, whichever paper it comes from. New files in ``methods/`` are tested without a change."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods import list_methods
from selfprompt.methods.base import Method
from selfprompt.methods.registry import find_method, make_options
from selfprompt.models.loading.by_name import Backbone
from selfprompt.models.tower import NoPrompts
from tests.methods.tiny import NAMES, SMALL, backbone, counted, images, labelled, labelled_views, small, traits

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ape, trained": ("ape", {"finetune": True}),
    "bpt, last block": ("bpt", {"last": 1}),
    "bpt, shallow": ("bpt", {"deep": False}),
    "bitfit, head": ("bitfit", {"head": "linear"}),
    "clap, no pull": ("clap", {"pull": False}),
    "clip-lora, dropout": ("clip-lora", {"dropout": 0.25}),
    "coop, class specific": ("coop", {"class_specific": True}),
    "coop, name in the middle": ("coop", {"class_token_position": "middle"}),
    "gda, these names only": ("gda", {"new_names": False, "alpha": 0.01}),
    "mmrl, last block": ("mmrl", {"last": 1}),
    "ln-tuning, head": ("ln-tuning", {"head": "linear"}),
    "semobridge, trained": ("semobridge", {"finetune": True}),
    "sep, as released": ("sep", {"fusion_axis": "batch", "selection": "batch"}),
    "sep, choice by batch": ("sep", {"selection": "batch", "layers": (1, 3)}),
    "sep, shared fusion": ("sep", {"fusion": "shared", "layers": (1, 3)}),
    "sep, low rank": ("sep", {"fusion_rank": 8, "layers": (1, 3)}),
    "sep, valid tokens": ("sep", {"text_tokens": "valid", "consistency_on": "prompted"}),
    "simpleshot, not centred": ("simpleshot", {"transform": "L2N"}),
    "spt, shallow": ("spt", {"deep": False}),
    "tcp, last block": ("tcp", {"layer": 3, "text": "{}, a type of thing."}),
    "ss-text, not plus": ("ss-text", {"plus": False}),
    "tip-adapter, keys trained": ("tip-adapter", {"finetune": True}),
    "vfpt, shallow": ("vfpt", {"deep": False, "fourier": 1.0}),
    "vipamin, deep": ("vipamin", {"deep": True}),
    "vpt, projected": ("vpt", {"deep": False, "project": 8}),
}

RATES = {"skip-tuning": 1e-4}  # whole blocks need a lower learning rate


@dataclass(frozen=True)
class Case:
    """A method, its backbone and its options."""

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 1, names: tuple[str, ...] = NAMES) -> Method:
        return small(self.name, self.kind, names, seed, **self.options)


def all_cases() -> dict[str, Case]:
    cases = {}
    for name in list_methods():
        for kind in ("clip",) if traits(name).needs_text else ("clip", "mae"):
            cases[f"{name}, {kind}"] = Case(name, kind)
    return cases | {label: Case(name, "clip", options) for label, (name, options) in VARIANTS.items()}


CASES = all_cases()
every = pytest.mark.parametrize("label", CASES)
defaults = pytest.mark.parametrize("label", [label for label, case in CASES.items() if not case.options])
clip_only = pytest.mark.parametrize("label", [label for label, case in CASES.items() if case.kind == "clip"])


@dataclass
class Training:
    """A method after a few steps, with its losses before and after."""

    method: Method
    before: float
    after: float
    gradients: dict[str, Tensor]
    unchanged: bool = True


def weights(frozen: Backbone) -> dict[str, Tensor]:
    """Copies of all tensors of both towers."""
    towers = {"vision": frozen.vision, "text": frozen.text}
    states = {side: tower.state_dict() for side, tower in towers.items() if tower}
    return {f"{side}.{name}": tensor.clone() for side, state in states.items() for name, tensor in state.items()}


@cache
def trained(label: str) -> Training:
    """A method after three steps of Adam on four images; the losses are those of evaluation mode."""
    method = CASES[label].build()
    frozen = weights(method.backbone)
    pictures, labels = labelled(4)

    def loss() -> float:
        with torch.no_grad():
            return method.eval().loss(Views(pictures, labels=labels)).total.item()

    before, gradients = loss(), {}
    parameters = method.trainable()
    if not parameters:
        return Training(method, before, before, gradients)
    adam = torch.optim.Adam(parameters.values(), lr=RATES.get(method.name, 1e-3))
    for epoch in range(3):
        adam.zero_grad()
        method.train().loss(Views(pictures, labels=labels)).backward()
        gradients |= {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        adam.step()
        if method.traits.stages:
            method.after_epoch(epoch, 3)
    adam.zero_grad()
    unchanged = all(tensor.equal(frozen[name]) for name, tensor in weights(method.backbone).items())
    return Training(method, before, loss(), gradients, unchanged)


@torch.no_grad()
def logits(method: Method, pictures: Tensor) -> Tensor:
    return method.eval()(pictures)


def near(ours: Tensor, theirs: Tensor, method: Method, tolerance: float = 1e-5) -> bool:
    """Return whether logits are equal up to the order of summation in float32, relative to the scale of cosines."""
    scale = max(1.0, method.backbone.scale, float(theirs.abs().max()))
    return float((ours - theirs).abs().max()) < tolerance * scale


@pytest.fixture(scope="module", autouse=True)
def untouched_backbones() -> Iterator[None]:
    """Check that the tests of this file leave the shared backbones bitwise unchanged and without gradients."""
    before = {kind: weights(backbone(kind)) for kind in ("clip", "mae")}
    yield
    for kind, tensors in before.items():
        assert all(tensor.equal(tensors[name]) for name, tensor in weights(backbone(kind)).items())
        for tower in (backbone(kind).vision, backbone(kind).text):
            assert tower is None or all(p.grad is None and not p.requires_grad for p in tower.parameters())


@every
def test_the_traits_name_the_sides_that_are_edited(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, edited = CASES[label].build(), set()

    def noting(side: str, run: Callable[..., Any], inputs: Tensor, prompter: Any = None, **options: Any) -> Any:
        if not (prompter is None or isinstance(prompter, NoPrompts)):
            edited.add(side)
        return run(inputs, prompter, **options)

    for side, tower, name in (
        ("image", method.vision, "forward"),
        ("text", method.text, "forward"),
        ("text", method.text, "shared_prefix"),
    ):
        if tower is not None:
            monkeypatch.setattr(tower, name, partial(noting, side, getattr(tower, name)))
    method.train().loss(labelled_views(4))
    if method.name == "mmrl":
        edited.add("text")  # by the keys and values that its texts share
    assert edited == set(method.traits.edits)


@defaults
def test_features_alone_suffice_unless_the_image_side_is_edited(label: str) -> None:
    case = CASES[label]
    if case.name == "prolip":
        with pytest.raises(ValueError, match=r"Only the final features .* got 'unprojected'; use a method that reads"):
            small(case.name, "features")
        return
    if "image" not in traits(case.name).edits:
        method = small(case.name, "features")
        assert logits(method, images(3)).shape == (3, 4)
        assert method.train().loss(labelled_views(4)).total.isfinite()
        return
    readers = "zero-shot, coop, tip-adapter, ridge"
    with pytest.raises(TypeError, match=rf"of features only the image features are known: .* \({readers}\), or a ViT"):
        small(case.name, "features")


@every
def test_the_loss_falls(label: str) -> None:
    training = trained(label)
    if training.method.trainable():
        assert training.after < training.before


def test_which_methods_train_nothing() -> None:
    assert not small("zero-shot").trainable()
    assert not small("tip-adapter").trainable()
    assert small("tip-adapter", finetune=True).trainable()


@every
def test_exactly_the_trainable_parameters_get_a_gradient(label: str) -> None:
    training = trained(label)
    assert set(training.gradients) == set(training.method.trainable())
    without = [name for name, gradient in training.gradients.items() if not gradient.any()]
    assert without == []


@every
def test_training_leaves_the_backbone_bitwise_unchanged_and_in_eval_mode(label: str) -> None:
    training, shared = trained(label), backbone(CASES[label].kind)
    assert training.unchanged
    frozen = [p for tower in (shared.vision, shared.text) if tower for p in tower.parameters()]
    assert not {id(p) for p in frozen} & {id(p) for p in training.method.trainable().values()}
    assert not any(module.training for module in training.method.train().vision.modules())


@every
def test_logits_and_loss_have_the_right_form(label: str) -> None:
    method = trained(label).method
    pictures, labels = labelled(3)
    scores = logits(method, pictures)
    assert scores.shape == (3, len(NAMES))
    assert scores.dtype == torch.float32
    terms = method.loss(Views(pictures, labels=labels))
    weighted = sum(terms.weights.get(name, 1.0) * term for name, term in terms.terms.items())
    assert terms.total.ndim == 0
    assert float((terms.total - weighted).detach().abs()) < 1e-4
    assert terms.logits is not None
    assert not terms.logits.requires_grad
    assert near(terms.logits, scores, method)
    assert method.classes == NAMES
    assert method.image_size == (64, 64)
    assert near(logits(method, pictures), method(pictures).detach(), method)


@every
def test_given_frozen_features_are_used_and_equal_the_computed_ones(label: str) -> None:
    method = trained(label).method
    pictures, labels = labelled(3)
    encoder = method.train().encoder()
    if encoder is None:
        assert method.traits.inputs == "pixels"
        return
    frozen = encoder.encode(pictures)
    expected = method.vision(pictures, pooling=method.pooling)
    assert frozen.equal(expected)
    assert not frozen.requires_grad
    reads_pixels = method.traits.inputs == "both"
    known = Views(pictures if reads_pixels else None, frozen, labels)
    runs: list[int] = []
    handle = method.vision.register_forward_hook(lambda _, inputs, __: runs.append(len(inputs[0])))
    terms = method.loss(known)
    assert len(runs) == reads_pixels, "the prompted branch alone"
    given = method.logits(known)
    handle.remove()
    assert near(given.detach(), method(pictures).detach(), method)
    for name, term in method.loss(Views(pictures, labels=labels)).terms.items():
        assert float((term - terms.terms[name]).detach().abs()) < 1e-5 * max(1.0, float(term.detach()))
    trainable = list(method.trainable().values())
    if trainable:
        ours, theirs = (
            torch.autograd.grad(loss.total, trainable) for loss in (terms, method.loss(Views(pictures, labels=labels)))
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert (method.eval().encoder() is None) == method.traits.features_in_training_only


@every
def test_traits_are_known_before_there_is_a_method(label: str) -> None:
    case = CASES[label]
    assert trained(label).method.traits == traits(case.name, **case.options)


@every
def test_a_method_reads_the_inputs_that_its_traits_name(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, read = CASES[label].build(), set()
    frozen_features = method.frozen_features

    class Noted(Views):
        @property
        def pixels(self) -> Tensor:
            read.add("pixels")
            return super().pixels

    def noted_features(views: Views) -> Tensor:
        read.add("features")
        return frozen_features(views)

    monkeypatch.setattr(method, "frozen_features", noted_features)
    pictures, labels = labelled(2)
    features = method.vision(pictures, pooling=method.pooling).detach()
    inputs = {"pixels", "features"} if method.traits.inputs == "both" else {method.traits.inputs}
    method.train().loss(Noted(pictures, features, labels))
    assert read == inputs
    read.clear()
    method.eval().logits(Noted(pictures, features))
    assert read == ({"pixels"} if method.traits.features_in_training_only else inputs)


@every
def test_saved_and_loaded_tensors_give_equal_logits(label: str) -> None:
    method, other = trained(label).method, CASES[label].build(seed=2)
    assert set(method.adapter_state_dict()) >= set(method.trainable()) - set(method.traits.training_only)
    stored = safetensors.torch.load(safetensors.torch.save(method.adapter_state_dict()))
    pictures = images(2)
    if stored:
        assert not logits(other, pictures).equal(logits(method, pictures))
    other.load_adapter_state_dict(stored)
    assert logits(other, pictures).equal(logits(method, pictures))
    assert all(p.requires_grad for p in other.trainable().values())


@every
def test_tensors_that_do_not_fit_are_listed_and_change_nothing(label: str) -> None:
    method = CASES[label].build()
    before = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()} | {"other": torch.zeros(2)}
    expected = ["unexpected other"]
    fixed = sorted(before.keys() - set(method.traits.variable_length))
    if len(fixed) > 1:
        gone, bent = fixed[:2]
        del tensors[gone]
        tensors[bent] = torch.zeros(3, 1, 5)
        expected += [f"missing {gone}", f"{bent} has shape (3, 1, 5), expected {tuple(before[bent].shape)}"]
    with pytest.raises(ValueError, match="The tensors do not fit") as caught:
        method.load_adapter_state_dict(tensors)
    for problem in expected:
        assert problem in str(caught.value)
    assert all(tensor.equal(before[name]) for name, tensor in method.adapter_state_dict().items())


@every
def test_new_class_names_work_or_are_refused_with_a_sentence(label: str) -> None:
    method, names, pictures = trained(label).method, ("dog", "fire_truck", "cat"), images(2)
    if not method.traits.open_vocabulary:
        with pytest.raises(ValueError, match=r"cannot take new class names: .*\. Use a method that reads class names"):
            method.with_classes(names)
        return
    before = logits(method, pictures)
    other = method.with_classes(names)
    assert other.classes == ("dog", "fire truck", "cat")
    assert logits(other, pictures).shape == (2, 3)
    fresh = CASES[label].build(seed=3, names=names)
    fresh.load_adapter_state_dict(method.adapter_state_dict())
    assert logits(fresh, pictures).equal(logits(other, pictures))
    assert logits(method, pictures).equal(before)
    assert logits(method.with_classes(NAMES), pictures).equal(before)
    for wrong, message in (
        (("cat",), "at least 2"),
        (("a", "a"), "must differ, got a twice"),
        (("a", " "), "not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            method.with_classes(wrong)


@every
def test_permuting_classes_permutes_logits(label: str) -> None:
    method, pictures, order = trained(label).method, images(2), [2, 0, 3, 1]
    names = tuple(NAMES[index] for index in order)
    other = CASES[label].build(seed=1, names=names)
    fewer = CASES[label].build(seed=1, names=NAMES[:3]).adapter_state_dict()
    tensors = {}
    for name, tensor in method.adapter_state_dict().items():
        variable = name in method.traits.variable_length  # one row per image or per class name
        if variable and not tensor.is_floating_point() and set(tensor.tolist()) <= set(order):  # labels
            tensor = torch.tensor(order).argsort()[tensor]
        for axis in range(variable, tensor.ndim):
            if tensor.shape[axis] != fewer[name].shape[axis]:
                tensor = tensor.index_select(axis, torch.tensor(order))
        tensors[name] = tensor
    other.load_adapter_state_dict(tensors)
    assert near(logits(other, pictures), logits(method, pictures)[:, order], method)


@every
def test_a_prediction_ignores_the_other_images_unless_the_traits_say_otherwise(label: str) -> None:
    method, pictures = trained(label).method, torch.cat([labelled(2)[0], images(1, seed=5)])
    whole = logits(method, pictures)
    others = [
        torch.cat([logits(method, picture[None]) for picture in pictures]),
        logits(method, pictures.flip(0)).flip(0),
        torch.cat([logits(method, torch.cat([pictures[:2], images(2, seed=7)]))[:2], whole[2:]]),
    ]
    if method.traits.batch_independent:
        assert all(near(other, whole, method) for other in others)
    else:
        assert near(others[1], whole, method)  # the same images in another order
        assert not near(others[0], whole, method, 1e-4)
        assert not near(others[2], whole, method, 1e-4)


def test_only_the_released_rules_of_sep_mix_images() -> None:
    of_sep = {label: case for label, case in CASES.items() if case.name == "sep"}
    mixing = {label for label, case in of_sep.items() if not case.build().traits.batch_independent}
    assert mixing == {"sep, as released", "sep, choice by batch"}
    assert not small("sep", fusion_axis="batch").traits.batch_independent


@defaults
def test_a_deep_copy_is_independent(label: str) -> None:
    method, pictures = trained(label).method, images(2)
    before = logits(method, pictures)
    other = copy.deepcopy(method)
    assert logits(other, pictures).equal(before)
    assert other.backbone.vision is not method.backbone.vision
    assert (other.backbone.vision is other.vision) == (method.backbone.vision is method.vision)
    with torch.no_grad():
        for parameter in other.trainable().values():
            parameter.add_(0.1 * torch.ones_like(parameter).cumsum(dim=-1))
    assert logits(method, pictures).equal(before)
    if other.trainable():
        assert not logits(other, pictures).equal(before)


@clip_only
def test_classes_are_encoded_once_until_a_tensor_changes(label: str) -> None:
    method, pictures = CASES[label].build(), labelled(4)[0]
    reads = method.traits.needs_text and type(method).encode_classes is not Method.encode_classes  # trained texts
    with counted(method) as calls:
        logits(method, pictures[:1])
        once = sum(calls)
        logits(method, pictures[:2])
        if not reads and sum(calls) == 3 * once > 0:
            pytest.skip("class features depend on the image (CoCoOp)")
    method = CASES[label].build()
    with counted(method) as calls:
        for _ in range(3):
            logits(method, pictures[:1])
        assert len(calls) == reads
        with torch.inference_mode():
            method(pictures[:1])
        assert len(calls) == reads
        tensors = method.adapter_state_dict()
        moved = {name: t + 0.01 if t.is_floating_point() else t for name, t in tensors.items()}
        method.load_adapter_state_dict(moved)
        after = logits(method, pictures[:1])
        assert len(calls) == 2 * reads
        if method.trainable():
            method.train().loss(labelled_views(2)).backward()
            seen = len(calls)
            with torch.no_grad():
                for parameter in method.trainable().values():
                    if parameter.grad is not None:  # those of a later stage have none
                        parameter -= 1e-2 * parameter.grad
            stepped = logits(method, pictures[:1])
            assert len(calls) == seen + reads
            assert not stepped.equal(after)


@pytest.mark.parametrize(
    "label",
    [
        label
        for label, case in CASES.items()
        if find_method(case.name).encode_classes is not Method.encode_classes
        and traits(case.name, **case.options).needs_text
    ],
)
def test_class_texts_are_never_those_of_other_tensors(label: str) -> None:
    """Torch's version counters register neither the steps of fused optimisers nor changes of ``.data``."""
    method, pictures = CASES[label].build(), labelled(2)[0]
    parameters = method.trainable()

    def is_fresh() -> bool:
        other = CASES[label].build()
        other.load_adapter_state_dict(method.adapter_state_dict())
        return logits(method, pictures).equal(logits(other, pictures))

    assert is_fresh()
    adam = torch.optim.Adam(parameters.values(), lr=0.02, fused=True)
    method.loss(labelled_views(2)).backward()  # in eval mode, as in a custom loop
    assert is_fresh()  # texts are kept between the gradients and the step
    before = logits(method, pictures)
    adam.step()
    assert is_fresh()
    assert not logits(method, pictures).equal(before)
    for parameter in parameters.values():
        parameter.data.mul_(0.5)
    assert is_fresh()
    before = logits(method, pictures)
    with torch.no_grad():
        method.train()(pictures)  # with dropout, where the method has it
    assert logits(method, pictures).equal(before)


def draws(case: Case) -> bool:
    """Return whether the method's initial parameters are random."""
    cls, generator = find_method(case.name), torch.Generator()
    before = generator.get_state()
    cls(backbone(case.kind), NAMES, make_options(cls, {**SMALL.get(case.name, {}), **case.options}), generator)
    return not generator.get_state().equal(before)


@every
def test_a_seed_fixes_the_initial_values_whatever_the_global_state(label: str) -> None:
    torch.manual_seed(1)
    first = CASES[label].build(seed=0).trainable()
    torch.manual_seed(2)
    again, other = CASES[label].build(seed=0).trainable(), CASES[label].build(seed=1).trainable()
    assert first.keys() == again.keys() == other.keys()
    assert all(tensor.equal(again[name]) for name, tensor in first.items())
    if draws(CASES[label]) and CASES[label].name != "skip-tuning":  # which draws what it skips
        assert not all(tensor.equal(other[name]) for name, tensor in first.items())


@pytest.mark.parametrize("name", [name for name in list_methods() if traits(name).needs_text])
def test_methods_that_read_class_names_refuse_a_backbone_without_text(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs a CLIP backbone; embedded/mae has no text tower"):
        small(name, "mae")


@pytest.mark.parametrize("label", [label for label in CASES if label.endswith(", clip")])
def test_mixed_precision_gives_nearly_the_same_predictions(label: str) -> None:
    method, pictures = trained(label).method, labelled(2)[0]
    plain = logits(method, pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = logits(method, pictures).float()
    assert near(mixed, plain, method, 0.1)  # bfloat16 has 8 bits
    assert logits(method, pictures).equal(plain)  # nothing in half precision is left in a cache
    assert all(p.dtype == torch.float32 for p in method.trainable().values())
