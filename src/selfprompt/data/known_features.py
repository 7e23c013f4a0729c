"""Labelled features in memory, as training data for methods that read features alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from selfprompt.data.views import Views


@dataclass(frozen=True)
class KnownFeatures:
    """A training source whose every epoch is the same features in one batch.

    Attributes:
        features: Features from the frozen vision tower, not normalised, (N, E).
        labels: Class indices, (N,), int64.
    """

    features: Tensor
    labels: Tensor

    keeps_features = False
    validation = None

    @property
    def size(self) -> int:
        """Number of images, N."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "KnownFeatures":
        """Return the images at these indices, (M,)."""
        return KnownFeatures(self.features[indices], self.labels[indices])

    def deterministic(self) -> "KnownFeatures":
        """Return the same features: they have no random views."""
        return self

    def epoch(self, number: int, start_step: int = 0, **_: Any) -> Iterator[Views]:
        """Yield all images as one batch without pixels."""
        if start_step == 0:
            yield Views(None, self.features, self.labels)

    def batch(self, indices: Any, draw: int = 0) -> Tensor:
        """Raise RuntimeError: there are no pixels."""
        raise RuntimeError("There are only features here; a method that reads pixels needs Batches.")
