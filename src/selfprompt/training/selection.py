"""Chooses between candidates by their cross-validated predictions, and estimates the accuracy of the choice.

Pure functions of arrays of correctness: entry (m, n) is the share of repetitions in which candidate m, trained without
image n, classified image n correctly. It is NaN if candidate m was not tested on image n, for want of time.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfprompt.metrics import wilson_interval

Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A cross-validated accuracy, corrected for having chosen the best of several candidates.

    Attributes:
        accuracy: Percent, in [0, 100].
        interval: 95 % interval in percent.
        images: Number of images behind it.
    """

    accuracy: float
    interval: tuple[float, float]
    images: int


def stratified_folds(
    labels: Sequence[int], groups: Sequence[int], *, folds: int, repeats: int, seed: int
) -> Iterator[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Yield, for each repetition, the training and validation indices of its folds.

    Every fold has about the class frequencies of all images, and every training set has all classes. Images of one
    group, such as copies of one picture, stay together. Groups with several labels, and those of classes with a single
    group, are in every training set and in no validation set.

    Args:
        labels: Class of each image.
        groups: Group of each image.
        folds: Number of folds; fewer if even the largest class has fewer groups. A smaller class is in only some of
            the validation sets.
        repeats: Number of repetitions, each with another split.
        seed: Seed of the splits.

    Raises:
        ValueError: If no class has two groups.
    """
    from sklearn.model_selection import StratifiedKFold

    label, group = np.asarray(labels), np.asarray(groups)
    label_of = {g: label[group == g][0] for g in np.unique(group) if len(np.unique(label[group == g])) == 1}
    counts = Counter(label_of.values())
    splittable = [g for g, c in label_of.items() if counts[c] > 1]
    if not splittable:
        raise ValueError("Cross-validation needs a class with at least two different images.")
    count = min(folds, max(counts.values()))
    units, classes = np.array(splittable), [label_of[g] for g in splittable]
    for repeat in range(repeats):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            split = list(StratifiedKFold(count, shuffle=True, random_state=seed + repeat).split(units, classes))
        held_out = [np.flatnonzero(np.isin(group, units[held])) for _, held in split]
        yield [(np.setdiff1d(np.arange(len(label)), held), held) for held in held_out]


def simplest_of_the_best(shares: Shares, costs: Sequence[int]) -> int:
    """Return the candidate to choose: of the cheapest ones within one standard error of the best, the most accurate.

    The standard error is that of the paired difference to the best candidate over the images.

    Args:
        shares: (M, N); a candidate with unknown images is compared on those that it was tested on.
        costs: The cost class of each candidate, (M,); candidates of one class cost about the same.

    Source: Breiman et al. 1984, Classification and Regression Trees, section 3.4.3 (the one-standard-error rule).
    """
    unknown = np.isnan(shares).sum(axis=1)
    reference = np.where(unknown == unknown.min(), _mean(shares), -np.inf).argmax()
    gains = _mean(shares - shares[reference])  # on the images that both were tested on
    differences = shares[int(gains.argmax())] - shares
    errors = standard_error(differences) + 1e-9  # one image of difference has exactly one standard error
    close = _mean(differences, if_none=np.inf) <= errors
    cheapest = min(cost for cost, is_close in zip(costs, close, strict=True) if is_close)
    return int(np.where(close & (np.asarray(costs) == cheapest), gains, -np.inf).argmax())


def _mean(values: Shares, if_none: float = -np.inf) -> Shares:
    """Return the mean of the known values over the last axis, and another number if there are none."""
    count = np.isfinite(values).sum(axis=-1)
    return np.where(count > 0, np.nansum(values, axis=-1) / np.maximum(count, 1), if_none)


def standard_error(values: Shares) -> Shares:
    """Return the standard error of the mean of the known values over the last axis; 0 of a single one."""
    count = np.isfinite(values).sum(axis=-1)
    squares = np.nansum(np.square(values - _mean(values, 0.0)[..., None]), axis=-1)
    return np.asarray(np.sqrt(squares / np.maximum(count * (count - 1), 1)))


def corrected_estimate(shares: Shares, costs: Sequence[int], *, seed: int, resamples: int = 2000) -> Estimate:
    """Estimate the accuracy of the chosen candidate on new images.

    The cross-validated accuracy of the best of several candidates is too high. So images are resampled with
    replacement, a candidate is chosen on each resample, and its accuracy is taken on the images left out. The mean of
    these is the estimate. Its interval is Wilson's for the number of images that the choice was tested on; that of the
    resamples covers too little.

    Args:
        shares: (M, N), NaN for an image that a candidate was not tested on.
        costs: The cost class of each candidate, (M,).
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Source: Tsamardinos et al. 2018 (Machine Learning 107:1895), bootstrap bias-corrected cross-validation.
    """
    generator, count = np.random.default_rng(seed), shares.shape[1]
    accuracies = []
    for _ in range(resamples):
        drawn = generator.integers(count, size=count)
        left_out = np.setdiff1d(np.arange(count), drawn)
        tested = shares[simplest_of_the_best(shares[:, drawn], costs), left_out]
        if np.isfinite(tested).any():
            accuracies.append(_mean(tested))
    chosen = shares[simplest_of_the_best(shares, costs)]
    accuracy = min(1.0, float(np.mean(accuracies) if accuracies else _mean(chosen)))  # none with a single image
    images = int(np.isfinite(chosen).sum())
    return Estimate(100 * accuracy, wilson_interval(accuracy * images, images), images)
