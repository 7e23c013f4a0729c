"""Ridge and logistic regression, SimpleShot, GDA and LP++: the solutions, what is selected, every kind of support."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import selfprompt
from selfprompt import tune
from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.methods import gda, lpclip, lppp, ridge, simpleshot, softmax_regression
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.support import balanced_parts, leave_out_folds, standardisation, support_features
from tests.methods.tiny import NAMES, SMALL, Source, backbone, images, labelled, small

PLAIN = ["logistic", "ridge", "simpleshot"]  # for backbones without text, too
HEADS = [*PLAIN, "gda", "lppp"]
CASES = [(name, "clip") for name in HEADS] + [(name, "mae") for name in PLAIN]
UNBALANCED = torch.tensor([0, 1, 1, 2, 3, 0, 1, 1, 3, 3])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cluster_features(labels: Tensor, width: int = 6, seed: int = 1) -> Tensor:
    """Features around a mean for each class, with channels of different sizes and offsets."""
    classes = int(labels.max()) + 1
    means = 2 * torch.randn(classes, width, generator=seeded(seed))
    rows = means[labels] + torch.randn(len(labels), width, generator=seeded(seed + 1))
    return rows * torch.logspace(-1, 1, width) + torch.arange(width)


def prepared(name: str, source: Source, kind: str = "clip", names: Sequence[str] = NAMES, **options: Any) -> Method:
    method = small(name, kind, names, **options)
    method.prepare(source, seeded(1))  # type: ignore[arg-type]
    return method


def solve(name: str, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a head on features that are not transformed, with its default options."""
    if name == "ridge":
        return ridge.ridge_regression(features, labels, ridge.PENALTIES)[:2]
    if name == "logistic":
        return softmax_regression.logistic_regression(features, labels, 1.0)
    return simpleshot.nearest_mean_head(simpleshot.centroids(features, labels, "UN")[1])


# the training images


def test_support_features_are_in_the_order_of_the_source_whatever_the_batches() -> None:
    class Shuffled(Source):
        def epoch(self, number: int):
            yield from reversed(list(super().epoch(number)))

    pictures, labels = labelled(8)
    method = small("ridge")
    features, found = support_features(method, Shuffled(pictures, labels), 2)  # type: ignore[arg-type]
    assert found.equal(labels)
    with torch.no_grad():
        shown = (pictures - 1, pictures, pictures)  # the evaluation view, and two others
        expected = torch.stack([backbone("clip").vision(view, pooling=method.pooling) for view in shown])
    assert (features - expected).abs().max() < 1e-5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(2, 6))
