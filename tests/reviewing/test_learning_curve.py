"""The learning curve, and the estimate of what more photos of a class would bring."""

import numpy as np
import pytest

from selfprompt.reviewing.cross_fit import discriminant_scores
from selfprompt.reviewing.learning_curve import class_gains, learning_curve, shrunk


def draw(counts: list[int], spread: list[float], seed: int = 0, width: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes of a certain spread; their means are the same for every seed."""
    generator, means = np.random.default_rng([seed, 7]), np.random.default_rng(0).normal(size=(len(counts), width))
    labels = np.repeat(np.arange(len(counts)), counts)
    return means[labels] + np.array(spread)[labels, None] * generator.normal(size=(len(labels), width)), labels


def silent(done: int, total: int) -> None:
    assert 0 < done <= total


def test_the_curve_tells_the_accuracy_on_new_images():
    counts, spread = [20] * 5, [1.2] * 5
    features, labels = draw(counts, spread)
    curve = learning_curve(features, labels, np.arange(100), 5, seed=1, progress=silent)
    assert [point.shots for point in curve] == [1, 2, 4, 8, 16, 0]
    assert [point.photos for point in curve] == pytest.approx([5, 10, 20, 40, 80, 80])
    assert curve[0].accuracy < curve[3].accuracy
    new, truth = draw([400] * 5, spread, seed=1)
    for point in (curve[1], curve[4]):
        low, high = point.interval
        assert low < point.accuracy < high
        accuracies = []
        for seed in range(2, 12):
            own, given = draw([point.shots] * 5, spread, seed=seed)
            accuracies.append(100 * (discriminant_scores(own, given, new, 5).argmax(axis=1) == truth).mean())
        assert low < np.mean(accuracies) < high


def test_small_classes_give_all_they_have():
    features, labels = draw([2, 9, 9], [0.5] * 3)
    curve = learning_curve(features, labels, np.arange(20), 3, seed=0, progress=silent)
    assert [point.shots for point in curve] == [1, 2, 4, 0]
    assert curve[2].photos < 12


def test_no_curve_without_two_pictures_of_a_class():
    assert learning_curve(np.eye(3), np.arange(3), np.arange(3), 3, seed=0, progress=silent) == []
    assert class_gains(np.eye(3), np.arange(3), np.arange(3), 3, seed=0, progress=silent) == []


def test_a_scattered_class_gains_most_and_an_easy_one_nothing():
    features, labels = draw([8, 40, 40], [2.0, 0.1, 0.1])
    gains = class_gains(features, labels, np.arange(88), 3, seed=0, progress=silent)
    assert gains[0].label == 0
    assert gains[0].photos == 8
    by_label = {gain.label: gain for gain in gains}
    assert by_label[0].gain > by_label[1].gain
    assert by_label[1].gain == pytest.approx(0, abs=1)
    for gain in gains:
        assert gain.interval[0] <= gain.gain <= gain.interval[1] <= 100
        assert gain.gain <= 100 - gain.accuracy


def test_uncertain_estimates_are_drawn_towards_the_mean():
    estimates, variances = np.array([0.0, 0.01, 0.3]), np.array([0.0001, 0.0001, 0.04])
    centre, deviation = shrunk(estimates, variances)
    assert centre[:2] == pytest.approx(estimates[:2], abs=0.01)
    assert 0 < centre[2] < 0.2
    assert (deviation < np.sqrt(variances)).all()
    same, _ = shrunk(np.array([0.1, 0.3]), np.array([4.0, 4.0]))
    assert same.tolist() == pytest.approx([0.2, 0.2], abs=0.01), "errors explain the whole difference"
    alone, _ = shrunk(np.array([0.15]), np.array([0.01]))
    assert alone.tolist() == pytest.approx([0.15])
    many, _ = shrunk(np.linspace(0, 0.2, 50), np.full(50, 1e-6))
    assert many == pytest.approx(np.linspace(0, 0.2, 50), abs=0.001), "precise estimates stay"
