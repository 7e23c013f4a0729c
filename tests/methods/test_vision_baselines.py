"""IVLP, MaPLe, VPT on CLIP, CLIP-LoRA, Tip-Adapter and linear-probe CLIP beyond the contract tests."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import selfprompt
from selfprompt import tune
from selfprompt.data.views import Views
from selfprompt.methods import lpclip, tip_adapter
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import embed_text, encode_template
from selfprompt.methods.clip_lora import CLIPLoRA
from selfprompt.methods.ivlp import IVLP
from selfprompt.methods.lpclip import LPCLIP
from selfprompt.methods.maple import MaPLe
from selfprompt.methods.tip_adapter import TipAdapter
from selfprompt.models.timm_vit import TimmViT
from selfprompt.prompts.low_rank import LowRankUpdates
from selfprompt.prompts.record import Record
from selfprompt.prompts.static import Static
from selfprompt.training.reporter import LogReporter
from tests.methods.tiny import NAMES, Source, backbone, images, labelled, small

QUICK = {"backbone": "embedded/clip", "workers": 0, "batch_size": 4}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to float32 in another order."""
    return float((ours - theirs).detach().abs().max()) < tolerance * max(1.0, float(theirs.detach().abs().max()))


@torch.no_grad()
def shaken(method: Method, size: float = 0.1) -> Method:
    """Return the method after a random change of its trainable parameters."""
    generator = seeded(11)
    for parameter in method.trainable().values():
        parameter += size * torch.randn(parameter.shape, generator=generator)
    return method


# IVLP


@torch.no_grad()
@pytest.mark.parametrize("prompts", [1, 2, 4])
@pytest.mark.parametrize("name", ["ivlp", "maple"])
def test_text_prompts_start_as_the_first_tokens_and_the_others_stay_in_the_text(name: str, prompts: int) -> None:
    count = {"text_prompts": prompts} if name == "ivlp" else {"prompts": prompts}
    method = small(name, depth=1, **count)
    assert method.text_prompts.shape == (1, prompts, method.text.width)
    assert method.text_prompts[0].equal(embed_text(backbone("clip"), "a photo of a")[:prompts])
    assert close(method.class_features(), encode_template(backbone("clip"), "a photo of a {}.", NAMES))


@torch.no_grad()
def test_without_an_init_text_prompts_are_random_and_replace_placeholders() -> None:
    method, other = (
        small("ivlp", init_text="", text_prompts=3, depth=1),
        small("ivlp", init_text="", text_prompts=3, seed=2),
    )
    assert float(method.text_prompts.std()) == pytest.approx(0.02, rel=0.2)
    assert not other.text_prompts[0].equal(method.text_prompts[0])
    method.text_prompts.copy_(embed_text(backbone("clip"), "a photo of")[None])
    assert close(method.class_features(), encode_template(backbone("clip"), "a photo of {}.", NAMES))


@pytest.mark.parametrize("name", ["ivlp", "maple"])
def test_a_too_short_init_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"init_text 'a' is 1 tokens, but there are 2 text prompts; use more words"):
        small(name, init_text="a")


@torch.no_grad()
def test_ivlp_of_depth_1_is_shallow_on_both_sides() -> None:
    method = shaken(small("ivlp", depth=1, text_prompts=4))
    coop = small("coop", init_text="a photo of a")
    coop.load_adapter_state_dict({"context": method.text_prompts[0]})
    assert close(method.class_features(), coop.class_features())
    vpt = small("vpt-clip", prompts=2, deep=False)
    vpt.load_adapter_state_dict({"prompts": method.image_prompts})
    expected = vpt.class_logits(method.encode_images(Views(images(2))), vpt.texts)
    assert vpt(images(2)).equal(expected)
    assert close(method(images(2)), method.class_logits(method.encode_images(Views(images(2))), coop.class_features()))


