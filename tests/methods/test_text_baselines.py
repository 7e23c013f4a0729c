"""CoCoOp, KgCoOp, ProGrad, TCP and PromptSRC beyond the contract tests."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt import tune
from selfprompt.data.views import Views
from selfprompt.methods import cocoop
from selfprompt.methods import prograd as prograd_module
from selfprompt.methods.class_texts import PHOTO, embed_text, encode_template, fill_template, tokenize_for_tower
from selfprompt.methods.cocoop import CoCoOp
from selfprompt.methods.coop import CoOp
from selfprompt.methods.prograd import ProGrad, without_conflict
from selfprompt.methods.promptsrc import PromptSRC, epoch_weights, templates
from selfprompt.methods.tcp import TCP, insertion_block, skip_words
from selfprompt.prompts.static import Static
from selfprompt.training.reporter import LogReporter
from tests.methods.tiny import NAMES, backbone, counted, images, labelled, labelled_views, small

PETS = "a photo of a {}, a type of pet."


def close(one: Tensor, other: Tensor, scale: float = 1.0) -> bool:
    """Equal up to float32 in another order of summation."""
    return float((one - other).detach().abs().max()) < 1e-5 * scale


# KgCoOp and TCP keep class features close to a template's


@pytest.mark.parametrize("name", ["kgcoop", "tcp"])
def test_class_texts_are_kept_close_to_the_template(name: str) -> None:
    method, (pictures, labels) = small(name, template=PETS, weight=3.0), labelled(3)
    terms = method.loss(Views(pictures, labels=labels))
    frozen = encode_template(backbone("clip"), PETS, NAMES)
    cosines = F.cosine_similarity(method.encode_classes(), frozen)
    assert float(cosines.detach().max()) < 0.999
    assert close(terms.terms["text"], 1 - cosines.mean())
    assert close(terms.terms["ce"], F.cross_entropy(method(pictures), labels))
    assert terms.weights == {"text": 3.0}


def test_kgcoop_starts_as_its_template_by_default() -> None:
    method, zero = small("kgcoop", init_text="a photo of a"), small("zero-shot")
    assert abs(float(method.loss(labelled_views(2)).terms["text"].detach())) < 1e-5
    assert close(method(images(2)), zero(images(2)), backbone("clip").scale)


# ProGrad


def prograd(**options: Any) -> ProGrad:
    method = small("prograd", **options)
    assert isinstance(method, ProGrad)
    return method


@pytest.mark.parametrize("seed", range(5))
def test_a_projected_gradient_never_opposes_the_teacher_s(seed: int) -> None:
    domain, general = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(seed))
    for sign in (1, -1):
        gradient = sign * domain
        result, agreement = without_conflict(gradient, general), (gradient * general).sum()
        assert (result * general).sum() > -1e-4
        assert (agreement >= 0) == result.equal(gradient)
        half = without_conflict(gradient, general, strength=0.5)
        assert close(half, (gradient + result) / 2)
        assert without_conflict(gradient, general, strength=0.0).equal(gradient)
        if agreement < 0:  # the result is orthogonal, and everything else is kept
            assert abs(float((result * general).sum())) < 1e-4
            along = (gradient * general).sum() / general.square().sum() * general
            assert close(result, gradient - along)
    assert without_conflict(domain, torch.zeros_like(general)).equal(domain)


def two_gradients(method: ProGrad, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the cross-entropy, and of the divergence from zero-shot CLIP at temperature 2."""
    logits = method(pictures)
    with torch.no_grad():
        teacher = small("zero-shot", template=method.options.template)(pictures)
    soft = -(F.softmax(teacher / 2, dim=-1) * F.log_softmax(logits / 2, dim=-1)).sum(dim=-1).mean()
    (domain,) = torch.autograd.grad(F.cross_entropy(logits, labels), [method.context], retain_graph=True)
    (general,) = torch.autograd.grad(4 * soft, [method.context])
    return domain, general


