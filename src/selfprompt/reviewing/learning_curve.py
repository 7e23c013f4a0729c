"""The accuracy by number of photos a class, and what more photos of a class would bring."""

from dataclasses import dataclass

import numpy as np

from selfprompt.metrics import wilson_interval
from selfprompt.reviewing.cross_fit import Doubles, Indices, discriminant_scores, splits
from selfprompt.utils.progress import Progress

FOLDS = 5
GAIN = (0.5 * (FOLDS - 1) / FOLDS) ** 0.5
"""What doubling the photos brings, as a fraction of what halving those of a fold costs.

If the error falls towards a limit as n^-c, halving m = 4/5 n photos costs m^-c (2^c - 1), and doubling n brings
n^-c (1 - 2^-c), which is 0.4^c of it. c is taken to be 1/2.
"""
DOUBT = 0.3
"""Standard deviation of that fraction, relative to it: c may well be 1/4 or 1."""
LARGEST_SPREAD = 0.3
"""Of what halving costs the classes: a standard deviation of 30 points."""


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
    the number that half of the classes have. The interval is that of a mean over the images, each of which has the
    share of repetitions that classified it correctly.

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
    shares = hits[:, judged] / scored[judged]
    return [
        CurvePoint(size, float(photos / fits), 100 * float(share.mean()), _interval(share))
        for size, photos, share in zip([*sizes, 0], used, shares, strict=True)
    ]


def _interval(shares: Doubles) -> tuple[float, float]:
    """Return the 95 % interval of a mean over images in percent; it never shrinks to a point."""
    reach = 196 * float(_standard_error(shares))
    return max(0.0, 100 * float(shares.mean()) - reach), min(100.0, 100 * float(shares.mean()) + reach)


def _standard_error(values: Doubles) -> Doubles:
    """Return the standard error of the mean, as if one more image were half a point away from it."""
    return np.asarray(np.sqrt(((values - values.mean()) ** 2).sum() + 0.25) / len(values))


def class_gains(
    features: Doubles, labels: Indices, groups: Indices, classes: int, *, seed: int, progress: Progress
) -> list[ClassGain]:
    """Estimate what twice as many photos of each class would bring, the largest gain first.

    In each repetition a coin decides for each class whether its training photos are all used or half of them. What
    halving costs a class is the difference of its accuracy in these two cases, over the other classes' coins. It is
    estimated with the standard error over the images of the class, and drawn towards the mean of all classes as far
    as the errors explain their spread (a hierarchical model). Doubling brings less than halving costs: 0.63 of it, if
    the error falls towards a limit as 1 / sqrt(photos); see ``GAIN``.

    Args:
        features: Of different pictures, (N, E).
        labels: (N,).
        groups: Copies of a picture, (N,).
        classes: C.
        seed: Seed of folds, coins and draws.
        progress: Called with (repetitions done, all).

    Returns:
        A record for each class with at least 4 pictures that can be held out.

    Source: Hestness et al. 2017 (arXiv 1712.00409) for errors that fall as a power of the number of images.
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
            rows.append(
                (label, own.shape[1], float(own[1].mean()), float(costs.mean()), float(_standard_error(costs)) ** 2)
            )
    if not rows:
        return []
    costs, variances = np.array([row[3] for row in rows]), np.array([row[4] for row in rows])
    centre, deviations = shrunk(costs, variances)
    gains = []
    for (label, photos, accuracy, _, _), middle, deviation in zip(rows, centre, deviations, strict=True):
        most = 100 - wilson_interval(accuracy * photos, photos)[0]  # nothing can be better than all images right
        reach = 1.96 * np.hypot(deviation, DOUBT * middle)
        low, gain, high = (100 * GAIN * float(value) for value in (middle - reach, middle, middle + reach))
        gain = min(gain, 100 * (1 - accuracy))
        gains.append(ClassGain(label, photos, 100 * accuracy, gain, (min(low, gain), max(gain, min(high, most)))))
    return sorted(gains, key=lambda gain: (-gain.gain, gain.label))


def shrunk(estimates: Doubles, variances: Doubles) -> tuple[Doubles, Doubles]:
    """Draw estimates towards their mean; return the posterior means and standard deviations, (C,) each.

    The true values are taken to be normal around a common mean, both unknown; every standard deviation among them
    from 0 to ``LARGEST_SPREAD`` is as likely before the estimates are seen.

    Args:
        estimates: (C,).
        variances: Their squared standard errors, positive, (C,).

    Source: Gelman et al. 2013, "Bayesian data analysis", section 5.4.
    """
    between = np.linspace(0, LARGEST_SPREAD, 61)[:, None] ** 2
    weights = 1 / (variances + between)  # (grid, C)
    total = weights.sum(axis=1, keepdims=True)
    mean = (weights * estimates).sum(axis=1, keepdims=True) / total
    log_density = 0.5 * (np.log(weights) - weights * (estimates - mean) ** 2).sum(axis=1, keepdims=True)
    log_density -= 0.5 * np.log(total)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    own = between / (between + variances)  # how much of an estimate is its own
    centres, spreads = own * estimates + (1 - own) * mean, own * variances + (1 - own) ** 2 / total
    centre = (density * centres).sum(axis=0)
    return centre, np.sqrt((density * (spreads + (centres - centre) ** 2)).sum(axis=0))