def test_folds_leave_every_class_an_image(drawn: list[int], most: int) -> None:
    values = torch.tensor(drawn)
    labels = torch.unique(values, return_inverse=True)[1]
    counts = torch.bincount(labels)
    folds = leave_out_folds(labels, most)
    assert (folds < 0).equal(counts[labels] == 1)
    assert int(folds.max()) + 1 == (min(most, int(counts.max())) if counts.max() > 1 else 0)
    for fold in range(int(folds.max()) + 1):
        assert (torch.bincount(labels[folds != fold], minlength=len(counts)) > 0).all()
        left_out = torch.bincount(labels[folds == fold], minlength=len(counts))
        assert (left_out <= -(-counts // min(most, int(counts.max())))).all()


# each head


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_head_learns_from_any_support(name: str, kind: str) -> None:
    pictures = labelled(8)[0]
    for labels in (torch.arange(8) % 4, UNBALANCED, torch.arange(4)):  # balanced, unbalanced, one shot
        rows = torch.stack([pictures[label] + 0.1 * images(1, seed=n)[0] for n, label in enumerate(labels.tolist())])
        method = prepared(name, Source(rows, labels), kind, **({"alpha": 1.0} if name == "gda" else {}))
        assert all(tensor.isfinite().all() for tensor in method.adapter_state_dict().values())
        if name == "gda" and len(labels) == 4:
            continue  # the views of these images are all the same, so that it is zero-shot CLIP
        with torch.no_grad():
            assert (method(rows - 1).argmax(dim=1) == labels).float().mean() > 0.9  # the evaluation view


@pytest.mark.parametrize("name", HEADS)
def test_two_classes_have_a_row_each(name: str) -> None:
    pictures, labels = labelled(8, classes=2)
    method = prepared(name, Source(pictures, labels), names=["cat", "dog"])
    with torch.no_grad():
        assert method(pictures - 1).shape == (8, 2)
        assert (method(pictures - 1).argmax(dim=1) == labels).all()


@pytest.mark.parametrize("name", HEADS)
def test_a_class_without_images_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="No training images of: stop sign, X"):
        prepared(name, Source(*labelled(6, classes=2)))


@pytest.mark.parametrize("name", PLAIN)
def test_permuting_the_classes_permutes_the_logits(name: str) -> None:
    labels, order = UNBALANCED, torch.tensor([2, 0, 3, 1])
    features, test = cluster_features(labels), torch.randn(5, 6, generator=seeded(3)).double()
    (weight, bias), (others, shifts) = (solve(name, features, y) for y in (labels, order.argsort()[labels]))
    logits = test @ weight.t() + bias
    assert (test @ others.t() + shifts - logits[:, order]).abs().max() < 1e-3 * logits.abs().max()  # L-BFGS stops


@pytest.mark.parametrize("name", ["logistic", "ridge"])
def test_the_standardisation_is_part_of_the_head(name: str) -> None:
    features, test = cluster_features(UNBALANCED), torch.randn(5, 6, generator=seeded(3)).double()
    scale, shift = torch.logspace(2, -1, 6).double(), torch.linspace(-5, 5, 6).double()
    (weight, bias), (others, shifts) = (
        solve(name, rows.float(), UNBALANCED) for rows in (features, features * scale + shift)
    )
    ours, theirs = test @ weight.t() + bias, (test * scale + shift) @ others.t() + shifts
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()  # float32 features


@pytest.mark.parametrize("name", ["logistic", "ridge"])
@pytest.mark.parametrize("value", [0.0, 300.0])
def test_a_constant_channel_has_no_weight(name: str, value: float) -> None:
    features = cluster_features(UNBALANCED)
    rounding = value * 1e-7 * torch.randn(len(features), generator=seeded(4))
    wider = torch.cat([features, (value + rounding)[:, None]], dim=1)
    (weight, bias), (others, shifts) = (solve(name, rows, UNBALANCED) for rows in (features, wider))
    assert not others[:, -1].any()
    assert (others[:, :-1] - weight).abs().max() < 1e-6
    assert (shifts - bias).abs().max() < 1e-5


# ridge regression


def test_ridge_solves_the_normal_equations() -> None:
    labels = UNBALANCED
    features = cluster_features(labels).double()
    weight, bias, penalty = ridge.ridge_regression(features, labels, [7.0])
    mean, factor = standardisation(features)
    rows, targets = (features - mean) * factor, F.one_hot(labels).double()
    on_rows = weight / factor
    errors = rows @ on_rows.t() + bias + weight @ mean - targets
    assert penalty == 7
    assert (errors.t() @ rows + 7 * on_rows).abs().max() < 1e-9
    assert errors.sum(dim=0).abs().max() < 1e-9


@pytest.mark.parametrize(("width", "noise"), [(4, 5), (4, 20), (20, 20), (60, 40)])  # few channels, and many
def test_the_selected_penalty_has_the_least_error_of_explicit_refits(width: int, noise: float) -> None:
    labels = torch.arange(15) % 3
    features = (cluster_features(labels, width) + noise * torch.randn(15, width, generator=seeded(5))).double()
    mean, factor = standardisation(features)
    rows, targets = (features - mean) * factor, F.one_hot(labels).double()

    def refit_error(penalty: float) -> float:
        total = 0.0
        for left in range(15):
            keep = torch.arange(15) != left
            centre, middle = rows[keep].mean(dim=0), targets[keep].mean(dim=0)
            centred = rows[keep] - centre
            weight = torch.linalg.solve(
                centred.t() @ centred + penalty * torch.eye(width, dtype=torch.float64),
                centred.t() @ (targets[keep] - middle),
            )
            total += float(((rows[left] - centre) @ weight + middle - targets[left]).square().sum())
        return total

    errors = {penalty: refit_error(penalty) for penalty in ridge.PENALTIES}
    best = ridge.ridge_regression(features, labels, ridge.PENALTIES)[2]
    assert best == min(errors, key=lambda penalty: errors[penalty])
    assert min(errors.values()) < 0.99 * max(errors.values())


def test_ridge_takes_a_given_penalty_and_the_width_at_one_shot() -> None:
    source, single = Source(*labelled(12)), Source(*labelled(4))
    assert prepared("ridge", source).selected["penalty"] in ridge.PENALTIES
    given, width = prepared("ridge", source, penalty=3.0), float(backbone("clip").vision.features)
    assert given.selected == prepared("ridge", single).selected == {}
    for method, data, penalty in ((given, source, 3.0), (prepared("ridge", single), single, width)):
        features, labels = support_features(method, data)  # type: ignore[arg-type]
        expected = ridge.ridge_regression(features[0], labels, [penalty])
        assert (method.head.weight - expected[0]).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"penalty must be 0 \(select\) or above, got -1.0"):
        small("ridge", penalty=-1.0)