@torch.no_grad()
def test_each_block_up_to_the_depth_gets_its_prompts() -> None:
    method = shaken(small("ivlp", depth=3))
    assert isinstance(method, IVLP)
    assert method.text_prompts.shape == (3, 2, method.text.width)
    for tower, inputs, prompts, in_place in (
        (method.vision, images(2), method.image_prompts, False),
        (method.text, method.ids, method.text_prompts, True),
    ):
        watched = Record(Static(prompts, in_place=in_place))
        tower(inputs, watched)
        for index in (1, 2):
            assert watched.inputs[index].prompts.equal(prompts[index].expand(len(inputs), -1, -1))
        assert watched.inputs[3].prompts.equal(watched.outputs[2].prompts)
    assert close(
        method.encode_images(Views(images(2))), F.normalize(method.vision(images(2), Static(method.image_prompts)))
    )


@pytest.mark.parametrize("name", ["ivlp", "maple"])
def test_a_depth_beyond_the_tower_s_means_all_blocks(name: str) -> None:
    method = small(name, depth=50)
    text, vision = method.text.depth, method.vision.depth
    assert text < vision
    assert len(method.text_prompts) == text
    assert len(method.image_prompts() if name == "maple" else method.image_prompts) == (
        text if name == "maple" else vision
    )


@pytest.mark.parametrize("memory", [2**33, 1], ids=["roomy", "tight"])
@pytest.mark.parametrize("depth", [1, 2, 50])
@pytest.mark.parametrize("name", ["ivlp", "maple", "promptsrc"])
def test_the_shared_prefix_runs_once(name: str, depth: int, memory: int) -> None:
    method = shaken(small(name, depth=depth))
    method.text_cache_bytes = memory
    weights = torch.randn(len(NAMES), method.text.features, generator=seeded(1))
    expected = F.normalize(method.text(method.ids, Static(method.text_prompts, in_place=True)))
    (slope,) = torch.autograd.grad((weights * expected).sum(), method.text_prompts)
    ran = []
    handle = method.text.ln_final.register_forward_hook(lambda *call: ran.append(len(call[2])))
    features = method.encode_classes()
    assert ran == [len(NAMES)], "the prefix runs without its own end"
    handle.remove()
    assert close(features, expected)
    assert close(torch.autograd.grad((weights * features).sum(), method.text_prompts)[0], slope)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ivlp", "maple", "clip-lora"])
def test_texts_are_cut_after_the_last_position_that_matters(name: str) -> None:
    method = shaken(small(name))
    before = method.encode_classes()
    length = method.ids.shape[1]
    padding = method.ids.new_zeros(len(NAMES), method.text.context - length)
    assert padding.shape[1] > 0
    method.ids = torch.cat([method.ids, padding], dim=1)
    assert close(method.encode_classes(), before)
    method.ids[:, length - 2] += 1  # before the end of the longest text
    assert not close(method.encode_classes(), before, 1e-3)


# MaPLe


@torch.no_grad()
def test_maple_s_image_prompts_are_functions_of_its_text_prompts() -> None:
    method = shaken(small("maple"))
    assert isinstance(method, MaPLe)
    by_hand = torch.stack(
        [
            prompts @ couple.weight.t() + couple.bias
            for prompts, couple in zip(method.text_prompts, method.couplings, strict=True)
        ]
    )
    assert close(method.image_prompts(), by_hand)
    features = F.normalize(method.vision(images(2), Static(by_hand)), dim=-1)
    texts = F.normalize(method.text(method.ids, Static(method.text_prompts, in_place=True)), dim=-1)
    assert close(method(images(2)), method.backbone.scale * features @ texts.t())


def test_maple_s_deeper_couplings_start_equal_and_are_trained_separately() -> None:
    method = small("maple")
    first, second, third, *_ = method.couplings
    assert not first.weight.equal(second.weight)
    assert second.weight.equal(third.weight)
    assert second.bias.equal(third.bias)
    assert second.weight is not third.weight
    bound = method.text.width**-0.5
    assert 0.9 * bound < float(first.weight.detach().abs().max()) <= bound


def test_both_towers_send_gradients_to_maple_s_text_prompts() -> None:
    method = small("maple")
    (from_images,) = torch.autograd.grad(method.image_prompts().square().sum(), method.text_prompts)
    (from_texts,) = torch.autograd.grad(method.encode_classes()[0].sum(), method.text_prompts)
    method.vision(images(2), Static(method.image_prompts())).square().sum().backward()
    assert from_images.abs().amax(dim=(1, 2)).min() > 0
    assert from_texts.abs().amax(dim=(1, 2)).min() > 0
    assert method.text_prompts.grad.abs().amax(dim=(1, 2)).min() > 0


