"""Paired two-level bootstrap of accuracies: seeds are resampled, and test images, the same for all methods.

Pure NumPy. Whether an image is classified correctly is known for each method, seed and image of a data set. A replicate
draws seeds with replacement, once for all data sets, and test images with replacement, data set by data set. The images
of a data set are the same for all seeds, so a replicate draws them once for all its seeds: drawn again for each seed, a
hard image would count as many times as there are seeds. Views of one drawing are hard together, so they are drawn
together. Otherwise intervals would be too narrow (``python -m experiments.paired_intervals``, docs/strict.md).

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
"""Drawn units in memory at a time."""


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


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement: images, or groups of them that are drawn together; within strata.

    Attributes:
        of_image: The unit of each image, (N,), from 0.
        sizes: Images of each unit, (U,).
        strata: The stratum of each unit, (U,), from 0; each has the same weight. Of a single stratum as many units are
            drawn as it has. Of several, one fewer of each (but at least one): a class may have only two or three, whose
            spread would come out too small otherwise (Rao and Wu 1988, J. Am. Stat. Assoc. 83:231).
    """

    of_image: NDArray[np.int64]
    sizes: NDArray[np.int64]
    strata: NDArray[np.int64]

    @classmethod
    def of(cls, groups: NDArray[np.int64], labels: NDArray[np.int64] | None = None) -> "Units":
        """Make the units of images.

        Args:
            groups: Group of each image, (N,): images of one group are drawn together.
            labels: Class of each image, (N,), to draw within classes, which then have the same weight; None for one
                stratum.
        """
        strata = np.zeros_like(groups) if labels is None else labels
        pairs, of_image, sizes = np.unique(np.stack([strata, groups]), axis=1, return_inverse=True, return_counts=True)
        return cls(of_image.reshape(-1), sizes, np.unique(pairs[0], return_inverse=True)[1].reshape(-1))

    def draw(self, generator: np.random.Generator, replicates: int) -> Floats:
        """Draw units for each replicate; returns the weight of an image of each unit, (R, U)."""
        counts = np.bincount(self.strata)  # units of a stratum; the units are sorted by stratum
        starts = counts.cumsum() - counts
        drawn = np.maximum(counts - (len(counts) > 1), 1)
        first, count = np.repeat(starts, drawn), np.repeat(counts, drawn)
        often = _shares(generator.integers(first, first + count, (replicates, len(count))), len(self.strata))
        images = np.add.reduceat(often * self.sizes, starts, axis=1)  # (R, strata)
        weights: Floats = often / images[:, self.strata] / len(counts)
        return weights


def _shares(drawn: NDArray[np.int64], count: int) -> Floats:
    """Return how often each index below ``count`` occurs in each row of (R, n), divided by n."""
    rows, length = drawn.shape
    flat = (drawn + count * np.arange(rows)[:, None]).ravel()
    shares: Floats = np.bincount(flat, minlength=rows * count).reshape(rows, count) / length
    return shares


def resampled_accuracy(
    right: NDArray[np.bool_], seeds: Floats, generator: np.random.Generator, units: Units | None = None
) -> Floats:
    """Return the accuracy of each method in each replicate, in percent, (M, R).

    Args:
        right: Whether a method classifies an image correctly, (M, S, N): methods, seeds, images of one data set.
        seeds: The share of each seed in each replicate, (R, S), from ``seed_weights``.
        generator: Draws the images.
        units: What is drawn; None for single images. With a stratum for each class, the result is the mean accuracy of
            the classes.
    """
    methods, count, images = right.shape
    units = units or Units.of(np.arange(images))
    values = np.zeros((len(units.sizes), methods * count))  # correct images of each unit
    np.add.at(values, units.of_image, right.reshape(methods * count, images).T)
    result = np.empty((methods, len(seeds)))
    for part in _chunks(len(seeds), len(units.sizes)):
        by_seed = (units.draw(generator, part.stop - part.start) @ values).reshape(-1, methods, count)
        result[:, part] = 100 * np.einsum("rms,rs->mr", by_seed, seeds[part])
    return result


def _chunks(replicates: int, units: int) -> Iterator[slice]:
    step = max(1, CHUNK // units)
    for start in range(0, replicates, step):
        yield slice(start, min(replicates, start + step))


def most_influential(differences: Floats) -> int:
    """Return the task whose removal changes the mean of the differences, (D,), most; D is at least 2."""
    return int(np.abs(differences - differences.mean()).argmax())
