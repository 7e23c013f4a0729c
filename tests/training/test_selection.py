"""Tests of cross-validation splits, the choice between candidates and its corrected estimate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfprompt.training.selection import corrected_estimate, simplest_of_the_best, standard_error, stratified_folds


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 3))
def test_folds_hold_each_image_out_once_and_keep_groups_together(counts: list[int], folds: int, seed: int) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(2 * count)]
    groups = [number // 2 for number in range(len(labels))]  # every image has a copy
    splittable = {label for label, count in enumerate(counts) if count > 1}
    if not splittable:
        with pytest.raises(ValueError, match="a class with at least two different images"):
            list(stratified_folds(labels, groups, folds=folds, repeats=2, seed=seed))
        return
    for split in stratified_folds(labels, groups, folds=folds, repeats=2, seed=seed):
        held_out = np.concatenate([held for _, held in split])
        assert sorted(held_out) == [n for n, label in enumerate(labels) if label in splittable]
        for training, held in split:
            assert {labels[n] for n in training} == set(range(len(counts))), "every class is trained on"
            assert not {groups[n] for n in training} & {groups[n] for n in held}
            assert len(training) + len(held) == len(labels)


def test_one_small_class_does_not_lower_the_number_of_folds() -> None:
    labels = [0] * 2 + [1] * 10 + [2] * 12
    [split] = stratified_folds(labels, range(24), folds=5, repeats=1, seed=0)
    assert len(split) == 5
    assert sum(0 in [labels[n] for n in held] for _, held in split) == 2
    [split] = stratified_folds([0, 0, 0, 1], range(4), folds=5, repeats=1, seed=0)
    assert len(split) == 3


def test_the_same_seed_gives_the_same_folds_and_repetitions_differ() -> None:
    labels = [0, 1] * 10
    first, second = (list(stratified_folds(labels, range(20), folds=5, repeats=2, seed=s)) for s in (1, 1))
    for one, other in zip(first, second, strict=True):
        assert all((a == c).all() and (b == d).all() for (a, b), (c, d) in zip(one, other, strict=True))
    assert any((first[0][n][1] != first[1][n][1]).any() for n in range(5))


def test_the_simplest_candidate_within_one_standard_error_is_chosen() -> None:
    best = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], dtype=float)
    close, far = best.copy(), 1 - best
    close[0] = 0  # one of ten images: a difference of 0.1 with a standard error of 0.1
    assert standard_error(best - close) == pytest.approx(0.1)
    assert simplest_of_the_best(np.array([best, close]), [1, 0]) == 1
    assert simplest_of_the_best(np.array([close, best]), [0, 0]) == 1, "of equal costs the more accurate"
    close[1] = 0  # 0.2, with a standard error of 0.13
    assert simplest_of_the_best(np.array([best, close]), [1, 0]) == 0
    assert simplest_of_the_best(np.array([far, best, best]), [0, 1, 1]) == 1, "of equals the first"


def test_the_estimate_is_corrected_for_choosing_among_many() -> None:
    generator = np.random.default_rng(0)
    guesses = (generator.random((40, 60)) < 0.5).astype(float)  # forty classifiers that toss a coin
    assert guesses.mean(axis=1).max() > 0.62, "the best looks better than chance"
    estimate = corrected_estimate(guesses, [0] * 40, seed=1)
    assert abs(estimate.accuracy - 50) < 6
    assert estimate.interval[0] < 50 < estimate.interval[1]
    assert estimate == corrected_estimate(guesses, [0] * 40, seed=1)
    assert estimate.images == 60
    certain = corrected_estimate(np.ones((2, 10)), [0, 1], seed=1)
    assert certain.accuracy == certain.interval[1] == 100
    assert 65 < certain.interval[0] < 75, "ten images prove little"


def test_a_candidate_is_compared_on_the_images_that_it_was_tested_on() -> None:
    """The first half of the images is hard: 20 % for the head there, and 90 % for what was tested on these alone."""
    head = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0] * 2 + [1] * 20, dtype=float)
    partly = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0] * 2 + [np.nan] * 20)
    assert simplest_of_the_best(np.array([head, partly]), [0, 1]) == 1
    assert simplest_of_the_best(np.array([head, np.where(np.isnan(partly), np.nan, head)]), [0, 1]) == 0
    assert simplest_of_the_best(np.array([partly, partly]), [1, 1]) == 0, "also if none was tested on all"
    estimate = corrected_estimate(np.array([head, partly]), [0, 1], seed=1)
    assert estimate.images == 20, "as many as the choice was tested on"
    assert abs(estimate.accuracy - 90) < 3
    never = np.full(40, np.nan)
    assert simplest_of_the_best(np.array([head, never]), [1, 0]) == 0, "nothing is known about it"


def test_the_standard_error_is_that_of_the_known_values() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    with_gaps = np.array([1.0, np.nan, 0.0, 1.0, np.nan, 1.0])
    assert standard_error(with_gaps) == pytest.approx(values.std(ddof=1) / 2)
    assert standard_error(np.array([0.5, np.nan])) == 0
