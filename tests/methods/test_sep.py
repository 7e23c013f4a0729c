"""SEP beyond the contract tests; ``tests/test_parity.py`` compares its arithmetic."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import selfprompt
from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.class_texts import embed_text, encode_template
from selfprompt.methods.sep import SEP, from_released_name, load_released_checkpoint
from selfprompt.prompts.kmeans import cluster
from selfprompt.prompts.prototypes import Start, prototypes
from tests.methods.tiny import NAMES, Source, backbone, images, labelled, small


def sep(**options: object) -> SEP:
    method = small("sep", **options)
    assert isinstance(method, SEP)
    return method


@pytest.mark.parametrize("text_tokens", ["following", "valid"])
@torch.no_grad()
def test_a_class_text_does_not_depend_on_the_other_names(text_tokens: str) -> None:
    method = sep(text_tokens=text_tokens)
    whole = method.encode_classes()
    other = method.with_classes(["a very long class name", "X", "cat"])
    assert (other.class_features()[2] - whole[0]).abs().max() < 1e-5
    assert (other.class_features()[1] - whole[3]).abs().max() < 1e-5


@torch.no_grad()
def test_with_the_released_fusion_it_depends_on_them() -> None:
    method = sep(fusion_axis="batch")
    other = method.with_classes(["dog", "X", "cat"])
    assert (other.class_features()[2] - method.encode_classes()[0]).abs().max() > 1e-4


@torch.no_grad()
def test_valid_tokens_leave_out_the_padding() -> None:
    """Other ids after EOT change nothing with "valid" and something with "following" (n is 6, names are short)."""
    for text_tokens, same in (("valid", True), ("following", False)):
        method = sep(text_tokens=text_tokens)
        before = method.prompted_texts()
        after = torch.arange(method.ids.shape[1]) > method.ids.argmax(dim=1, keepdim=True)
        assert after.any()
        method.ids[after] = 77
        assert method.prompted_texts().equal(before) is same


def test_features_are_unit_sums_of_frozen_and_prompted_ones() -> None:
    method, pictures = sep(), images(3)
    frozen, prompted, mixed = method.image_features(Views(pictures))
    assert not frozen.requires_grad
    assert (frozen - F.normalize(method.vision(pictures), dim=-1)).abs().max() < 1e-6
    assert (mixed - F.normalize(frozen + prompted, dim=-1)).abs().max() < 1e-6
    texts = F.normalize(F.normalize(method.prompted_texts(), dim=-1) + method.frozen_texts, dim=-1)
    assert (method.encode_classes() - texts).abs().max() < 1e-6
    scale = backbone("clip").scale
    assert (method(pictures) - scale * mixed @ texts.t()).abs().max() < 1e-5 * scale


def test_the_loss_has_the_published_terms_and_weights() -> None:
    method, (pictures, labels) = sep(text_weight=3.0, image_weight=2.0, prototype_weight=0.5), labelled(4)
    terms = method.loss(Views(pictures, labels=labels))
    frozen, _, mixed = method.image_features(Views(pictures))
    texts, prototypes = method.encode_classes(), F.normalize(method.prototypes, dim=-1)
    expected = {
        "ce": F.cross_entropy(method(pictures), labels),
        "text": 1 - F.cosine_similarity(texts, method.frozen_texts).mean(),
        "image": 1 - F.cosine_similarity(mixed, frozen).mean(),
        "prototype_mixed": F.cross_entropy(10 * mixed @ prototypes.t(), labels),
        "prototype_frozen": F.cross_entropy(10 * frozen @ prototypes.t(), labels),
    }
    assert terms.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(float((terms.terms[name] - value).detach())) < 1e-5, name
    assert terms.weights == {"text": 3.0, "image": 2.0, "prototype_mixed": 0.25, "prototype_frozen": 0.25}


def test_consistency_may_use_the_prompted_features_only() -> None:
    method, (pictures, labels) = sep(consistency_on="prompted"), labelled(4)
    frozen, prompted, _ = method.image_features(Views(pictures))
    terms = method.loss(Views(pictures, labels=labels)).terms
    assert abs(float((terms["image"] - 1 + F.cosine_similarity(prompted, frozen).mean()).detach())) < 1e-5
    raw = F.normalize(method.prompted_texts(), dim=-1)
    expected = 1 - F.cosine_similarity(raw, method.frozen_texts).mean()
    assert abs(float((terms["text"] - expected).detach())) < 1e-5


def class_means(pictures: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        unit = F.normalize(backbone("clip").vision(pictures), dim=-1)
    means = torch.stack([unit[labels == label].mean(dim=0) for label in range(len(NAMES))])
    return F.normalize(means, dim=-1)


@pytest.mark.parametrize("views", ["train", "plain"])
def test_prototypes_start_as_class_means_over_all_batches(views: str) -> None:
    method, source = sep(prototype_views=views), Source(*labelled(8))
    done: list[tuple[int, int]] = []
    method.prepare(source, torch.Generator(), lambda *now: done.append(now))
    expected = class_means(source.pictures - float(views == "plain"), source.labels)
    assert (method.prototypes - expected).abs().max() < 1e-5
    assert method.prototypes.requires_grad
    assert done == [(3, 8), (6, 8), (8, 8)]


def test_classes_without_an_image_are_named() -> None:
    pictures, labels = labelled(4)
    with pytest.raises(ValueError, match=r"No training images of: lawn mower, X\."):
        sep().prepare(Source(pictures, labels % 2 * 2), torch.Generator())


def test_prototypes_are_trained_but_not_part_of_artifacts_or_predictions() -> None:
    method, pictures = sep(), images(2)
    assert "prototypes" in method.trainable()
    assert "prototypes" not in method.adapter_state_dict()
    before = method(pictures)
    with torch.no_grad():
        method.prototypes.add_(1)
    assert method(pictures).equal(before)


def test_text_prompts_may_start_from_a_text() -> None:
    method = sep(init_text="a photo of a", text_prompts=4)
    assert method.text_prompts.equal(embed_text(backbone("clip"), "a photo of a"))


def test_texts_stay_close_to_the_given_template() -> None:
    method = sep(template="a centered satellite photo of {}.")
    expected = encode_template(backbone("clip"), "a centered satellite photo of {}.", NAMES)
    assert method.frozen_texts.equal(expected)


def test_refreshed_blocks_are_all_but_the_first_or_the_stated_ones() -> None:
    method = sep()
    assert method.image_layers == (1, 2, 3, 4, 5)
    assert method.text_layers == (1, 2, 3)
    assert sep(layers=(3, 0)).image_layers == sep(layers=(3, 0)).text_layers == (0, 3)
    assert len(method.image_fusions) == 5
    first = method.image_fusions[0].state_dict()
    for module in method.image_fusions:  # all start alike, and share nothing
        assert all(tensor.equal(first[name]) for name, tensor in module.state_dict().items())
    assert len({p.data_ptr() for p in method.image_fusions.parameters()}) == 5 * len(first)


def test_more_image_prompts_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="66 image prompts need as many representative tokens, an image has 65"):
        sep(image_prompts=66)(images(1))


def released_names() -> Iterator[tuple[str, str]]:
    """Names in released checkpoints and ours."""
    yield from {"ctx": "text_prompts", "ctx_visual": "image_prompts", "VPT_fc.weight": "prototypes"}.items()
    for theirs, ours in (("prompt_projections", "text_fusions"), ("visual_prompts", "image_fusions")):
        yield f"{theirs}.3.promt_attention_visual.out_proj.bias", f"{ours}.3.attention.out_proj.bias"
        yield f"{theirs}.10.ln_pa_1_visual.weight", f"{ours}.10.norm_attention.weight"
        yield f"{theirs}.0.mlp_pa_visual.c_fc1.weight", f"{ours}.0.down.weight"
        yield f"{theirs}.0.mlp_pa_visual.c_proj.weight", f"{ours}.0.up.weight"
        yield f"{theirs}.0.scale2", f"{ours}.0.keep_attention"


@pytest.mark.parametrize(("theirs", "ours"), released_names())
def test_names_of_the_released_code_map_to_ours(theirs: str, ours: str) -> None:
    assert from_released_name(theirs) == ours


def released_state(method: SEP) -> dict[str, torch.Tensor]:
    """Return a checkpoint as the released code writes it: its names, half precision, unused weights."""
    theirs = {from_released_name(name): name for name in RELEASED}
    state = {theirs[name]: tensor.half() + 1 for name, tensor in method.trainable().items()}
    return state | {"token_prefix": torch.ones(2), "prompt_projections.0.ln_pa_1_token.weight": torch.ones(2)}


RELEASED = ["ctx", "ctx_visual", "VPT_fc.weight"] + [
    f"{branch}.{number}.{part}"
    for branch in ("prompt_projections", "visual_prompts")
    for number in range(2)
    for part in (
        "promt_attention_visual.in_proj_weight",
        "promt_attention_visual.in_proj_bias",
        "promt_attention_visual.out_proj.weight",
        "promt_attention_visual.out_proj.bias",
        "ln_pa_1_visual.weight",
        "ln_pa_1_visual.bias",
        "ln_pa_2_visual.weight",
        "ln_pa_2_visual.bias",
        "mlp_pa_visual.c_fc1.weight",
        "mlp_pa_visual.c_proj.weight",
        "scale1",
        "scale2",
    )
]


def test_a_checkpoint_of_the_released_code_can_be_loaded() -> None:
    method = sep(layers=(1, 2))
    before = {name: tensor.detach().clone() for name, tensor in method.trainable().items()}
    load_released_checkpoint(method, released_state(method))
    for name, tensor in method.trainable().items():
        assert (tensor - 1 - before[name]).abs().max() < 5e-3, name


def test_a_checkpoint_of_the_released_code_may_have_other_classes_but_no_gaps() -> None:
    method = sep(layers=(1, 2))
    state = released_state(method) | {"VPT_fc.weight": torch.ones(7, 3)}
    prototypes = method.prototypes.detach().clone()
    load_released_checkpoint(method, state)
    assert torch.equal(method.prototypes, prototypes)
    del state["visual_prompts.1.scale2"]
    with pytest.raises(ValueError, match=r"missing image_fusions.1.keep_attention"):
        load_released_checkpoint(method, state)


@pytest.mark.parametrize("options", [{"fusion": "shared"}, {"fusion_rank": 4}])
def test_a_checkpoint_of_the_released_code_does_not_fit_lighter_fusion(options: dict[str, object]) -> None:
    method = sep(layers=(1, 2), **options)
    with pytest.raises(
        ValueError, match=r"a fusion module of full matrices for each block; it needs fusion 'own' and f"
    ):
        load_released_checkpoint(method, released_state(sep(layers=(1, 2))))


@pytest.mark.parametrize("start", get_args(Start))
def test_image_prompts_may_start_as_spt_s_prototypes(start: Start) -> None:
    method, source = sep(image_start=start), Source(*labelled(8))
    before = {name: tensor.detach().clone() for name, tensor in method.trainable().items()}
    method.prepare(source, torch.Generator().manual_seed(3))
    vision, generator = backbone("clip").vision, torch.Generator().manual_seed(3)
    expected = prototypes(vision, source, 4, layers=1, start=start, generator=generator)
    assert method.image_prompts.equal(expected[0])
    assert method.image_prompts.requires_grad
    assert not method.image_prompts.equal(before["image_prompts"])
    others = [name for name in before if name not in ("image_prompts", "prototypes")]
    assert all(method.trainable()[name].equal(before[name]) for name in others)


def words() -> Tensor:
    """Embeddings of the words in the class texts "a photo of a cat." and so on, some of them twice."""
    return torch.cat([embed_text(backbone("clip"), text) for text in ("a photo of .", *NAMES)])


def rows(tensor: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in tensor.tolist()}


@torch.no_grad()
def test_text_prompts_may_start_as_different_words_of_the_class_texts() -> None:
    drawn = []
    for seed in (3, 3, 4):
        method = sep(text_start="random")
        method.prepare(Source(*labelled(8)), torch.Generator().manual_seed(seed))
        drawn.append(method.text_prompts)
        assert len(rows(method.text_prompts)) == 6
        assert rows(method.text_prompts) < rows(words())
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


@torch.no_grad()
def test_text_prompts_may_start_as_centres_of_the_words() -> None:
    method = sep(text_start="kmeans", text_prompts=2)
    method.prepare(Source(*labelled(8)), torch.Generator().manual_seed(3))
    points = torch.tensor(sorted(rows(words())))

    def inertia(centres: Tensor) -> float:
        return float(torch.cdist(points, centres).amin(dim=1).square().sum())

    best = inertia(cluster(points, 2))
    assert inertia(method.text_prompts) == pytest.approx(best, rel=0.03)  # the same optimum, or a nearby one
    assert inertia(points.mean(dim=0, keepdim=True)) > 1.05 * best


def test_fewer_words_than_text_prompts_are_refused() -> None:
    count = len(rows(words()))
    expected = f"text_start 'random' needs 15 different tokens in the class texts, and they have {count};"
    with pytest.raises(ValueError, match=expected):
        sep(text_start="random", text_prompts=15).prepare(Source(*labelled(8)), torch.Generator())


LIGHT = [
    {"image_start": "random", "text_start": "random"},
    {"fusion": "shared"},
    {"fusion_rank": 4, "image_start": "mean"},
    {"fusion": "shared", "fusion_rank": 4},
]


@pytest.mark.parametrize("options", LIGHT)
@torch.no_grad()
def test_variants_treat_images_independently_and_accept_other_classes_and_devices(
    options: dict[str, object], tmp_path: Path
) -> None:
    method, pictures = sep(layers=(1, 3), **options), images(3)
    method.prepare(Source(*labelled(8)), torch.Generator().manual_seed(3))
    for parameter in method.trainable().values():
        parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    whole = method(pictures)
    alone = torch.cat([method(picture[None]) for picture in pictures])
    assert method.traits.batch_independent
    assert (whole - alone).abs().max() < 1e-5 * max(1.0, method.backbone.scale)
    other = method.with_classes(["dog", "X", "cat"])
    assert (other(pictures)[:, 1:] - whole[:, [3, 0]]).abs().max() < 1e-5 * max(1.0, method.backbone.scale)
    Classifier(method, backbone("clip").preprocess, batch_size=3).save(tmp_path / "out")
    loaded = selfprompt.load(tmp_path / "out")
    assert loaded.method.options == method.options
    assert (loaded.logits(pictures) - whole).abs().max() < 1e-5 * whole.abs().max()  # by other float32 products


def test_the_gradient_of_a_shared_module_is_the_sum_over_its_blocks() -> None:
    pictures, labels = labelled(4)
    separate, shared = sep(), sep(fusion="shared")
    assert len(shared.image_fusions) == len(shared.text_fusions) == 1
    for method in (separate, shared):
        method.loss(Views(pictures, labels=labels)).backward()
    assert (separate(pictures) - shared(pictures)).detach().abs().max() < 1e-4  # all start alike
    for several, one in ((separate.image_fusions, shared.image_fusions), (separate.text_fusions, shared.text_fusions)):
        for name, parameter in one[0].named_parameters():
            grads = [module.get_parameter(name).grad for module in several]
            total = torch.stack([grad for grad in grads if grad is not None]).sum(dim=0)
            assert parameter.grad is not None
            assert len(grads) > 1
            assert (parameter.grad - total).abs().max() <= 1e-5 + 1e-4 * total.abs().max(), name
