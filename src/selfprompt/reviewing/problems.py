"""Labels that are probably wrong, outliers, and classes that are confused with each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfprompt.reviewing.cross_fit import Doubles, Indices

DOUBTFUL, IMPROBABLE = 0.05, 0.01
"""Probabilities of a label below which it is listed: with the consent of confident learning, and without it."""
NEIGHBOURS = 5
"""Nearest images whose mean distance tells an outlier."""
FENCE = 1.5
"""Tukey's factor of the distance between the quartiles beyond the upper one."""
EXTRA = "pip install 'selfprompt[review]'"


@dataclass(frozen=True)
class WrongLabel:
    """An image whose label is probably wrong.

    Attributes:
        image: Position of the image.
        suggested: The most probable other class.
        probability: Of the label being another one, by the head that was trained without the image, in [0, 1].
    """

    image: int
    suggested: int
    probability: float


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others.

    Attributes:
        image: Position of the image.
        distance: Mean distance to its nearest images, as a multiple of the median over all images.
    """

    image: int
    distance: float


@dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for each other.

    Attributes:
        first, second: Class indices.
        first_as_second, second_as_first: Numbers of images.
        images: Number of images of both classes that were scored.
    """

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    images: int

    @property
    def share(self) -> float:
        """Confused images of both classes, in [0, 1]."""
        return (self.first_as_second + self.second_as_first) / self.images


def check_cleanlab() -> None:
    """Raise ImportError, with what to do, if cleanlab is not installed."""
    try:
        import cleanlab.filter  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Finding wrong labels needs the package cleanlab: {EXTRA}.") from error


def find_wrong_labels(probabilities: Doubles, labels: Indices) -> list[WrongLabel]:
    """Find labels that are probably wrong, the most certain first.

    A label is listed if confident learning lists it and its probability is below 5 %, or if it is below 1 %. Where the
    classes are hard to tell apart, confident learning alone lists many right labels.

    Args:
        probabilities: Cross-fitted, (N, C); rows of NaN for images that cannot be judged.
        labels: Given classes, (N,).

    Source: Northcutt, Jiang and Chuang 2021, "Confident learning", Journal of Artificial Intelligence Research 70:1373;
    off-diagonal entries of the confident joint, by cleanlab.
    """
    from cleanlab.filter import find_label_issues

    judged = np.flatnonzero(~np.isnan(probabilities[:, 0]))
    if len(np.unique(labels[judged])) < 2:
        return []
    shown, given, rows = probabilities[judged], labels[judged], np.arange(len(judged))
    issues = find_label_issues(given, shown, filter_by="confident_learning", n_jobs=1)
    own = shown[rows, given]
    others = shown.copy()
    others[rows, given] = -1
    listed = np.flatnonzero((issues & (own < DOUBTFUL)) | (own < IMPROBABLE))
    found = [WrongLabel(int(judged[row]), int(others[row].argmax()), float(1 - own[row])) for row in listed]
    return sorted(found, key=lambda wrong: -wrong.probability)


def find_outliers(features: NDArray[np.float32], groups: Indices) -> list[Outlier]:
    """Find images that are far from all others, whatever their class, the farthest first.

    The distance of an image is the mean cosine distance to its 5 nearest images, of which copies of it are none. An
    outlier is farther than the upper quartile by more than 1.5 times the distance between the quartiles.

    Args:
        features: Not normalised, (N, E).
        groups: Group of copies of each image, (N,); of a group the first image stands for all.

    Source: Kuan and Mueller 2022 (arXiv 2207.03061) for the distance; Tukey 1977, "Exploratory data analysis", for the
    fence.
    """
    from sklearn.neighbors import NearestNeighbors

    _, pictures = np.unique(groups, return_index=True)
    near = min(NEIGHBOURS, len(pictures) - 1)
    if near < 1:
        return []
    found = NearestNeighbors(n_neighbors=near, metric="cosine").fit(features[pictures])
    distances = np.maximum(0, found.kneighbors()[0]).mean(axis=1)
    lower, median, upper = np.quantile(distances, [0.25, 0.5, 0.75])
    far = np.flatnonzero(distances > upper + FENCE * (upper - lower) + 1e-6)
    outliers = [Outlier(int(pictures[row]), float(distances[row] / max(median, 1e-12))) for row in far]
    return sorted(outliers, key=lambda outlier: -outlier.distance)


def confusion_counts(scores: Doubles, labels: Indices) -> Indices:
    """Count the images of each true and predicted class, (C, C), among those with scores, (N, C)."""
    judged = ~np.isnan(scores[:, 0])
    counts = np.zeros((scores.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (labels[judged], scores[judged].argmax(axis=1)), 1)
    return counts


def find_confusions(counts: Indices) -> list[Confusion]:
    """Return the pairs of classes that are confused at least once, the largest share of images first.

    Args:
        counts: True classes in rows, predicted ones in columns, (C, C).
    """
    both, sizes = counts + counts.T, counts.sum(axis=1)
    pairs = [
        Confusion(int(a), int(b), int(counts[a, b]), int(counts[b, a]), int(sizes[a] + sizes[b]))
        for a, b in zip(*np.nonzero(np.triu(both, k=1)), strict=True)
    ]
    return sorted(pairs, key=lambda pair: (-pair.share, -pair.images, pair.first, pair.second))
