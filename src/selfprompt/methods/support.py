"""Frozen features of the training images for closed-form heads: collected, standardised, cut into folds."""

from collections.abc import Callable

import torch
from torch import Tensor

from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.class_rows import view_features

CONSTANT = 1e-6  # a channel that varies less than this fraction of its largest entry varies by rounding alone
BATCH = 2048  # images in a step of full-batch methods: seconds for a thousand classes


def support_features(
    method: Method, source: TrainingSource, views: int = 0, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``plain_and_random`` features and the labels of the images, (N,), where every class needs an image.

    Raises:
        ValueError: If a class has no training images.
    """
    check_all_classes(method, source)
    return plain_and_random(method, source, views, progress), source.labels.cpu()


def plain_and_random(
    method: Method, source: TrainingSource, views: int, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return the frozen features of the evaluation view of all training images, and of random views, on the CPU.

    Args:
        method: The method whose features they are.
        source: Training images.
        views: Number of random views of each image, V.
        progress: Takes the number of views seen so far, and of all views.

    Returns:
        Features, not normalised, (1 + V, N, E), float32, evaluation views first; images in the order of
        the source.
    """
    report, total = progress or (lambda done, of: None), (1 + views) * source.size
    plain = view_features(method, source, 0, lambda done, _: report(done, total))
    if not views:
        return plain
    random = view_features(method, source, views, lambda done, _: report(source.size + done, total))
    return torch.cat([plain, random])


def check_all_classes(method: Method, source: TrainingSource) -> None:
    """Raise ValueError unless every class has a training image."""
    present = set(source.labels.tolist())
    missing = [name for label, name in enumerate(method.classes) if label not in present]
    if missing:
        raise ValueError(f"No training images of: {', '.join(missing)}.")


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the factor, 1 / std, of each channel, (E,) each; the factor of a constant channel is 0.

    Args:
        features: (N, E), float64.
    """
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    constant = std <= CONSTANT * features.abs().amax(dim=0)
    return mean, torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, std))


def leave_out_folds(labels: Tensor, most: int) -> Tensor:
    """Return the fold that leaves each image out, (N,), from 0; -1 for the image of a class that has no other.

    The k-th image of every class is in fold k, modulo the number of folds: as many as the largest class has images, up
    to ``most``. So each class has an image in every fold's remainder, and K shots a class make K folds.

    Args:
        labels: Class indices of the images, (N,).
        most: Largest number of folds, at least 2.
    """
    counts = torch.bincount(labels)
    folds = min(most, int(counts.max()))
    order = labels.argsort(stable=True)
    starts = counts.cumsum(dim=0) - counts
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - starts[labels[order]]
    return torch.where(counts[labels] > 1, rank % folds, -1)


def balanced_parts(labels: Tensor, most: int) -> list[Tensor]:
    """Cut the images into parts of nearly equal size with the same shares of the classes.

    Args:
        labels: Class indices of the images, (N,).
        most: Most images in a part; 0 puts all into one.

    Returns:
        Indices of the images of each part.
    """
    count = -(-len(labels) // (most or len(labels)))
    order = labels.argsort(stable=True)
    return [order[first::count] for first in range(count)]
