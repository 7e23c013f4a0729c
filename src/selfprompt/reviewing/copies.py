"""Finds copies and near copies of a picture, also across splits and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selfprompt.reviewing.photos import SIDE, Photos

CopyKind = Literal["copy in another split", "copy with another label", "copy"]
SIMILAR = 0.98
"""Correlation of two small pictures from which on they count as the same picture."""
NEIGHBOURS = 10
"""Nearest images by their features with which an image is compared."""
PAIRS = 4096
"""Pairs that are compared at a time."""


@dataclass(frozen=True)
class Copy:
    """An image that shows the same picture as an earlier one.

    Attributes:
        image: Position of the image.
        original: Position of the earlier image.
        kind: What it may harm: the test, if the two are in different splits; training, if their labels differ.
        correlation: Of the two small pictures, in [-1, 1]; 1 if all pixels are equal.
    """

    image: int
    original: int
    kind: CopyKind
    correlation: float


def group_copies(photos: Photos) -> NDArray[np.int64]:
    """Return the group of each image, (N,); the images of a group show the same picture.

    Two images are the same picture if all their pixels are equal; or if one is among the 10 nearest of the other by
    the cosine of their features, and their small pictures correlate with 0.98 or more: both whole, one of them cut to
    its central 95, 90 or 80 %, or one of them mirrored. Copies of copies are in one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = _candidates(photos)
    similar = _correlations(photos, first, second) >= SIMILAR
    position: dict[bytes, int] = {}
    equal = np.array([position.setdefault(digest, index) for index, digest in enumerate(photos.digests)])
    count = len(photos.items)
    rows = np.concatenate([first[similar], np.arange(count)])
    columns = np.concatenate([second[similar], equal])
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def describe_copies(photos: Photos, groups: NDArray[np.int64]) -> list[Copy]:
    """Return a ``Copy`` for each image but the first of a group, those that harm most first.

    It names an image of another split if the group has one, else one with another label, else the first one.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(index)
    pairs = [_pair(photos, index, same[:rank]) for same in members.values() for rank, index in enumerate(same) if rank]
    if not pairs:
        return []
    images, originals = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    correlations = _correlations(photos, images, originals)
    copies = [
        Copy(image, original, kind, 1.0 if photos.digests[image] == photos.digests[original] else float(value))
        for (image, original, kind), value in zip(pairs, correlations, strict=True)
    ]
    order: Sequence[CopyKind] = ("copy in another split", "copy with another label", "copy")
    return sorted(copies, key=lambda copy: (order.index(copy.kind), -copy.correlation, copy.image))


def _pair(photos: Photos, image: int, earlier: Sequence[int]) -> tuple[int, int, CopyKind]:
    """Return an image, the earlier one of its group that matters most, and why."""
    for other in earlier:
        if photos.splits[other] != photos.splits[image]:
            return image, other, "copy in another split"
    for other in earlier:
        if photos.items[other].label != photos.items[image].label:
            return image, other, "copy with another label"
    return image, earlier[0], "copy"


def _candidates(photos: Photos) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return both sides of the pairs of near neighbours by their features, (M,) each."""
    from sklearn.neighbors import NearestNeighbors

    count = len(photos.items)
    near = min(NEIGHBOURS, count - 1)
    found = NearestNeighbors(n_neighbors=near, metric="cosine").fit(photos.features)
    return np.repeat(np.arange(count), near), found.kneighbors(return_distance=False).ravel().astype(np.int64)


def _correlations(photos: Photos, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the largest correlation of the small pictures of each pair, (M,)."""
    parts = []
    for start in range(0, len(first), PAIRS):
        one, other = (photos.small[side[start : start + PAIRS]].astype(np.float32) for side in (first, second))
        mirrored = one[:, 0].reshape(len(one), 3, SIDE, SIDE)[..., ::-1].reshape(len(one), 1, -1)
        shown = np.concatenate([one, mirrored], axis=1)
        best = np.einsum("mce,me->mc", shown, other[:, 0]).max(axis=1)
        parts.append(np.maximum(best, np.einsum("mce,me->mc", other, one[:, 0]).max(axis=1)))
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