@pytest.mark.parametrize("agree", [True, False])
def test_prograd_steps_along_the_projected_gradient(agree: bool) -> None:
    method, pictures = prograd(temperature=2.0, strength=1.0, template=PETS), labelled(4)[0]
    with torch.no_grad():
        method.context *= 20  # far enough from the teacher for a gradient of some size
        teacher = small("zero-shot", template=PETS)(pictures)
        surplus = F.softmax(method(pictures) / 2, dim=-1) - F.softmax(teacher / 2, dim=-1)
    labels = surplus.argmin(dim=1) if agree else surplus.argmax(dim=1)  # what the teacher wants more of, or less
    domain, general = two_gradients(method, pictures, labels)
    assert bool((domain * general).sum() > 0) is agree
    terms = method.loss(Views(pictures, labels=labels))
    assert terms.total.equal(terms.terms["ce"])  # the divergence has weight 0
    method.set_gradients(terms, lambda tensor: tensor)
    assert method.context.grad is not None
    size = float(domain.abs().max())
    assert close(method.context.grad, without_conflict(domain, general), size)
    assert close(method.context.grad, domain, size) is agree
    assert (method.context.grad * general).sum() > -1e-5 * size * float(general.norm())


def test_gradients_are_averaged_over_processes_before_they_are_projected() -> None:
    method, (pictures, labels) = prograd(), labelled(4)
    messages: list[Tensor] = []

    def note(message: Tensor) -> Tensor:
        messages.append(message)
        return message

    method.set_gradients(method.loss(Views(pictures, labels=labels)), lambda tensor: tensor)
    whole = method.context.grad
    assert whole is not None
    for part in (slice(0, 2), slice(2, 4)):
        method.set_gradients(method.loss(Views(pictures[part], labels=labels[part])), note)
    assert len(messages) == 2  # one a process
    method.set_gradients(
        method.loss(Views(pictures[:2], labels=labels[:2])), lambda _: torch.stack(messages).mean(dim=0)
    )
    assert close(method.context.grad, whole, max(1.0, float(whole.abs().max())))


def test_prograd_s_init_text_follows_zeros() -> None:
    start = prograd(init_text="a photo of a", prompts=6).context
    assert not start[:2].any()
    assert start[2:].equal(embed_text(backbone("clip"), "a photo of a"))
    assert prograd(init_text="a photo of a", prompts=4).context.equal(start[2:])
    with pytest.raises(ValueError, match="init_text 'a photo of a' is 4 tokens, but there are 3 prompts"):
        prograd(init_text="a photo of a", prompts=3)


def test_prograd_is_trained_with_projected_gradients(photos, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"method": "prograd", "backbone": "embedded/clip", "epochs": 1, "shots": 2, "workers": 0}
    with pytest.raises(ValueError, match="needs accumulate 1"):
        tune(photos, **settings, accumulate=2)
    monkeypatch.setattr(prograd_module, "without_conflict", lambda domain, *_: torch.zeros_like(domain))
    tuned = tune(photos, **settings, weight_decay=0.0)
    assert {"loss_ce", "loss_kl"} <= tuned.results["history"][0].keys()
    start = prograd(init_text="a photo of a", prompts=16)
    assert tuned.method.adapter_state_dict()["context"].equal(start.context)  # nothing else moves it


# CoCoOp


def conditional(**options: Any) -> CoCoOp:
    method = small("cocoop", **options)
    assert isinstance(method, CoCoOp)
    return method


@torch.no_grad()
def test_an_image_shifts_all_its_context_tokens_equally() -> None:
    method, features = conditional(), F.normalize(backbone("clip").vision(images(3)), dim=-1)
    first, second = method.network[0], method.network[2]
    moved = F.linear(F.relu(F.linear(features, first.weight, first.bias)), second.weight, second.bias)
    contexts = method.image_contexts(features)
    assert contexts.shape == (3, 4, method.text.width)
    for number in range(3):
        assert close(contexts[number], method.context + moved[number])
    assert not close(contexts[0], contexts[1])
    assert len(second.weight) == method.text.width
    assert len(first.weight) == method.vision.features // 16