# logistic regression


@pytest.mark.parametrize("classes", [2, 5])
def test_logistic_regression_is_at_its_optimum(classes: int) -> None:
    labels, strength = torch.arange(60) % classes, 2.0
    features = cluster_features(labels).double()
    weight, bias = softmax_regression.logistic_regression(features, labels, strength)
    mean, factor = standardisation(features)
    rows, on_rows = (features - mean) * factor, weight / factor
    errors = (features @ weight.t() + bias).softmax(dim=1) - F.one_hot(labels)
    assert (strength * errors.t() @ rows + on_rows).abs().max() < 5e-3
    assert errors.sum(dim=0).abs().max() < 5e-3


@pytest.mark.parametrize("large", [0, 10**9], ids=["in float32", "in float64"])
@pytest.mark.parametrize(("strength", "tolerance"), [(0.001, 1e-4), (0.1, 1e-3), (10.0, 1e-2)])
def test_logistic_regression_agrees_with_scikit_learn(
    monkeypatch, large: int, strength: float, tolerance: float
) -> None:
    monkeypatch.setattr(softmax_regression, "LARGE", large)
    monkeypatch.setattr(softmax_regression, "ROWS", 32)  # several parts, the last one smaller
    labels = torch.arange(100) % 5
    features = cluster_features(labels, 20).double()
    mean, factor = standardisation(features)
    weight, bias = softmax_regression.logistic_regression(features, labels, strength)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    theirs.fit(((features - mean) * factor).numpy(), labels.numpy())
    for ours, expected in ((weight / factor, theirs.coef_), (bias + weight @ mean, theirs.intercept_)):
        assert (ours - torch.from_numpy(expected)).abs().max() < tolerance


def test_a_start_changes_no_solution() -> None:
    labels = torch.arange(60) % 3
    features = cluster_features(labels)
    start = torch.randn(3, 6, generator=seeded(2)).double(), torch.ones(3).double()
    near, far = (softmax_regression.logistic_regression(features, labels, 0.5, first) for first in (None, start))
    test = features.double()
    ours, theirs = ((test @ weight.t() + bias).log_softmax(dim=1) for weight, bias in (near, far))
    assert (ours - theirs).abs().max() < 1e-3


def test_many_images_are_cross_validated_with_one_fold(monkeypatch) -> None:
    monkeypatch.setattr(softmax_regression, "MANY", 20)
    labels = torch.arange(24) % 3
    features = cluster_features(labels) + 3 * torch.randn(24, 6, generator=seeded(5))
    drawn = []
    path = softmax_regression.Path
    monkeypatch.setattr(softmax_regression, "Path", lambda *given: drawn.append(given[2]) or path(*given))
    assert softmax_regression.cross_validated(features, labels)[0] in softmax_regression.INVERSE_PENALTIES
    assert [int(left_out.sum()) for left_out in drawn] == [9]  # the 1st, 4th and 7th image of each class


