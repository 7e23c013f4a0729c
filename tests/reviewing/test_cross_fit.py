"""Cross-fitting: no image is judged by a head that has seen it or a copy of it."""

import numpy as np
import pytest

from selfprompt.reviewing.cross_fit import calibrated, cross_fit, discriminant_scores, splits


def blobs(shots: int, classes: int = 3, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well separated Gaussian classes, in turn."""
    generator = np.random.default_rng(seed)
    labels = np.arange(shots * classes) % classes
    return 4 * np.eye(classes, width)[labels] + generator.normal(size=(len(labels), width)), labels


def test_scores_equal_those_of_sklearn_where_the_covariance_is_not_shrunk():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = blobs(4000, width=3)
    others, _ = blobs(50, width=3, seed=1)
    scores = discriminant_scores(features, labels, others, 3)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3).fit(features, labels)
    ours, expected = (x - x.mean(axis=1, keepdims=True) for x in (scores, theirs.decision_function(others)))
    np.testing.assert_allclose(ours, expected, atol=0.3)  # of about 10: they standardise nothing
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.9995


@pytest.mark.parametrize("shots", [1, 2])
def test_few_images_a_class_are_enough(shots):
    features, labels = blobs(shots)
    others, truth = blobs(40, seed=1)
    assert (discriminant_scores(features, labels, others, 3).argmax(axis=1) == truth).mean() > 0.6


def test_equal_images_and_constant_channels_are_no_obstacle():
    features = np.repeat(np.eye(2, 4), 3, axis=0)
    labels = np.repeat([0, 1], 3)
    scores = discriminant_scores(features, labels, features, 2)
    assert np.isfinite(scores).all()
    assert (scores.argmax(axis=1) == labels).all()


def test_a_class_with_few_photos_is_not_at_a_disadvantage():
    features, labels = blobs(40, classes=2, width=64)
    kept = np.flatnonzero((labels == 1) | (np.arange(len(labels)) < 8))  # 4 photos of class 0, 40 of class 1
    others, truth = blobs(500, classes=2, width=64, seed=1)
    found = discriminant_scores(features[kept], labels[kept], others, 2).argmax(axis=1)
    assert (found == 0).mean() == pytest.approx(0.5, abs=0.1)
    assert (found == truth).mean() > 0.9


def test_folds_keep_copies_together_and_classes_complete():
    labels = np.array([0] * 6 + [1] * 3 + [2, 2] + [3])
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9])
    held_out = np.zeros(len(labels), dtype=int)
    for split in splits(labels, groups, folds=5, repeats=2, seed=0):
        for training, held in split:
            assert set(labels[training]) == {0, 1, 2, 3}
            assert not set(groups[training]) & set(groups[held])
            held_out[held] += 1
    assert held_out.tolist() == [2] * 11 + [0], "a class with one picture is never held out"


def test_copies_with_several_labels_train_no_head_and_are_judged():
    features, labels = blobs(6)
    groups = np.arange(len(labels))
    groups[1] = 0  # a copy of the first image with another label
    for split in splits(labels, groups, folds=4, repeats=1, seed=0):
        for training, held in split:
            assert not {0, 1} & set(training.tolist())
            assert {0, 1} <= set(held.tolist())
    scores = cross_fit(features, labels, groups, 3, folds=4, repeats=1, seed=0, progress=lambda *_: None)
    assert np.isfinite(scores).all()


def test_a_class_of_contradictory_copies_alone_stays_in_training():
    labels, groups = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2])
    for split in splits(labels, groups, folds=3, repeats=1, seed=0):
        for training, _ in split:
            assert set(labels[training]) == {0, 1}


def test_without_two_pictures_of_a_class_nothing_is_judged():
    scores = cross_fit(np.eye(3), np.arange(3), np.arange(3), 3, folds=4, repeats=2, seed=0, progress=lambda *_: None)
    assert np.isnan(scores).all()


def test_calibration_recovers_a_known_temperature():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 4)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(4, p=row) for row in shares])
    np.testing.assert_allclose(calibrated(logits * 7, labels), shares, atol=0.03)
