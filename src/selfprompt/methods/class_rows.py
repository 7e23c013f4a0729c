"""What heads on frozen features share: features of the training images, and rows that belong to class names."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from selfprompt.methods.base import Method, TrainingSource


@torch.no_grad()
def view_features(
    method: Method, source: TrainingSource, views: int, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Return frozen features of several views of all training images.

    Args:
        method: Its frozen tower encodes the images.
        source: The training images; epoch v shows view v.
        views: Number of views V; 0 takes the deterministic view.
        progress: Called with the number of encoded views and of all views.

    Returns:
        Features, not normalised, (V, N, E), float32, on the CPU; image n is that of ``source.labels[n]``.
    """
    epochs = source if views else source.deterministic()
    features, done = torch.zeros(0), 0
    for view in range(views or 1):
        for batch in method.feature_views(epochs, view):
            encoded = method.frozen_features(batch).float().cpu()
            if not done:
                features = encoded.new_zeros(views or 1, source.size, encoded.shape[1])
            features[view, batch.indices.cpu()] = encoded
            done += len(batch)
            if progress:
                progress(done, len(features) * source.size)
    return features


def name_keys(names: Sequence[str]) -> Tensor:
    """Return a number for each class name, (C,), int64; a repeated name gets a different one each time."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        digest = hashlib.blake2b(f"{seen[name]} {name}".encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "big", signed=True))
        seen[name] += 1
    return torch.tensor(keys, dtype=torch.int64)


def rows_by_name(keys: Tensor, known: Tensor, learned: Tensor, others: Tensor) -> Tensor:
    """Return the learned rows of the classes that have one, and the given rows of all others.

    Args:
        keys: ``name_keys`` of the classes, (C,).
        known: ``name_keys`` of the learned rows, (M,), M at least 1.
        learned: (M, E).
        others: (C, E).

    Returns:
        (C, E).
    """
    same = keys[:, None] == known[None, :]
    return torch.where(same.any(dim=1, keepdim=True), learned[same.int().argmax(dim=1)], others)


def unequal_rows(tensors: Mapping[str, Tensor], *names: str, least: int = 1) -> list[str]:
    """Return a problem for ``Method.problems_with`` unless these tensors have equally many rows, ``least`` or more."""
    counts = [len(tensors[name]) for name in names]
    if len(set(counts)) == 1 and counts[0] >= least:
        return []
    listed = ", ".join(map(str, counts))
    return [f"{' and '.join(names)} must have equally many rows, at least {least}; they have {listed}"]