# VPT on CLIP


@torch.no_grad()
@pytest.mark.parametrize("deep", [True, False])
def test_vpt_on_clip_reads_hand_written_texts(deep: bool) -> None:
    method, template = shaken(small("vpt-clip", deep=deep, template="a drawing of a {}.")), "a drawing of a {}."
    assert method.prompts.shape == (method.vision.depth if deep else 1, 8, method.vision.width)
    features = F.normalize(method.vision(images(2), Static(method.prompts)), dim=-1)
    texts = encode_template(backbone("clip"), template, NAMES)
    assert close(method(images(2)), method.backbone.scale * features @ texts.t())


# CLIP-LoRA


@torch.no_grad()
def test_with_b_at_zero_clip_lora_is_the_zero_shot_clip() -> None:
    method, zero_shot = small("clip-lora"), small("zero-shot")
    assert not method.text_updates.up.any()
    assert not method.image_updates.up.any()
    assert method.class_features().equal(zero_shot.texts)
    assert method(images(3)).equal(zero_shot(images(3)))


@torch.no_grad()
def test_updates_merged_into_the_weights_give_the_adapted_forward() -> None:
    method = shaken(small("clip-lora", rank=3, alpha=2.0))
    assert isinstance(method, CLIPLoRA)
    merged = copy.deepcopy(backbone("clip"))
    for tower, updates in ((merged.vision, method.image_updates), (merged.text, method.text_updates)):
        weights = [w for name, w in tower.named_parameters() if name.endswith("in_proj_weight")]
        assert len(weights) == tower.depth
        for weight, down, up in zip(weights, updates.down, updates.up, strict=True):
            change = torch.cat([b @ a for a, b in zip(down, up, strict=True)])
            weight += 2 / math.sqrt(3) * change
    features, texts = F.normalize(merged.vision(images(2))), F.normalize(merged.text(method.ids))
    expected = merged.scale * features @ texts.t()
    assert close(method(images(2)), expected)
    assert not close(small("zero-shot")(images(2)), expected, 1e-3)


def tower_of(kind: str) -> tuple[Any, Tensor]:
    if kind == "text":
        return backbone("clip").text, small("clip-lora").ids
    return backbone(kind).vision, images(2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "text", "mae"])
def test_an_update_inside_the_attention_equals_one_of_its_weights(kind: str) -> None:
    """With nearly no dropout, the path with dropout gives the result of the changed weights."""
    tower, inputs = tower_of(kind)
    updates = LowRankUpdates(tower, 2, scale=0.7, dropout=1e-12, generator=seeded(1))
    updates.up.copy_(0.1 * torch.randn(updates.up.shape, generator=seeded(2)))
    plain, adapted = tower(inputs), tower(inputs, updates.eval())
    assert not close(adapted, plain, 1e-3)
    assert close(tower(inputs, updates.train()), adapted)
    updates.up.zero_()
    assert close(tower(inputs, updates.train()), plain)


def test_dropout_acts_on_the_input_of_updates_in_training_only() -> None:
    method = shaken(small("clip-lora", dropout=0.5))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first, second = method.train()(images(2)), method(images(2))
    assert not first.equal(second)
    assert method.eval()(images(2)).equal(method(images(2)))
    x = torch.ones(1, 1, method.vision.width)
    mean = torch.stack([method.image_updates.output_delta(0, x).detach() for _ in range(500)]).mean(dim=0)
    expected = F.linear(x, method.image_updates.weight_delta(0)).detach()
    assert float((mean - expected).abs().max()) < 0.3 * float(expected.abs().max())


