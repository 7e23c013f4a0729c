"""Heads on frozen features that start from the class texts: unbalanced images, classes without any, new class names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import selfprompt
from selfprompt.methods import ape, clap, proker, prolip, semobridge, tipx
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.registry import build_method
from selfprompt.methods.support import balanced_parts
from tests.methods.tiny import NAMES, SMALL, Source, backbone, images, labelled

HEADS: dict[str, dict[str, Any]] = {
    "ape": {},
    "ape-t": {"views": 2},
    "clap": {},
    "proker": {},
    "prolip": {"rate": 1e-2},
    "semobridge": {},
    "semobridge-t": {"rate": 1e-2, "iterations": 100},
    "ss-text": {},
    "tipx": {},
    "zs-lp": {"views": 2, "iterations": 3},
}


def prepared(name: str, labels: list[int], **options: Any) -> Method:
    """A head after images of these classes."""
    pictures, drawn = labelled(4 * len(labels))
    rows = [label + len(NAMES) * number for number, label in enumerate(labels)]
    assert drawn[rows].tolist() == labels
    method = build_method(name, backbone("clip"), NAMES, **{**SMALL.get(name, {}), **HEADS.get(name, {}), **options})
    method.prepare(Source(pictures[rows], drawn[rows]), torch.Generator().manual_seed(1))
    return method.eval()


@torch.no_grad()
def scores(method: Method, count: int = 8) -> Tensor:
    return method(labelled(count, seed=5)[0])


def zero_shot(names: tuple[str, ...] = NAMES) -> Tensor:
    return scores(build_method("zero-shot", backbone("clip"), names).eval())


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 2, 3], [0, 1, 2, 3]], ids=["unbalanced", "one image each"])
def test_any_number_of_images_a_class_works(name: str, labels: list[int]) -> None:
    found = scores(prepared(name, labels))
    assert found.isfinite().all()
    assert not torch.allclose(found, zero_shot(), atol=1e-2)


TEXT_ALONE = {
    **dict.fromkeys(("ape", "ape-t", "proker", "ss-text", "tipx"), 1e-4),
    "clap": 2.0,
    "prolip": 10.0,
    "zs-lp": 2.0,
}


@pytest.mark.parametrize(("name", "tolerance"), TEXT_ALONE.items())
def test_a_class_without_images_is_scored_by_its_text_or_near_it(name: str, tolerance: float) -> None:
    found = scores(prepared(name, [0, 0, 1, 3, 3, 3]))
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 2], zero_shot()[:, 2], atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("name", ["clap", "proker", "ss-text", "zs-lp"])
def test_new_names_are_scored_by_their_text_and_trained_ones_by_what_was_learned(name: str) -> None:
    method = prepared(name, [0, 0, 1, 2, 3])
    names = ("a dog", NAMES[3], "tram", NAMES[0])
    found, learned = scores(method.with_classes(names)), scores(method)
    torch.testing.assert_close(found[:, [1, 3]], learned[:, [3, 0]], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found[:, [0, 2]], zero_shot(names)[:, [0, 2]], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("finetune", [False, True])
def test_names_without_images_have_three_times_their_text_in_semobridge(finetune: bool) -> None:
    method = prepared("semobridge", [0, 0, 1, 3], finetune=finetune, iterations=3, text_weight=0.2)
    cosines = zero_shot() / backbone("clip").scale
    found, expected = scores(method), backbone("clip").scale * 1.2 * (cosines - 1).exp()
    torch.testing.assert_close(found[:, 2], expected[:, 2], atol=1e-4, rtol=0.0)
    assert ((found - expected).abs().amax(dim=0) > 0.1).tolist() == [True, True, False, True]
    names = ("a dog", NAMES[3], "tram", NAMES[0])
    renamed, new = scores(method.with_classes(names)), zero_shot(names) / backbone("clip").scale
    torch.testing.assert_close(renamed[:, [1, 3]], found[:, [3, 0]], atol=1e-4, rtol=1e-5)
    expected = backbone("clip").scale * 1.2 * (new - 1).exp()
    torch.testing.assert_close(renamed[:, [0, 2]], expected[:, [0, 2]], atol=1e-3, rtol=1e-5)


def test_before_it_has_images_semobridge_orders_classes_as_zero_shot_clip() -> None:
    method = build_method("semobridge", backbone("clip"), NAMES).eval()
    assert scores(method).argsort(dim=1).equal(zero_shot().argsort(dim=1))


def test_training_the_bridge_lowers_its_loss() -> None:
    clip, generator = backbone("clip"), torch.Generator().manual_seed(0)
    states = unit(torch.randn(4, clip.text_side()[0].width, generator=generator))
    projection = clip.text_side()[0].projection().detach().clone()
    texts = semobridge.Texts(unit(states @ projection), states, projection)
    labels = torch.arange(12) % 4
    features = texts.features[labels] + 0.3 * torch.randn(12, projection.shape[1], generator=generator)
    for parts in ((), balanced_parts(labels, 4), [torch.tensor([0, 4, 8]), torch.tensor([1, 2, 3])]):
        inverse, bias = semobridge.invert(projection), torch.zeros(4, len(projection))
        losses = list(semobridge.descend(inverse, bias, features, labels, texts, [1e-2] * 30, parts, scale=30.0))
        assert sum(losses[-3:]) < sum(losses[:3])
        assert all(tensor.isfinite().all() for tensor in (inverse, bias))
        assert not inverse.requires_grad


def test_a_projection_of_another_scale_is_inverted_too() -> None:
    projection = torch.diag(torch.tensor([0.2, 0.1, 0.001]))
    torch.testing.assert_close(semobridge.invert(projection), torch.diag(torch.tensor([5.0, 10.0, 0.0])))


def test_unprojected_texts_times_the_projection_are_the_features() -> None:
    clip = backbone("clip")
    states = encode_template(clip, "a photo of a {}.", NAMES, normalize=False, pooling="unprojected")
    expected = encode_template(clip, "a photo of a {}.", NAMES, normalize=False)
    torch.testing.assert_close(states @ clip.text_side()[0].projection(), expected)


def test_repeated_names_keep_their_own_rows() -> None:
    pictures, labels = labelled(8)
    options = {"views": 1, "iterations": 3, "check": False}
    method = build_method("clap", backbone("clip"), ("cat", "cat", "dog", "tram"), **options)
    method.prepare(Source(pictures, labels), torch.Generator().manual_seed(1))
    found = scores(method)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-3)
    assert scores(method.with_classes(method.classes, check=False)).equal(found)


@pytest.mark.parametrize("name", HEADS)
def test_a_tuned_head_is_saved_and_predicts(tmp_path: Path, split_photos: Path, name: str) -> None:
    options = {**SMALL.get(name, {}), **HEADS.get(name, {})}
    tuned = selfprompt.tune(split_photos, method=name, backbone=backbone("clip"), options=options, out=tmp_path / "run")
    loaded = selfprompt.load(tmp_path / "run", backbone=backbone("clip"))
    pictures = images(3)
    with torch.no_grad():
        ours, theirs = loaded.method(pictures), tuned.method(pictures)  # class texts by other float32 products
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
        if loaded.method.traits.open_vocabulary:
            assert loaded.with_classes(["dog", "tram"]).method(pictures).shape == (3, 2)


def test_the_pull_of_an_absent_class_is_the_mean_of_the_others() -> None:
    texts = torch.eye(3)
    features = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 1.0, 0]])
    found = clap.zero_shot_confidence(features, torch.tensor([0, 0, 1]), texts, scale=2.0)
    own = (2 * features @ texts.t()).softmax(dim=1)
    first, second = (own[0, 0] + own[1, 0]) / 2, own[2, 1]
    torch.testing.assert_close(found, torch.stack([first, second, (first + second) / 2]))


@pytest.mark.parametrize(("images_", "rows", "batches"), [(40, 800, [256]), (600, 12000, [256, 256]), (10, 10, [10])])
def test_a_pass_of_clap_reads_as_many_rows_as_there_are_images(images_: int, rows: int, batches: list[int]) -> None:
    drawn = clap.random_rows(rows, images_, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in drawn] == batches
    assert len(torch.cat(drawn).unique()) == sum(batches)


@pytest.mark.parametrize(
    ("images_", "most", "passes"), [(200, 3000, 300), (16_000, 3000, 48), (16_000, 0, 300), (10**6, 3000, 1)]
)
def test_clap_makes_fewer_passes_over_many_images(images_: int, most: int, passes: int) -> None:
    assert clap.number_of_passes(300, images_, most) == passes


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_gradient_of_the_cosines_is_that_of_autograd(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    features = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.arange(9) % 4
    logits = scale * features @ torch.nn.functional.normalize(weight, dim=1).t()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    expected.backward()
    loss, slope = clap.cosine_gradient(weight.detach(), features, labels, scale)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slope, weight.grad)


def test_prolip_sees_every_part_of_many_images_in_every_view() -> None:
    views, labels = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    texts = torch.nn.functional.normalize(torch.eye(3)[:2] + 0.1, dim=1)

    def trained(seen: Tensor) -> Tensor:
        projection = torch.eye(5, 3)
        parts = balanced_parts(labels, 2)
        options = {"scale": 10.0, "strength": 0.0}
        list(prolip.descend(projection, seen, labels, texts, [0.1] * 4, parts, **options))
        return projection

    expected = trained(views)
    for image in range(8):
        other = views.clone()
        other[0, image] += 1
        assert not torch.allclose(trained(other), expected, atol=1e-5)


@pytest.mark.parametrize(("shots", "expected"), [(1, 3.0), (0.2, 3.0), (2.5, 2.6), (3, 1.5), (9, 1.66), (400, 1.7)])
def test_proker_takes_the_constants_of_the_nearest_number_of_shots(shots: float, expected: float) -> None:
    assert proker.transferred_constants(shots)[0] == expected


def test_proker_takes_fewer_views_of_many_images_and_refuses_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proker, "MAX_SAMPLES", 9)
    monkeypatch.setattr(proker, "MAX_IMAGES", 9)
    assert len(prepared("proker", [0, 1, 2, 3], views=10).support) == 8
    monkeypatch.setattr(proker, "MAX_SAMPLES", 3)
    assert len(prepared("proker", [0, 1, 2, 3], views=10).support) == 4
    with pytest.raises(ValueError, match=r"a row for each training image, at most 9, got 10\. Use fewer shots"):
        prepared("proker", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


def test_proker_with_given_constants_ignores_the_number_of_shots() -> None:
    labels = [0, 1, 2, 3, 3]
    given = prepared("proker", labels, beta=3.0, strength=0.05)
    assert float(given.beta) == 3.0
    assert scores(given).equal(scores(prepared("proker", labels)))  # 1.25 images a class: the constants of one


def test_unit_vectors_of_ss_text_plus_are_no_longer_near_the_text_with_many_images() -> None:
    few, many = (prepared("ss-text", [0, 1, 2, *[3] * count]) for count in (1, 6))
    near = [torch.cosine_similarity(m.weight.detach(), m.texts)[3] for m in (few, many)]
    assert near[1] < near[0]


def test_prolip_pulls_harder_with_fewer_images() -> None:
    start = backbone("clip").vision.projection()
    options = {"rate": 1e-2, "iterations": 30}
    weak, strong = (prepared("prolip", [0, 1, 2, 3], strength=strength, **options) for strength in (1e-3, 10.0))
    moved = [float((method.projection.detach() - start).norm()) for method in (weak, strong)]
    assert 0 < moved[1] < moved[0]
    own = prepared("prolip", [0, 1, 2, 3, 0, 1, 2, 3], **options)
    assert own.projection.equal(prepared("prolip", [0, 1, 2, 3, 0, 1, 2, 3], strength=0.5, **options).projection)


def test_a_head_may_read_features_before_the_projection() -> None:
    method = build_method("linear", backbone("clip"), NAMES, pooling="unprojected").eval()
    pictures = images(3)
    with torch.no_grad():
        expected = method.head(backbone("clip").vision(pictures, pooling="unprojected"))
        torch.testing.assert_close(method(pictures), expected)


def test_channels_that_tell_the_classes_apart_are_selected() -> None:
    texts = torch.eye(6)[:4]  # channels 4 and 5 are the same in all
    similarity = ape.channel_similarity(texts, torch.arange(4), texts)
    assert similarity.tolist() == [0.0] * 6
    assert set(ape.select_channels(similarity, texts, 0.5, 4).tolist()) == {0, 1, 2, 3}


def test_the_similarity_of_channels_is_the_mean_over_pairs_of_members_of_different_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    texts, keys = torch.randn(3, 4, generator=generator), torch.randn(4, 4, generator=generator)
    labels = torch.tensor([0, 0, 2, 0])  # unbalanced, and none of class 1
    members = [(label, row) for label, row in zip([0, 1, 2, *labels.tolist()], [*texts, *keys], strict=True)]
    products = [a * b for first, a in members for second, b in members if first != second]
    torch.testing.assert_close(ape.channel_similarity(keys, labels, texts), torch.stack(products).mean(dim=0))


def test_tip_x_predicts_an_image_alike_whatever_the_others() -> None:
    method = prepared("tipx", [0, 1, 1, 2, 3])
    pictures = torch.cat([labelled(3)[0], 5 * images(3, seed=9)])
    with torch.no_grad():
        torch.testing.assert_close(method(pictures)[:3], method(pictures[:3]))


def test_ranges_of_pairs_leave_out_an_image_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.eye(3)
    whole = tipx.pair_ranges(keys, keys)
    assert whole[1].tolist() == [0.0, 0.0]
    monkeypatch.setattr(tipx, "ROWS", 2)
    assert all(a.equal(b) for a, b in zip(whole, tipx.pair_ranges(keys, keys), strict=True))
    assert tipx.rescale(torch.tensor([0.5]), torch.zeros(2), torch.tensor([0.0, 1.0])).isfinite().all()
