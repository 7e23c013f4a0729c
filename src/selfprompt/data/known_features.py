"""Labelled features in memory, as training data for methods that read features alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from selfprompt.data.views import Views


@dataclass(frozen=True)
class KnownFeatures:
    """A training source whose every epoch is one batch of known features.

    Attributes:
        features: Features of the evaluation views from the frozen vision tower, not normalised, (N, E).
        labels: Class indices, (N,), int64.
        views: Features of V random views of the same images, (V, N, E): epoch n shows view n mod V. None if there are
            no random views: then every epoch shows the evaluation views.
    """

    features: Tensor
    labels: Tensor
    views: Tensor | None = None

    keeps_features = False
    validation = None

    @property
    def size(self) -> int:
        """Number of images, N."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "KnownFeatures":
        """Return the images at these indices, (M,)."""
        views = None if self.views is None else self.views[:, indices]
        return KnownFeatures(self.features[indices], self.labels[indices], views)

    def deterministic(self) -> "KnownFeatures":
        """Return the same images without their random views."""
        return KnownFeatures(self.features, self.labels)

    def epoch(self, number: int, start_step: int = 0, **_: Any) -> Iterator[Views]:
        """Yield all images as one batch without pixels."""
        if start_step == 0:
            features = self.features if self.views is None else self.views[number % len(self.views)]
            yield Views(None, features, self.labels)

    def batch(self, indices: Any, draw: int = 0) -> Tensor:
        """Raise RuntimeError: there are no pixels."""
        raise RuntimeError("There are only features here; a method that reads pixels needs Batches.")