def test_the_selected_inverse_penalty_has_the_least_loss_of_explicit_folds() -> None:
    labels = torch.cat([torch.arange(24) % 3, torch.tensor([3])])  # the last class has one image, never left out
    features = cluster_features(labels) + 3 * torch.randn(25, 6, generator=seeded(5))

    def loss(strength: float) -> float:
        total = 0.0
        for fold in range(softmax_regression.FOLDS):
            left = torch.arange(25) // 3 % softmax_regression.FOLDS == fold
            left[-1] = False
            weight, bias = softmax_regression.logistic_regression(features[~left], labels[~left], strength)
            logits = features[left].double() @ weight.t() + bias
            total += float(F.cross_entropy(logits, labels[left], reduction="sum"))
        return total

    losses = {strength: loss(strength) for strength in softmax_regression.INVERSE_PENALTIES}
    best, _ = softmax_regression.cross_validated(features, labels)
    assert best == min(losses, key=lambda strength: losses[strength])
    assert np.ptp(list(losses.values())) > 0.1


def test_logistic_takes_a_given_penalty_and_one_of_the_width_at_one_shot() -> None:
    source, single = Source(*labelled(12)), Source(*labelled(4))
    assert prepared("logistic", source).selected["inverse_penalty"] in softmax_regression.INVERSE_PENALTIES
    given, width = prepared("logistic", source, inverse_penalty=3.0), backbone("clip").vision.features
    assert given.selected == prepared("logistic", single).selected == {}
    for method, data, strength in ((given, source, 3.0), (prepared("logistic", single), single, 10 / width)):
        features, labels = support_features(method, data)  # type: ignore[arg-type]
        expected = softmax_regression.logistic_regression(features[0], labels, strength)
        assert (method.head.weight - expected[0]).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"inverse_penalty must be 0 \(select\) or above, got -1.0"):
        small("logistic", inverse_penalty=-1.0)


# SimpleShot


@pytest.mark.parametrize("transform", ["UN", "L2N", "CL2N"])
def test_simpleshot_scores_are_negated_squared_distances(transform: simpleshot.Transform) -> None:
    pictures, labels = labelled(12)
    method, test = prepared("simpleshot", Source(pictures, labels), transform=transform), images(3)
    with torch.no_grad():
        features, queries = (method.vision(rows, pooling=method.pooling) for rows in (pictures - 1, test))
        if transform == "CL2N":
            features, queries = features - features.mean(dim=0), queries - features.mean(dim=0)
        if transform != "UN":
            features, queries = F.normalize(features, dim=1), F.normalize(queries, dim=1)
        means = torch.stack([features[labels == label].mean(dim=0) for label in range(4)])
        expected = queries.square().sum(dim=1, keepdim=True) - torch.cdist(queries, means).square()
        assert (method(test) - expected).abs().max() < 1e-5 * float(expected.abs().max().clamp(min=1))


# random views


VIEWED = [
    "ridge",
    "logistic",
    "simpleshot",
    "gda",
    "clap",
    "proker",
    "prolip",
    "ape",
    "tipx",
    "tip-adapter",
]


def known(method: Method, views: int, noise: float = 0.3) -> KnownFeatures:
    """Features of 12 images of 4 classes, and of random views of them."""
    features = cluster_features(torch.arange(12) % 4, method.feature_size).float()
    random = features + noise * torch.randn(views, *features.shape, generator=seeded(6))
    return KnownFeatures(features, torch.arange(12) % 4, random)


@pytest.mark.parametrize("name", ["ridge", "logistic", "simpleshot"])
def test_views_that_equal_the_evaluation_view_change_nothing(name: str) -> None:
    alone, copies = small(name), small(name, views=2)
    source = known(alone, 2, noise=0.0)
    for method in (alone, copies):
        method.prepare(source, seeded(1))  # type: ignore[arg-type]
    assert alone.selected == copies.selected
    for found, expected in zip(copies.head.parameters(), alone.head.parameters(), strict=True):
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()  # L-BFGS stops


def test_ridge_fits_all_views_with_the_penalty_of_the_evaluation_views() -> None:
    method = small("ridge", views=2)
    source = known(method, 2)
    method.prepare(source, seeded(1))  # type: ignore[arg-type]
    _, _, penalty = ridge.ridge_regression(source.features, source.labels, ridge.PENALTIES)
    assert method.selected == {"penalty": penalty}
    rows = torch.cat([source.features, *source.views])  # type: ignore[misc]
    expected = ridge.ridge_regression(rows, source.labels.repeat(3), [3 * penalty])
    assert (method.head.weight - expected[0]).abs().max() < 1e-6
    assert (method.head.bias - expected[1]).abs().max() < 1e-5