@torch.no_grad()
def test_class_features_for_an_image_are_those_of_coop_with_its_context() -> None:
    method, pictures = conditional(), images(3)
    features = F.normalize(method.vision(pictures), dim=-1)
    seen, contexts = method.encode_classes_for(features), method.image_contexts(features)
    coop = small("coop", init_text="a photo of a")
    assert isinstance(coop, CoOp)
    for number in range(3):
        coop.context.copy_(contexts[number])
        assert close(seen[number], coop.encode_classes())
        assert close(method(pictures)[number], coop(pictures)[number], backbone("clip").scale)


@torch.no_grad()
def test_splitting_images_into_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method, pictures = conditional(), images(5)
    whole = method(pictures)
    for limit, expected in ((11, [8, 8, 4]), (3, [4] * 5)):  # texts of whole images, of one at least
        monkeypatch.setattr(cocoop, "TEXTS_AT_ONCE", limit)
        with counted(method) as calls:
            assert close(method(pictures), whole, backbone("clip").scale)
        assert calls == expected


# TCP


def aware(**options: Any) -> TCP:
    method = small("tcp", **options)
    assert isinstance(method, TCP)
    return method


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 3])
def test_class_tokens_enter_at_their_block_only(layer: int) -> None:
    method = aware(layer=layer)
    frozen = encode_template(backbone("clip"), PHOTO, NAMES)
    hidden = F.linear(frozen, method.down.weight, method.down.bias)
    made = F.linear(hidden * torch.sigmoid(1.702 * hidden), method.up.weight, method.up.bias)
    made = made.view(len(NAMES), 4, method.text.width)
    assert close(method.class_tokens(), made)
    tokens = method.text.embed(method.ids)
    x = torch.cat([tokens.x[:, :1], method.context.expand(len(NAMES), -1, -1), tokens.x[:, 5:]], dim=1)
    tokens = method.text.enter(tokens._replace(x=x))
    for index in range(method.text.depth):
        if index == layer:
            tokens = tokens._replace(x=torch.cat([tokens.x[:, :1], made, tokens.x[:, 5:]], dim=1))
        tokens = method.text.block(index, tokens)
    assert close(method.encode_classes(), F.normalize(method.text.pool(tokens, method.ids), dim=-1))


def test_class_tokens_enter_at_two_thirds_of_the_depth_by_default() -> None:
    assert [insertion_block(0, depth) for depth in (12, 4, 3, 2)] == [8, 2, 2, 1]
    assert insertion_block(11, 12) == 11
    assert aware().layer == 2
    with pytest.raises(ValueError, match="layer names block 4, but the text tower has blocks 0 to 3"):
        aware(layer=4)


@pytest.mark.parametrize(
    ("template", "rest"),
    [
        (PHOTO, "{}."),
        (PETS, "{}, a type of pet."),
        ("a photo of a person doing {}.", "person doing {}."),
        ("{} texture.", "{} texture."),
        ("art of {}!", "{}!"),
    ],
)
def test_the_context_replaces_the_first_words_of_the_template(template: str, rest: str) -> None:
    assert skip_words(template, 4) == rest
    expected, _ = tokenize_for_tower(backbone("clip"), fill_template(f"X X X X {rest}", NAMES))
    assert aware(template=template).ids.equal(expected)
    assert aware(text=rest).ids.equal(expected)


# PromptSRC


def regulated(**options: Any) -> PromptSRC:
    method = small("promptsrc", **options)
    assert isinstance(method, PromptSRC)
    return method


@torch.no_grad()
def test_targets_are_the_mean_of_60_templates() -> None:
    assert len(set(templates())) == 60
    assert PHOTO in templates()
    method = regulated()
    raw = [
        method.text(tokenize_for_tower(backbone("clip"), fill_template(template, NAMES))[0]) for template in templates()
    ]
    with counted(method) as calls:
        assert close(method.text_targets(), F.normalize(torch.stack(raw).sum(dim=0), dim=-1))
        assert method.text_targets() is method.text_targets()
        other = method.with_classes(["dog", "fire truck"])
        assert calls == [len(NAMES)] * 60  # once, and not for a prediction
    assert other.text_targets().shape == (2, method.text.features)


