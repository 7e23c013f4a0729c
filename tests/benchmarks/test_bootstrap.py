"""The paired bootstrap against recorded numbers, a slow loop, and what must hold for any hits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfprompt.benchmarks.bootstrap import (
    Interval,
    Units,
    most_influential,
    resampled_accuracy,
    seed_weights,
)


def hits(seed, methods=2, seeds=3, images=40):
    return np.random.default_rng(seed).random((methods, seeds, images)) < 0.7


def test_interval_and_p_equal_golden():
    with np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz") as file:
        arrays = dict(file)
    first, second = arrays["hits_a"].astype(float), arrays["hits_b"].astype(float)
    found = Interval.of((first - second)[arrays["bootstrap_index"]].mean(axis=1))
    assert (first - second).mean() == pytest.approx(arrays["bootstrap_mean"], rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(arrays["bootstrap_interval95"]), rel=1e-9)
    assert found.not_above_zero == pytest.approx(arrays["bootstrap_share_not_above_zero"])
    assert found.p == pytest.approx(2 * found.not_above_zero)


def test_p_is_never_0_and_never_above_1():
    assert Interval.of(np.ones(999)).p == pytest.approx(2 / 1000)
    assert Interval.of(np.zeros(999)).p == 1
    assert Interval.of(-np.ones(999)).p == pytest.approx(2 / 1000)


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_equal_methods_differ_by_nothing(seed):
    right = hits(seed, methods=1)
    generator = np.random.default_rng(seed)
    first, second = resampled_accuracy(np.concatenate([right, right]), seed_weights(3, generator, 50), generator)
    assert np.array_equal(first, second), "the same images and seeds are drawn for both"


def test_accuracies_equal_those_of_a_loop(monkeypatch):
    monkeypatch.setattr("selfprompt.benchmarks.bootstrap.CHUNK", 1 << 30)  # one draw of images
    right, replicates = hits(1), 20
    seeds = seed_weights(3, np.random.default_rng(2), replicates)
    found = resampled_accuracy(right, seeds, np.random.default_rng(3))
    drawn_seeds = np.random.default_rng(2).integers(0, 3, (replicates, 3))
    drawn_images = np.random.default_rng(3).integers(0, 40, (replicates, 40))
    for number in range(replicates):
        for method in range(2):
            of_seeds = [right[method, seed, drawn_images[number]].mean() for seed in drawn_seeds[number]]
            assert found[method, number] == pytest.approx(100 * np.mean(of_seeds))


def test_parts_of_the_replicates_are_drawn_independently(monkeypatch):
    monkeypatch.setattr("selfprompt.benchmarks.bootstrap.CHUNK", 80)
    generator = np.random.default_rng(1)
    found = resampled_accuracy(hits(1), seed_weights(3, generator, 21), generator)
    assert found.shape == (2, 21)
    assert len(set(found[0])) > 10


def test_classes_keep_their_weight():
    labels = np.array([2, 0, 0, 0, 2, 5])
    units = Units.of(np.arange(6), labels)
    weights = units.draw(np.random.default_rng(1), 200)[:, units.of_image]
    for label in (0, 2, 5):
        assert weights[:, labels == label].sum(axis=1) == pytest.approx(np.full(200, 1 / 3))
    assert np.unique(weights[:, 1]).size > 2, "within a class images are drawn"


def test_mean_accuracy_of_classes():
    units = Units.of(np.arange(10), np.array([0] * 8 + [1] * 2))
    right = np.array([[[True] * 8 + [False] * 2]])
    generator = np.random.default_rng(1)
    seeds = seed_weights(1, generator, 30)
    assert resampled_accuracy(right, seeds, generator, units) == pytest.approx(np.full((1, 30), 50.0))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=15), st.booleans(), st.integers(0, 9))
@settings(deadline=None)
def test_images_of_a_group_are_drawn_together(groups, by_class, seed):
    groups = np.array(groups)
    units = Units.of(groups, groups % 2 if by_class else None)
    weights = units.draw(np.random.default_rng(seed), 20)[:, units.of_image]
    assert weights.sum(axis=1) == pytest.approx(np.ones(20))
    for group in set(groups):
        assert np.ptp(weights[:, groups == group], axis=1) == pytest.approx(np.zeros(20))


def test_views_of_a_drawing_are_worth_one_image():
    """Ten equal views of 30 drawings: the error is that of 30 images, not of 300."""
    once = hits(3, methods=1, seeds=1, images=30)
    generator = np.random.default_rng(1)
    units = Units.of(np.repeat(np.arange(30), 10))
    found = resampled_accuracy(np.repeat(once, 10, axis=2), seed_weights(1, generator, 4000), generator, units)
    share = once.mean()
    assert found.std() == pytest.approx(100 * np.sqrt(share * (1 - share) / 30), rel=0.1)


def test_a_class_of_few_drawings_is_not_too_sure():
    """The variance of a class's mean is s^2 / n, even for three drawings."""
    groups = np.repeat(np.arange(6), 10)
    units = Units.of(groups, groups // 3)
    once = np.array([1, 0, 0, 1, 1, 0], dtype=bool)
    generator = np.random.default_rng(1)
    found = resampled_accuracy(once[groups][None, None], seed_weights(1, generator, 6000), generator, units)
    assert found.mean() == pytest.approx(50, abs=1)
    by_hand = np.sqrt(2 * once[:3].var(ddof=1) / 3) / 2
    assert found.std() == pytest.approx(100 * by_hand, rel=0.05)


def test_few_seeds_widen_the_interval():
    """Seeds that disagree about all images: however many images there are, the difference is uncertain."""
    right = np.zeros((1, 4, 500), dtype=bool)
    right[0, :2] = True
    generator = np.random.default_rng(1)
    found = resampled_accuracy(right, seed_weights(4, generator, 2000), generator)
    assert found.std() == pytest.approx(25, abs=1.5)  # 50 / sqrt(4)


def test_a_hard_image_is_hard_for_every_seed():
    """More seeds do not make the test images more: the error is that of 100 images, not of 1000."""
    right = np.repeat(hits(3, methods=1, seeds=1, images=100), 10, axis=1)
    generator = np.random.default_rng(1)
    found = resampled_accuracy(right, seed_weights(10, generator, 2000), generator)
    share = right.mean()
    assert found.std() == pytest.approx(100 * np.sqrt(share * (1 - share) / 100), rel=0.1)


def test_the_task_that_matters_most():
    assert most_influential(np.array([1.0, 1.2, 9.0, 0.8])) == 2
    assert most_influential(np.array([1.0, -7.0, 2.0])) == 1