def test_views_of_an_image_are_no_help_to_predict_it() -> None:
    method = small("ridge", views=3)
    labels = torch.arange(12) % 4
    features = torch.randn(12, method.feature_size, generator=seeded(8))  # says nothing about the labels
    copies = KnownFeatures(features, labels, features.repeat(3, 1, 1))
    method.prepare(copies, seeded(1))  # type: ignore[arg-type]
    assert method.selected["penalty"] == max(ridge.PENALTIES)  # 1 if copies were left in


@pytest.mark.parametrize("name", VIEWED)
def test_a_head_reads_the_evaluation_view_or_random_ones(name: str) -> None:
    few: dict[str, dict[str, Any]] = {"clap": {"iterations": 2}, "prolip": {"iterations": 2, "rate": 0.01}}
    plain, random = (small(name, views=views, **few.get(name, {})) for views in (0, 2))
    source = known(plain, 2)
    other = KnownFeatures(source.features, source.labels, source.views + 1)  # type: ignore[operator]
    queries = Views(None, source.features, source.labels)
    for method, same in ((plain, True), (random, False)):
        found = []
        for data in (source, other):
            method.prepare(data, seeded(1))  # type: ignore[arg-type]
            with torch.no_grad():
                found.append(method.logits(queries))
        assert torch.equal(*found) == same


@pytest.mark.parametrize("name", VIEWED)
def test_there_are_no_fewer_than_no_views(name: str) -> None:
    with pytest.raises(ValueError, match=r"views must be 0 \(the evaluation view\) or above, got -1"):
        small(name, views=-1)


# GDA


def unit_features(labels: Tensor, seed: int = 1) -> Tensor:
    return unit(cluster_features(labels, 8, seed).double())


def test_gda_inverts_the_shrunk_covariance_of_all_classes() -> None:
    labels = UNBALANCED
    features = unit_features(labels)
    moments = gda.Moments.of(features, labels, 4)
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(4)])
    centred = features - means[labels]
    covariance = centred.t() @ centred / (len(labels) - 1)
    shrunk = (len(labels) - 1) * covariance + covariance.trace() * torch.eye(8)
    torch.testing.assert_close(moments.means, means)
    torch.testing.assert_close(moments.precision, 8 * torch.linalg.inv(shrunk))


def test_moments_without_some_features_are_those_of_the_others() -> None:
    labels, left = torch.arange(12) % 3, torch.arange(12) < 6
    features = unit_features(labels)
    rest = gda.Moments.of(features, labels, 3) - gda.Moments.of(features[left], labels[left], 3)
    expected = gda.Moments.of(features[~left], labels[~left], 3)
    torch.testing.assert_close(rest.means, expected.means)
    torch.testing.assert_close(rest.precision, expected.precision)


def test_features_that_do_not_vary_have_no_gaussian_part() -> None:
    labels = torch.arange(6) % 3
    features = unit_features(torch.arange(3)).repeat(2, 1)  # two copies of one feature a class
    whole = gda.Moments.of(features, labels, 3)
    assert not whole.precision.any()
    assert not (whole - gda.Moments.of(features[:3], labels[:3], 3)).precision.any()
    single, zero = prepared("gda", Source(*labelled(4)), views=0), small("zero-shot")
    with torch.no_grad():
        assert (single(images(3)).softmax(dim=1) - zero(images(3)).softmax(dim=1)).abs().max() < 1e-5


