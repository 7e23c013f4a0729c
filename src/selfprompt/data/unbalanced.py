"""Unbalanced few-shot draws: as many images as a balanced draw in all, but more of some classes than of others.

The marginal draw follows the class frequencies of the training images (SS-Text: Silva-Rodríguez et al. 2025, arXiv
2506.17500). The Dirichlet draw takes the proportions of realistic transductive evaluation (Veilleux et al. 2021, arXiv
2204.11181), which are for test images there, for the training images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
CONCENTRATION = 2.0
"""Parameter of the symmetric Dirichlet distribution, as in that paper."""


def marginal_counts(frequencies: Sequence[int], shots: int, *, least: int) -> Counts:
    """Return the images to draw of each class, (C,), in proportion to their frequency: about K C in all.

    Each count is rounded; then the largest class loses one image at a time while there are more than K C.

    Args:
        frequencies: Training images of each class, (C,).
        shots: K, at least 1.
        least: Fewest images of a class: 1, or 0 if classes may be absent.
    """
    present = np.asarray(frequencies, dtype=np.int64)
    total = shots * len(present)
    counts: Counts = np.maximum(np.round(total * present / present.sum()).astype(np.int64), least)
    while counts.sum() > total:
        counts[counts.argmax()] -= 1
    return counts


def dirichlet_counts(proportions: NDArray[np.float64], total: int) -> Counts:
    """Return counts, (C,), in these proportions, (C,), whose sum is the total.

    The products are rounded. While the sum is wrong, the product whose fraction is nearest to 1/2 is rounded down if
    there are too many, and up if there are too few.
    """
    products = np.asarray(proportions, dtype=np.float64) * total
    excess = np.round(products).sum() - total
    adjust = np.floor if excess > 0 else np.ceil
    while np.round(products).sum() != total:
        nearest = np.abs(products % 1 - 0.5).argmin()
        products[nearest] = adjust(products[nearest])
    return np.round(products).astype(np.int64)


def draw_dirichlet_counts(frequencies: Sequence[int], shots: int, seed: int) -> Counts:
    """Draw the images of each class, (C,), for K C in all; a class may be absent, and none exceeds its frequency."""
    generator = np.random.default_rng(seed)
    proportions = generator.dirichlet(np.full(len(frequencies), CONCENTRATION))
    counts = dirichlet_counts(proportions, shots * len(frequencies))
    return np.minimum(counts, np.asarray(frequencies, dtype=np.int64))


def draw_counts(labels: Sequence[int], counts: Sequence[int] | Counts, seed: int) -> list[int]:
    """Draw that many images of each class, or all of a class that has fewer; returns their indices, class by class.

    Each class is shuffled with the same seed, as in SS-Text's code.

    Args:
        labels: Class of each image, (N,).
        counts: Images to draw of each class, (C,).
        seed: Seed, from 0 to 2**32 - 1.
    """
    classes, drawn = np.asarray(labels, dtype=np.int64), list[int]()
    for label, count in enumerate(counts):
        members = np.flatnonzero(classes == label)
        np.random.RandomState(seed).shuffle(members)
        drawn += members[:count].tolist()
    return drawn