def test_updates_start_uniform_and_differ_for_q_k_and_v() -> None:
    updates = small("clip-lora").image_updates
    depth, width = backbone("clip").vision.depth, backbone("clip").vision.width
    assert updates.down.shape == (depth, 3, 2, width)
    assert updates.up.shape == (depth, 3, width, 2)
    assert 0.9 * width**-0.5 < float(updates.down.detach().abs().max()) <= width**-0.5
    with torch.no_grad():
        updates.up[0, 1] = 1.0
    change = updates.weight_delta(0).detach().unflatten(0, (3, width))
    assert not change[0].any()
    assert change[1].any()
    assert not change[2].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_blocks_of_another_kind_are_refused(dropout: float) -> None:
    vit = timm.create_model("test_vit", num_classes=0, block_fn=timm.models.vision_transformer.ParallelScalingBlock)
    tower = TimmViT(vit)
    updates = LowRankUpdates(tower, 2, scale=1.0, dropout=dropout, generator=seeded(1))
    with pytest.raises(TypeError, match="Changing a block needs timm's plain Block with Attention"):
        tower(images(1, size=tower.image_size[0]), updates)


def test_clip_lora_s_dropout_has_a_range() -> None:
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1.0"):
        small("clip-lora", dropout=1.0)


# Tip-Adapter


class Redrawn(Source):
    """Training images with other views and another order in each epoch."""

    def epoch(self, number: int) -> Iterator[Views]:
        for indices in torch.randperm(self.size, generator=seeded(number)).split(3):
            yield Views(self.pictures[indices] + 0.1 * number, None, self.labels[indices], indices)


def cached(
    validation: Source | None = None,
    training: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    **options: Any,
) -> TipAdapter:
    """Return a Tip-Adapter prepared with eight images, and perhaps with validation images."""
    clip = backbone("clip") if scale is None else dataclasses.replace(backbone("clip"), scale=scale)
    method = selfprompt.build_method("tip-adapter", clip, NAMES, **{"views": 2, **options})
    source = Redrawn(*(training or labelled(8)))
    source.validation = validation
    method.prepare(source, seeded(1))  # type: ignore[arg-type]
    assert isinstance(method, TipAdapter)
    return method


@torch.no_grad()
def test_keys_are_unit_means_over_views() -> None:
    method, (pictures, labels) = cached(views=3), labelled(8)
    features = sum(method.vision(pictures + 0.1 * view) for view in range(3))
    assert close(method.keys, F.normalize(features, dim=-1))
    assert method.labels.equal(labels)


@torch.no_grad()
@pytest.mark.parametrize("finetune", [True, False])
def test_tip_adapter_adds_the_cache_to_zero_shot_clip(finetune: bool) -> None:
    method, zero_shot = cached(finetune=finetune, alpha=2.0, beta=3.0), small("zero-shot")
    pictures = images(3)
    features = F.normalize(method.vision(pictures), dim=-1)
    expected = zero_shot(pictures)
    for image, feature in enumerate(features):
        for key, label in zip(method.keys, method.labels, strict=True):
            expected[image, label] += 2 * math.exp(-3 * (1 - float(feature @ key)))
    assert close(method(pictures), expected)
    empty = selfprompt.build_method("tip-adapter", backbone("clip"), NAMES, finetune=finetune)
    assert empty(pictures).equal(zero_shot(pictures))
    assert set(method.trainable()) == ({"keys"} if finetune else set())


@torch.no_grad()
def test_the_search_takes_the_first_best_of_all_pairs() -> None:
    generator = seeded(3)
    zero_shot, affinity = torch.randn(40, 4, generator=generator), torch.rand(40, 12, generator=generator)
    values = F.one_hot(torch.arange(12) % 4, 4).float()
    labels = torch.randint(4, (40,), generator=generator)
    alphas, betas = [0.1, 1.0, 5.0], [0.5, 2.0, 20.0]
    hits = {
        (alpha, beta): int(((zero_shot + alpha * torch.exp(-beta * (1 - affinity)) @ values).argmax(1) == labels).sum())
        for beta in betas
        for alpha in alphas
    }
    assert len(set(hits.values())) > 3
    assert tip_adapter.search(zero_shot, affinity, values, labels, alphas, betas) == max(hits, key=hits.__getitem__)
    equal = tip_adapter.search(zero_shot, affinity, 0 * values, labels, alphas, betas)
    assert equal == (0.1, 0.5)
    assert tip_adapter.grid(3.1, 3) == pytest.approx([0.1, 1.1, 2.1])