def test_the_selected_alpha_is_right_most_often_in_explicit_folds() -> None:
    labels, chosen = torch.cat([torch.arange(9) % 3, torch.tensor([3])]), set()
    folds = leave_out_folds(labels, gda.MOST_FOLDS)
    assert folds.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, -1]
    for seed in range(6):
        features = unit(unit_features(labels, seed) + 0.1 * seed * torch.randn(10, 8, generator=seeded(seed)).double())
        zero_shot = 3 * torch.randn(10, 4, generator=seeded(seed + 20)).double()
        right = dict.fromkeys(gda.ALPHAS, 0)
        for fold in range(3):
            left = folds == fold
            moments = gda.Moments.of(features[~left], labels[~left], 4)
            weight, bias = gda.gaussian_head(moments.means, moments.precision)
            for alpha in right:
                scores = zero_shot[left] + alpha * (features[left] @ weight.t() + bias)
                right[alpha] += int((scores.argmax(dim=1) == labels[left]).sum())
        alpha = gda.select_alpha(features[None], labels, features, zero_shot, folds)
        assert alpha == max(right, key=lambda alpha: right[alpha])
        chosen.add(alpha)
    assert len(chosen) > 1


def test_gda_takes_a_given_alpha_and_that_of_the_authors_at_one_shot() -> None:
    source = Source(*labelled(12))
    method = prepared("gda", source)
    assert method.selected == {"alpha": pytest.approx(float(method.alpha))}
    assert float(prepared("gda", source, alpha=0.5).alpha) == 0.5
    single = prepared("gda", Source(*labelled(4)))
    assert float(single.alpha) == pytest.approx(gda.ONE_SHOT)
    assert single.selected == {}
    with pytest.raises(ValueError, match=r"alpha must be 0 \(select\) or above, got -1.0"):
        small("gda", alpha=-1.0)


@pytest.mark.parametrize("neighbours", [3, 64])
def test_new_classes_are_built_from_the_training_features_near_their_text(neighbours: int) -> None:
    support, texts = unit_features(torch.arange(20) % 4), unit_features(torch.arange(3), seed=7)
    count = min(neighbours, 20)
    means, precisions = [], []
    for text in texts:
        nearest = support[(support @ text).argsort(descending=True)[:count]]
        means.append((nearest.sum(dim=0) + 16 * text) / (count + 16))
        covariance = (nearest - text).t() @ (nearest - text) / (count - 1)
        precisions.append(8 * torch.linalg.inv((count - 1) * covariance + covariance.trace() * torch.eye(8)))
    found, precision = gda.new_classes(texts, support, neighbours)
    torch.testing.assert_close(found, torch.stack(means))
    torch.testing.assert_close(precision, torch.stack(precisions).mean(dim=0))


@torch.no_grad()
def test_trained_names_keep_their_scores_among_new_ones() -> None:
    method = prepared("gda", Source(*labelled(12)), alpha=0.1)
    names, pictures = ("a dog", NAMES[3], "tram", NAMES[0]), images(3)
    before, mixed = method(pictures), method.with_classes(names)
    scores, texts = mixed(pictures), small("zero-shot", names=names)(pictures)
    assert (scores[:, [1, 3]] - before[:, [3, 0]]).abs().max() < 1e-4 * float(before.abs().max())
    assert (scores - texts)[:, [0, 2]].abs().max() > 0.01
    assert mixed.with_classes(NAMES)(pictures).equal(before)
    with pytest.raises(ValueError, match="cannot take new class names"):
        prepared("gda", Source(*labelled(12)), new_names=False).with_classes(names)


def test_the_classes_of_stored_rows_must_be_as_many_as_the_rows() -> None:
    method = prepared("gda", Source(*labelled(12)))
    tensors = method.adapter_state_dict()
    with pytest.raises(ValueError, match=r"known and weight and bias must have equally many rows.*4, 3, 4"):
        method.load_adapter_state_dict({**tensors, "weight": tensors["weight"][:3]})


# LP++


