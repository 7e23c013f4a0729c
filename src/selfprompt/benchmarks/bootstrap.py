"""Paired two-level bootstrap of accuracies: seeds are resampled, and test images, the same for all methods.

Pure NumPy. Whether an image is classified correctly is known for each method, seed and image of a data set. A replicate
draws seeds with replacement, once for all data sets, and test images with replacement, data set by data set. The images
of a data set are the same for all seeds, so a replicate draws them once for all its seeds: drawn again for each seed, a
hard image would count as many times as there are seeds, and intervals would be too narrow (docs/strict.md).

Source of the crossed resampling: Owen 2007 (Annals of Applied Statistics 1:386).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REPLICATES = 10_000
CONFIDENCE = 0.95
CHUNK = 1 << 22
"""Drawn images in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """The bootstrap distribution of a difference.

    Attributes:
        low, high: Quantiles of 2.5 and 97.5 %, interpolated linearly.
        p: Two-sided p-value: twice the smaller share of replicates on one side of 0, at least 2 / (replicates + 1).
        not_above_zero: Share of replicates that are at most 0.
    """

    low: float
    high: float
    p: float
    not_above_zero: float

    @classmethod
    def of(cls, differences: Floats) -> "Interval":
        """Summarise the differences of all replicates, (R,)."""
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(differences, [tail, 1 - tail])
        below, above = float((differences <= 0).mean()), float((differences >= 0).mean())
        p = min(1.0, max(2 * min(below, above), 2 / (len(differences) + 1)))
        return cls(float(low), float(high), p, below)


def seed_weights(seeds: int, generator: np.random.Generator, replicates: int = REPLICATES) -> Floats:
    """Draw seeds for each replicate; returns the share of each, (R, S)."""
    return _shares(generator.integers(0, seeds, (replicates, seeds)), seeds)


def image_weights(count: int, generator: np.random.Generator, replicates: int, labels: NDArray[np.int64]) -> Floats:
    """Draw images for each replicate; returns the weight of each, (R, N), whose sum is 1.

    Args:
        count: Images N.
        generator: The generator; it is advanced.
        replicates: R.
        labels: Class of each image, (N,): images are drawn within their class, and each class that occurs has the same
            weight. Empty to draw from all images with equal weights.
    """
    if not len(labels):
        return _shares(generator.integers(0, count, (replicates, count)), count)
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = classes.argsort(kind="stable")
    starts = np.concatenate(([0], sizes.cumsum()[:-1]))
    first, size = starts[classes[order]], sizes[classes[order]]
    drawn = generator.integers(first, first + size, (replicates, count))
    weights = np.empty((replicates, count))
    weights[:, order] = _shares(drawn, count) * count / (size * len(sizes))
    return weights


def _shares(drawn: NDArray[np.int64], count: int) -> Floats:
    """Return how often each index below ``count`` occurs in each row of (R, n), divided by n."""
    rows, length = drawn.shape
    flat = (drawn + count * np.arange(rows)[:, None]).ravel()
    shares: Floats = np.bincount(flat, minlength=rows * count).reshape(rows, count) / length
    return shares


def resampled_accuracy(
    right: NDArray[np.bool_], seeds: Floats, generator: np.random.Generator, labels: NDArray[np.int64] | None = None
) -> Floats:
    """Return the accuracy of each method in each replicate, in percent, (M, R).

    Args:
        right: Whether a method classifies an image correctly, (M, S, N): methods, seeds, images of one data set.
        seeds: The share of each seed in each replicate, (R, S), from ``seed_weights``.
        generator: Draws the images.
        labels: Class of each image, (N,), for the mean accuracy of the classes with images drawn within them; None for
            the accuracy.
    """
    methods, count, images = right.shape
    strata = np.empty(0, dtype=np.int64) if labels is None else labels
    values = right.reshape(methods * count, images).astype(np.float64).T
    result = np.empty((methods, len(seeds)))
    for part in _chunks(len(seeds), images):
        weights = image_weights(images, generator, part.stop - part.start, strata)
        by_seed = (weights @ values).reshape(-1, methods, count)
        result[:, part] = 100 * np.einsum("rms,rs->mr", by_seed, seeds[part])
    return result


def _chunks(replicates: int, images: int) -> Iterator[slice]:
    step = max(1, CHUNK // images)
    for start in range(0, replicates, step):
        yield slice(start, min(replicates, start + step))


def most_influential(differences: Floats) -> int:
    """Return the task whose removal changes the mean of the differences, (D,), most; D is at least 2."""
    return int(np.abs(differences - differences.mean()).argmax())