def test_alpha_and_beta_are_selected_on_validation_images_only() -> None:
    without = cached()
    assert without.selected == {}
    assert float(without.alpha) == pytest.approx(1.17)
    assert float(without.beta) == 1.0
    labels = torch.arange(12) % 4
    colours = torch.tensor([[2.0, -2, -2], [-2, 2, -2], [-2, -2, 2], [2, 2, 2]])
    pictures = colours[labels, :, None, None] + 0.1 * images(12)
    training = (pictures[:8], labels[:8])
    right, wrong = (cached(Source(pictures, truth), training, scale=1.0) for truth in (labels, (labels + 1) % 4))
    assert right.keys.equal(wrong.keys)
    assert right.selected != wrong.selected
    for method, truth in ((right, labels), (wrong, (labels + 1) % 4)):
        assert method.selected == {
            "alpha": pytest.approx(float(method.alpha)),
            "beta": pytest.approx(float(method.beta)),
        }
        now = (method(pictures).argmax(dim=1) == truth).sum()
        method.alpha.fill_(1.17)
        method.beta.fill_(1.0)
        assert now >= (method(pictures).argmax(dim=1) == truth).sum()


def test_keys_are_trained_with_given_values_and_predictions_use_the_selected_ones() -> None:
    pictures, labels = labelled(12, seed=7)
    method = cached(Source(pictures, labels), finetune=True)
    assert method.selected
    terms = method.loss(Views(pictures, labels=labels))
    selected = method(pictures)
    method.alpha.fill_(1.17)
    method.beta.fill_(1.0)
    assert terms.logits is not None
    assert terms.logits.equal(method(pictures))
    assert not selected.equal(terms.logits)
    method.after_epoch(0, 1)
    assert method(pictures).equal(selected)


def test_a_cache_of_another_size_is_loaded_and_one_that_does_not_fit_is_refused() -> None:
    method, other = cached(), small("tip-adapter")
    tensors = {name: tensor[:5] if tensor.ndim else tensor for name, tensor in method.adapter_state_dict().items()}
    other.load_adapter_state_dict(tensors)
    assert other.keys.equal(method.keys[:5])
    assert other(images(1)).shape == (1, 4)
    before = other(images(1))
    with pytest.raises(ValueError, match=r"keys has shape \(5, 3\), expected \(5, "):
        other.load_adapter_state_dict({**tensors, "keys": torch.zeros(5, 3)})
    assert other(images(1)).equal(before)


@pytest.mark.parametrize("name", ["alpha_limit", "beta_limit"])
def test_the_search_needs_a_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0.1, where the search begins; got 0.1"):
        small("tip-adapter", **{name: 0.1})


# Linear-probe CLIP


def searched_powers(best: float) -> tuple[list[float], float]:
    """Return the powers that a search tries if accuracy falls with the distance from ``best``, and its result."""
    powers: list[float] = []

    def accuracy(power: float) -> float:
        powers.append(power)
        return -abs(power - best)

    return powers, lpclip.search(accuracy)


@pytest.mark.parametrize("best", [0.3, 1.9, -5.2, 5.6])
def test_the_penalty_is_searched_coarsely_then_by_bisection(best: float) -> None:
    powers, selected = searched_powers(best)
    assert powers[:7] == [6, 4, 2, 0, -2, -4, -6]
    assert abs(selected - best) < 2 / 2**7
    nearest = min(powers[:7], key=lambda power: abs(power - best))
    assert powers[7:9] == [nearest - 1, nearest + 1]
    assert len(powers) == 7 + 2 * 8


def test_equal_accuracies_keep_the_largest_coarse_value_and_the_left_end() -> None:
    assert lpclip.search(lambda power: 0.5) == 5


def test_the_regression_is_at_its_optimum() -> None:
    features, labels, strength = torch.randn(60, 5, generator=seeded(1)), torch.arange(60) % 3, 2.0
    weight, bias = lpclip.regression(features, labels, strength)
    errors = (features @ weight.t() + bias).softmax(dim=1) - F.one_hot(labels, 3)
    assert (strength * errors.t() @ features + weight).abs().max() < 0.01  # L-BFGS stops at 1e-4 of the mean loss
    assert errors.sum(dim=0).abs().max() < 0.01