def test_promptsrc_s_loss_has_the_published_terms_and_weights() -> None:
    method, (pictures, labels) = regulated(text_weight=3.0, logits_weight=0.5), labelled(3)
    terms, scale = method.loss(Views(pictures, labels=labels)), backbone("clip").scale
    with torch.no_grad():
        frozen = F.normalize(method.vision(pictures), dim=-1)
        targets = method.text_targets()
        features = F.normalize(method.vision(pictures, Static(method.image_prompts)), dim=-1)
        texts, logits = method.encode_classes(), method(pictures)
        teacher, student = F.softmax(scale * frozen @ targets.t(), dim=-1), F.log_softmax(logits, dim=-1)
        expected = {
            "ce": F.cross_entropy(logits, labels),
            "text": (texts - targets).abs().sum() / targets.numel(),
            "image": (features - frozen).abs().sum() / frozen.numel(),
            "logits": (teacher * (teacher.log() - student)).sum() / logits.numel(),
        }
    assert terms.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert close(terms.terms[name], value, max(1.0, float(value))), name
        assert value > 0
    assert terms.weights == {"text": 3.0, "image": 10.0, "logits": 0.5}


def test_epochs_are_weighted_as_published() -> None:
    near = epoch_weights(20, 15, 1)
    assert [round(value, 2) for value in near[12:17].tolist()] == [0.05, 0.24, 0.4, 0.24, 0.05]
    flat = epoch_weights(20, 6, 10)
    assert flat.argmax() == 5
    assert float(flat.max()) == pytest.approx(0.063, abs=5e-4)
    assert float(epoch_weights(50, 30, 30).max()) == pytest.approx(0.0225, abs=5e-5)
    late = epoch_weights(50, 45, 5)
    assert float(late.max()) == pytest.approx(0.092, abs=5e-4)
    for weights in (near, flat, late, epoch_weights(1, 15, 1), epoch_weights(3, 15, 0.01)):  # far from the mean too
        assert float(weights.sum()) == pytest.approx(1)


def test_the_run_ends_with_the_weighted_average_of_its_prompts() -> None:
    method, epochs = regulated(average_mean=2.0, average_std=1.0), 4
    seen = []
    for _ in range(2):  # a second run starts anew
        seen.clear()
        for epoch in range(epochs):
            with torch.no_grad():
                method.text_prompts.add_(epoch + 1.0)
            seen.append(method.text_prompts.detach().clone())
            method.after_epoch(epoch, epochs)
            assert method.text_prompts.equal(seen[-1]) is (epoch < epochs - 1)
        weights = epoch_weights(epochs, 2.0, 1.0).float()
        expected = (weights[:, None, None, None] * torch.stack(seen)).sum(dim=0)
        assert close(method.text_prompts, expected, 10)
        assert method.adapter_state_dict()["text_prompts"].equal(method.training_state()["average_text_prompts"])
    assert not method.training_state().keys() & method.trainable().keys()


def test_an_interrupted_run_keeps_its_average(photos, tmp_path) -> None:
    few = {"text_prompts": 2, "image_prompts": 2, "depth": 2, "average_mean": 2.0, "average_std": 1.0}
    settings = {"backbone": "embedded/clip", "epochs": 3, "lr": 0.05, "shots": 2, "batch_size": 8, "workers": 0}
    settings |= {"method": "promptsrc", "options": few}

    class Impatient(LogReporter):
        def message(self, line: str) -> None:
            if line.startswith("epoch 2/"):
                raise KeyboardInterrupt

    straight = tune(photos, **settings)
    with pytest.raises(KeyboardInterrupt):
        tune(photos, **settings, out=tmp_path / "out", reporter=Impatient())
    resumed = tune(photos, **settings, out=tmp_path / "out", resume=True)
    for name, tensor in straight.method.adapter_state_dict().items():
        assert resumed.method.adapter_state_dict()[name].equal(tensor)
        assert tensor.equal(straight.method.training_state()[f"average_{name}"])
