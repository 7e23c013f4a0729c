"""Cross-fitted predictions on frozen features: every image is scored by a head that was trained without it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from selfprompt.utils.progress import Progress

Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


def discriminant_scores(features: Doubles, labels: Indices, others: Doubles, classes: int) -> Doubles:
    """Train linear discriminant analysis, and score other images.

    All classes have the same prior. Their common covariance, of standardised features, is shrunk by Ledoit and Wolf's
    rule; with one image a class it is the identity.

    Args:
        features: Training images, (N, E).
        labels: Their classes; every class 0..C-1 occurs, (N,).
        others: Images to score, (M, E).
        classes: C.

    Returns:
        (M, C).

    Source: Hastie, Tibshirani and Friedman 2009, "The elements of statistical learning", section 4.3; Ledoit and Wolf
    2004, Journal of Multivariate Analysis 88:365.
    """
    from sklearn.covariance import ledoit_wolf
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    rows = scaler.transform(features)
    means, counts = np.zeros((classes, rows.shape[1])), np.bincount(labels, minlength=classes)
    np.add.at(means, labels, rows)
    means /= counts[:, None]
    residuals = rows - means[labels]
    variance, weight = residuals.var(axis=0).sum(), means.T
    if variance > 0:  # else there is one image a class, or the images of each class are all equal
        covariance, _ = ledoit_wolf(residuals, assume_centered=True)
        found = np.linalg.solve(covariance, np.concatenate([means.T, residuals.T @ residuals / len(rows)], axis=1))
        weight, variance = found[:, :classes], np.trace(found[:, classes:])
    lengths = (means.T * weight).sum(axis=0) - variance / counts  # a mean of few images is too long by its own error
    return np.asarray(scaler.transform(others) @ weight - lengths / 2)


def group_folds(labels: Indices, groups: Indices, folds: int, generator: np.random.Generator) -> Indices:
    """Return the fold that leaves each image out, (N,); -1 for the images of a class with a single group.

    The groups of a class are spread evenly over the folds, so every class is in every training set, however few images
    it has. A group has one label.
    """
    units, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    fold_of = np.full(len(units), -1, dtype=np.int64)
    for label in np.unique(labels):
        own = generator.permutation(np.flatnonzero(labels[first] == label))
        if len(own) > 1:
            fold_of[own] = (np.arange(len(own)) + generator.integers(folds)) % folds
    return np.asarray(fold_of[inverse])


def conflicting(labels: Indices, groups: Indices) -> NDArray[np.bool_]:
    """Return which images are in a group with several labels, (N,)."""
    order = np.lexsort((labels, groups))
    changes = (np.diff(groups[order]) == 0) & (np.diff(labels[order]) != 0)
    return np.isin(groups, groups[order][1:][changes])


def splits(
    labels: Indices, groups: Indices, *, folds: int, repeats: int, seed: int
) -> Iterator[list[tuple[Indices, Indices]]]:
    """Yield the training and held-out images of each fold, for each repetition.

    Copies of a picture stay together. Those with several labels train no head, and are held out of every one of them,
    unless a class has no other image. A class with a single picture is in every training set and never held out.
    """
    several = conflicting(labels, groups)
    doubtful = several & np.isin(labels, labels[~several])
    clean = np.flatnonzero(~several)
    for repeat in range(repeats):
        fold = np.full(len(labels), -1, dtype=np.int64)
        fold[clean] = group_folds(labels[clean], groups[clean], folds, np.random.default_rng([seed, repeat]))
        held = [np.flatnonzero(fold == number) for number in np.unique(fold[fold >= 0])]
        yield [
            (np.setdiff1d(np.flatnonzero(~doubtful), own), np.union1d(own, np.flatnonzero(doubtful))) for own in held
        ]


def cross_fit(
    features: Doubles,
    labels: Indices,
    groups: Indices,
    classes: int,
    *,
    folds: int,
    repeats: int,
    seed: int,
    progress: Progress,
) -> Doubles:
    """Return the mean score of each image over the heads trained without it, (N, C); NaN where there is none."""
    total, count = np.zeros((len(labels), classes)), np.zeros(len(labels))
    for done, split in enumerate(splits(labels, groups, folds=folds, repeats=repeats, seed=seed)):
        for number, (training, held_out) in enumerate(split):
            total[held_out] += discriminant_scores(features[training], labels[training], features[held_out], classes)
            count[held_out] += 1
            progress(done * len(split) + number + 1, repeats * len(split))
    with np.errstate(invalid="ignore"):
        return np.where(count[:, None] > 0, total / count[:, None], np.nan)


def calibrated(scores: Doubles, labels: Indices) -> Doubles:
    """Return softmax(scores / T) with the temperature T of the least cross-entropy, (N, C).

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax, softmax

    centred = scores - scores.max(axis=1, keepdims=True)
    scale = 1 / max(1e-12, float(np.abs(centred).mean()))
    own = np.arange(len(labels))

    def loss(log_factor: float) -> float:
        return -float(log_softmax(centred * scale * np.exp(log_factor), axis=1)[own, labels].mean())

    best = minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x
    return np.asarray(softmax(centred * scale * np.exp(best), axis=1))