def test_the_regression_of_two_classes_has_a_row_for_each() -> None:
    features, labels = torch.randn(40, 3, generator=seeded(1)), torch.arange(40) % 2
    weight, bias = lpclip.regression(features, labels, 1.0)
    assert weight.shape == (2, 3)
    assert bias.shape == (2,)
    errors = (features @ weight.t() + bias).softmax(dim=1)[:, 1] - labels
    assert (errors @ features + (weight[1] - weight[0])).abs().max() < 0.01


def prepared(source: Source, names: Sequence[str] = NAMES, **options: Any) -> LPCLIP:
    method = small("lpclip", names=names, **options)
    method.prepare(source, seeded(1))  # type: ignore[arg-type]
    assert isinstance(method, LPCLIP)
    return method


@torch.no_grad()
def test_the_probe_reads_deterministic_views_and_selects_on_validation_images() -> None:
    source = Source(*labelled(12))
    features = torch.cat([backbone("clip").vision(views.pixels) for views in source.deterministic().epoch(0)])
    without = prepared(source)
    assert without.selected == {}
    assert close(without.head.weight, lpclip.regression(features, source.labels, 0.316)[0])
    given = prepared(source, inverse_penalty=5.0)
    assert close(given.head.weight, lpclip.regression(features, source.labels, 5.0)[0])
    labels = torch.tensor([0, 1, 2, 3, 3, 0, 1, 2, 0, 0, 2, 1]).repeat(4)  # half of them wrong: accuracy varies with C
    source.validation = Source(labelled(48, seed=3)[0], labels)
    val = torch.cat([backbone("clip").vision(views.pixels) for views in source.validation.epoch(0)])

    def accuracy(power: float) -> float:
        weight, bias = lpclip.regression(features, source.labels, 10.0**power)
        return float(((val @ weight.t() + bias).argmax(dim=1) == labels).float().mean())

    searched = prepared(source)
    assert len({accuracy(power) for power in lpclip.COARSE}) > 1
    assert searched.selected == {"inverse_penalty": 10.0 ** lpclip.search(accuracy)}
    weight, _ = lpclip.regression(features, source.labels, searched.selected["inverse_penalty"])
    assert close(searched.head.weight, weight)
    assert prepared(source, inverse_penalty=5.0).selected == {}


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(ValueError, match="No training images of: stop sign, X"):
        prepared(Source(*labelled(6, classes=2)))
    with pytest.raises(ValueError, match=r"inverse_penalty must be 0 \(search\) or above, got -1.0"):
        small("lpclip", inverse_penalty=-1.0)


# whole runs


@pytest.mark.parametrize("name", ["lpclip", "tip-adapter"])
def test_methods_without_epochs_are_ready_after_prepare(name: str, split_photos, tmp_path) -> None:
    done = tune(split_photos, method=name, **QUICK, out=tmp_path / "out")
    results = done.results
    assert (results["history"], results["weights"]) == ([], "prepared")
    assert set(results["chosen"]) == ({"inverse_penalty"} if name == "lpclip" else {"alpha", "beta"})
    assert results["tuned"]["accuracy"] > 50
    features = done.method.vision.features
    assert results["trainable_parameters"] == (2 * features + 2 if name == "lpclip" else 0)
    loaded = selfprompt.load(tmp_path / "out")
    ours, theirs = loaded.method(images(2)), done.method(images(2))  # class texts by other float32 products
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_an_interrupted_tip_adapter_f_ends_like_an_uninterrupted_one(split_photos, tmp_path) -> None:
    class Impatient(LogReporter):
        def message(self, line: str) -> None:
            if line.startswith("epoch 2/"):
                raise KeyboardInterrupt

    settings = {**QUICK, "method": "tip-adapter-f", "epochs": 3, "lr": 0.01}
    straight = tune(split_photos, **settings)
    with pytest.raises(KeyboardInterrupt):
        tune(split_photos, **settings, out=tmp_path / "out", reporter=Impatient())
    resumed = tune(split_photos, **settings, out=tmp_path / "out", resume=True)
    assert resumed.results["chosen"] == straight.results["chosen"]
    assert len(resumed.results["history"]) == 3
    for name, tensor in straight.method.adapter_state_dict().items():
        assert resumed.method.adapter_state_dict()[name].equal(tensor)