def test_lppp_follows_the_gradient_of_its_loss() -> None:
    labels = UNBALANCED
    features, texts = unit_features(labels), unit_features(torch.arange(4), seed=5)
    rate, alpha_rate = lppp.step_sizes(features, texts)
    assert rate == pytest.approx(40 / float(torch.linalg.eigvalsh(features.t() @ features).max()))
    assert alpha_rate == pytest.approx(10 / (4 * float((features @ texts.t()).square().sum(dim=0).max())))
    sums, alpha = lppp.start(features, labels, texts)
    assert sums[2].equal(features[labels == 2].sum(dim=0))
    own = [(features[labels == label] @ texts[label]).mean() for label in range(4)]
    assert float(alpha[0]) == pytest.approx(250 * float(torch.stack(own).mean()))
    weight, bias, alpha = (t.clone().requires_grad_() for t in (sums, torch.zeros(4, dtype=torch.float64), alpha))
    sgd = torch.optim.SGD([weight, bias], lr=rate, momentum=0.9)
    for iteration, probe in enumerate(lppp.descend(features, labels, texts, 25), start=1):
        loss = F.cross_entropy(features @ weight.t() + bias + alpha * (features @ texts.t()), labels)
        sgd.zero_grad()
        alpha.grad = None
        loss.backward()
        sgd.step()
        if iteration % 10 == 0:
            alpha.data -= alpha_rate * alpha.grad
        ours = (probe.weight, probe.bias, probe.alpha, probe.loss)
        for tensor, expected in zip(ours, (weight, bias, alpha, loss), strict=True):
            torch.testing.assert_close(tensor, expected.detach())
    assert not list(lppp.descend(features, labels, texts, 25, "accumulated"))[-1].alpha.allclose(probe.alpha)


def test_parts_of_many_images_take_turns() -> None:
    labels = torch.arange(24) % 4
    features, texts = unit_features(labels), unit_features(torch.arange(4), seed=5)
    parts = balanced_parts(labels, 10)
    assert [torch.bincount(labels[part]).tolist() for part in parts] == [[2, 2, 2, 2]] * 3
    assert torch.cat(parts).sort().values.equal(torch.arange(24))
    assert [len(part) for part in balanced_parts(labels, 0)] == [24]
    steps = list(lppp.descend(features, labels, texts, 4, parts=parts))
    sums, alpha = lppp.start(features, labels, texts)
    whole = [F.cross_entropy(features[p] @ (sums + alpha[:, None] * texts).t(), labels[p]) for p in parts]
    assert float(steps[0].loss) == pytest.approx(float(whole[0]))
    same = list(lppp.descend(features, labels, texts, 4, parts=[torch.arange(24)]))[-1]
    torch.testing.assert_close(same.weight, list(lppp.descend(features, labels, texts, 4))[-1].weight)
    for name in ("lppp", "prolip"):
        with pytest.raises(ValueError, match=r"images_per_step must be 0 \(all training images\) or above, got -1"):
            small(name, images_per_step=-1)


@torch.no_grad()
def test_lppp_stores_one_linear_layer_on_unit_features() -> None:
    pictures, labels = labelled(12)
    method, clip = prepared("lppp", Source(pictures, labels), iterations=20), backbone("clip")
    features = unit(clip.vision(pictures - 1).double())
    texts = encode_template(clip, "a photo of a {}.", NAMES).double()
    probe = list(lppp.descend(features, labels, texts, 20))[-1]
    test = unit(clip.vision(images(3)))
    expected = test.double() @ probe.weight.t() + probe.bias + probe.alpha * (test.double() @ texts.t())
    assert (method(images(3)) - expected).abs().max() < 1e-5 * float(expected.abs().max().clamp(min=1))
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        small("lppp", iterations=0)


@pytest.mark.parametrize("solver", [softmax_regression.logistic_regression, lpclip.regression])
def test_many_classes_of_one_image_are_no_reason_to_warn(solver) -> None:
    labels = torch.arange(30)  # warnings are errors
    weight, _ = solver(cluster_features(labels), labels, 1.0)
    assert weight.shape == (30, 6)


# whole runs


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_run_stores_what_it_solved(name: str, kind: str, split_photos, tmp_path) -> None:
    settings = {"backbone": f"embedded/{kind}", "workers": 0, "batch_size": 4}
    done = tune(split_photos, method=name, **settings, options=SMALL.get(name, {}), out=tmp_path / "out")
    assert (done.results["history"], done.results["weights"]) == ([], "prepared")
    assert done.results["tuned"]["accuracy"] > 50
    selected = {"gda": {"alpha"}, "logistic": {"inverse_penalty"}, "ridge": {"penalty"}}
    assert set(done.results["chosen"]) == selected.get(name, set())
    loaded = selfprompt.load(tmp_path / "out")
    ours, theirs = loaded.method(images(2)), done.method(images(2))  # class texts by another path of float32 products
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
