"""The accuracy by number of photos a class, and what more photos of a class would bring."""

from dataclasses import dataclass

import numpy as np

from selfprompt.metrics import wilson_interval
from selfprompt.reviewing.cross_fit import Doubles, Indices, discriminant_scores, splits
from selfprompt.utils.progress import Progress

FOLDS = 5
EXPONENT = 0.5
"""Error is taken to fall towards its limit as 1 / sqrt(photos): doubling then brings 2^-0.5 of what halving costs."""


@dataclass(frozen=True)
class CurvePoint:
    """The cross-fitted accuracy with so many photos of each class.

    Attributes:
        shots: Photos of each class for training; 0 stands for all.
        photos: Mean number of photos that a head was trained on.
        accuracy: Percent.
        interval: 95 % interval in percent.
    """

    shots: int
    photos: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ClassGain:
    """What twice as many photos of one class would bring.

    Attributes:
        label: The class.
        photos: Its different pictures.
        accuracy: Cross-fitted accuracy on these in percent.
        gain: Estimated gain in percentage points.
        interval: 95 % interval of the gain.
    """

    label: int
    photos: int
    accuracy: float
    gain: float
    interval: tuple[float, float]


def repetitions(images: int) -> int:
    """Return how often a curve is drawn: 10 times for up to 1,000 images, and less often for more, at least 3 times."""
    return int(np.clip(10_000 // max(1, images), 3, 10))


def learning_curve(
    features: Doubles, labels: Indices, groups: Indices, classes: int, *, seed: int, progress: Progress
) -> list[CurvePoint]:
    """Measure the accuracy with 1, 2, 4, ... photos of each class, and with all.

    The photos are drawn anew for each fold and repetition; a class with fewer gives all it has. There are points up to
    the number that half of the classes have. The interval is Wilson's for the number of images: it covers the choice
    of images, not that of the task.

    Args:
        features: Of different pictures, (N, E).
        labels: (N,).
        groups: Copies of a picture, (N,).
        classes: C.
        seed: Seed of folds and draws.
        progress: Called with (repetitions done, all).

    Returns:
        The points from few to many; none if no image can be held out.
    """
    repeats = repetitions(len(labels))
    usual = int(np.median(np.bincount(labels, minlength=classes)) * (FOLDS - 1) / FOLDS)
    sizes = [2**power for power in range(20) if 2**power <= usual]
    hits, scored = np.zeros((len(sizes) + 1, len(labels))), np.zeros(len(labels))
    used = np.zeros(len(sizes) + 1)
    fits = 0
    for done, split in enumerate(splits(labels, groups, folds=FOLDS, repeats=repeats, seed=seed)):
        generator = np.random.default_rng([seed, done, 1])
        for training, held_out in split:
            rank = _ranks(labels, training, generator)
            for row, size in enumerate([*sizes, len(labels)]):
                drawn = training[rank < size]
                scores = discriminant_scores(features[drawn], labels[drawn], features[held_out], classes)
                hits[row, held_out] += scores.argmax(axis=1) == labels[held_out]
                used[row] += len(drawn)
            scored[held_out] += 1
            fits += 1
        progress(done + 1, repeats)
    judged = scored > 0
    if not judged.any():
        return []
    shares = (hits[:, judged] / scored[judged]).mean(axis=1)
    count = int(judged.sum())
    return [
        CurvePoint(size, float(photos / fits), 100 * float(share), wilson_interval(float(share) * count, count))
        for size, photos, share in zip([*sizes, 0], used, shares, strict=True)
    ]


def class_gains(
    features: Doubles, labels: Indices, groups: Indices, classes: int, *, seed: int, progress: Progress
) -> list[ClassGain]:
    """Estimate what twice as many photos of each class would bring, the largest gain first.

    In each repetition a coin decides for each class whether its training photos are all used or half of them. What
    halving costs a class is the difference of its accuracy in these two cases, over the other classes' coins. It is
    estimated with the standard error over the images of the class, and drawn towards the mean of all classes as far
    as the errors explain their spread (empirical Bayes). Doubling brings less than halving costs: 2^-0.5 of it, if
    the error falls towards a limit as 1 / sqrt(photos).

    Args:
        features: Of different pictures, (N, E).
        labels: (N,).
        groups: Copies of a picture, (N,).
        classes: C.
        seed: Seed of folds, coins and draws.
        progress: Called with (repetitions done, all).

    Returns:
        A record for each class with at least 4 pictures that can be held out.

    Source: Efron and Morris 1975, Journal of the American Statistical Association 70:311, for the shrinkage; Hestness
    et al. 2017 (arXiv 1712.00409) for errors that fall as a power of the number of images.
    """
    hits, scored = np.zeros((2, len(labels))), np.zeros((2, len(labels)))  # halved, all
    repeats = 2 * repetitions(len(labels))
    coins = np.random.default_rng([seed, 2]).random((repeats // 2, classes)) < 0.5
    coins = np.concatenate([coins, ~coins])  # both cases equally often
    for done, split in enumerate(splits(labels, groups, folds=FOLDS, repeats=repeats, seed=seed)):
        full = coins[done]
        for training, held_out in split:
            rank = _ranks(labels, training, np.random.default_rng([seed, done, 3]))
            allowed = np.where(full, len(labels), np.maximum(1, np.bincount(labels[training], minlength=classes) // 2))
            drawn = training[rank < allowed[labels[training]]]
            scores = discriminant_scores(features[drawn], labels[drawn], features[held_out], classes)
            case = full[labels[held_out]].astype(np.int64)
            hits[case, held_out] += scores.argmax(axis=1) == labels[held_out]
            scored[case, held_out] += 1
        progress(done + 1, repeats)
    return _gains(hits, scored, labels, classes)


def _ranks(labels: Indices, training: Indices, generator: np.random.Generator) -> Indices:
    """Return the place of each training image in a random order of its class, (M,), from 0."""
    shuffled = generator.permutation(len(training))
    order = shuffled[np.argsort(labels[training][shuffled], kind="stable")]
    counts = np.bincount(labels[training])
    ranks = np.empty(len(training), dtype=np.int64)
    ranks[order] = np.arange(len(training)) - np.repeat(counts.cumsum() - counts, counts)
    return ranks


def _gains(hits: Doubles, scored: Doubles, labels: Indices, classes: int) -> list[ClassGain]:
    """Turn counts of images, (halved or all, N), into gains."""
    judged = (scored > 0).all(axis=0)
    shares = np.where(judged, hits / np.maximum(scored, 1), np.nan)
    rows = []
    for label in range(classes):
        own = shares[:, (labels == label) & judged]
        if own.shape[1] >= 4:
            costs = own[1] - own[0]
            spread = max(float(costs.var(ddof=1)), 0.25 / own.shape[1] ** 2)  # equal images say little about new ones
            rows.append((label, own.shape[1], float(own[1].mean()), float(costs.mean()), spread / own.shape[1]))
    if not rows:
        return []
    costs, variances = np.array([row[3] for row in rows]), np.array([row[4] for row in rows])
    centre, deviations = shrunk(costs, variances)
    gains = []
    for (label, photos, accuracy, _, _), middle, deviation in zip(rows, centre, deviations, strict=True):
        most = 100 - wilson_interval(accuracy * photos, photos)[0]  # nothing can be better than all images right
        low, gain, high = (100 * 2**-EXPONENT * float(middle + z * deviation) for z in (-1.96, 0, 1.96))
        gain = min(gain, 100 * (1 - accuracy))
        gains.append(ClassGain(label, photos, 100 * accuracy, gain, (min(low, gain), max(gain, min(high, most)))))
    return sorted(gains, key=lambda gain: (-gain.gain, gain.label))


def shrunk(estimates: Doubles, variances: Doubles) -> tuple[Doubles, Doubles]:
    """Draw estimates towards their mean; return the posterior means and standard deviations, (C,) each.

    Args:
        estimates: (C,).
        variances: Their squared standard errors, positive, (C,).
    """
    count = len(estimates)
    between = max(0.0, float(estimates.var(ddof=1) - variances.mean())) if count > 1 else np.inf
    if not np.isfinite(between):
        return estimates, np.sqrt(variances)
    weights = 1 / (variances + between)
    mean = float((weights * estimates).sum() / weights.sum())
    own = between / (between + variances)  # how much of an estimate is its own
    deviation = np.sqrt(own * variances + (1 - own) ** 2 / weights.sum())
    return own * estimates + (1 - own) * mean, deviation
