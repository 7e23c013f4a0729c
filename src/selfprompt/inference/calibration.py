"""Calibrated answers: probabilities, "none of these" at a promised rate, and sets of classes with a promised coverage.

A calibration holds scores of images with known classes, each scored by a model trained without it. All promises
compare the score of a new image with these. They hold on average over new images that are drawn like the known ones;
scores from cross-validation make them approximate, since the models behind the scores differ a little from the final
one. Everything is computed with numpy, in float64, so that `selfprompt.runtime` gives the same answers without torch;
logits may be arrays or tensors on the CPU.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from selfprompt.metrics import CalibrationCheck, Metrics, compute_metrics

if TYPE_CHECKING:
    from torch import Tensor

Source = Literal["cross-validation", "validation images"]
CROSS_VALIDATION: Source = "cross-validation"
VALIDATION: Source = "validation images"
UNKNOWN_RATE, COVERAGE = 0.05, 0.9
"""The share of refused known images, and the coverage, at which an evaluation checks the promises."""


@dataclass(frozen=True)
class Calibration:
    """Scores of images that a model did not see in training.

    Attributes:
        temperature: Probabilities are ``softmax(logits / temperature)``; above 0.
        largest_logits: Largest logit of each image.
        largest_probabilities: Largest probability of each image at the temperature, in [0, 1].
        surprises: ``-log p`` of each image's true class at the temperature, ascending; at least 0.
        source: Where the images are from.
    """

    temperature: float
    largest_logits: tuple[float, ...]
    largest_probabilities: tuple[float, ...]
    surprises: tuple[float, ...]
    source: Source = "cross-validation"

    @property
    def images(self) -> int:
        """Number of images behind the promises."""
        return len(self.largest_logits)

    def typicality(self, logits: ArrayLike) -> np.ndarray:
        """Return how typical images are of the training classes, (N, C) to (N,), float64.

        An image has a place among the known ones by its largest logit, which is low for foreign images, and one by its
        largest probability, which is low between classes. The smaller place counts; the other one breaks ties.

        Source: Hendrycks et al. 2022 (arXiv 1911.11132) for the largest logit; Hendrycks and Gimpel 2017 (arXiv
        1610.02136) for the largest probability.
        """
        largest = np.asarray(logits, dtype=np.float64).max(axis=-1)
        return self._typicality(largest, np.exp(self.log_probabilities(logits)).max(axis=-1))

    def _typicality(self, largest_logits: ArrayLike, largest_probabilities: ArrayLike) -> np.ndarray:
        by_logit, by_probability = self._sorted
        places = np.searchsorted(by_logit, largest_logits), np.searchsorted(by_probability, largest_probabilities)
        result: np.ndarray = np.minimum(*places) + np.maximum(*places) / (self.images + 1)
        return result

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest logits and the largest probabilities of the known images, each ascending."""
        return np.sort(self.largest_logits), np.sort(self.largest_probabilities)

    @cached_property
    def typicalities(self) -> tuple[float, ...]:
        """Typicality of each known image among the others, ascending."""
        return tuple(np.sort(self._typicality(self.largest_logits, self.largest_probabilities)).tolist())

    def least_typicality(self, unknown: float) -> float:
        """Return the typicality below which an image is unknown, so that at most this share of known ones is.

        With n images this is the k-th smallest one, k = floor((n + 1) unknown): a new known image is as likely to come
        at each place of the order. If k is 0 it is -inf: nothing is refused. The new image would raise places of the
        known ones by up to one; leaving that out refuses fewer.

        Source: Vovk et al. 2005, conformal prediction.
        """
        rank = math.floor((self.images + 1) * unknown + 1e-9)
        return self.typicalities[rank - 1] if rank else -math.inf

    def largest_surprise(self, coverage: float) -> float:
        """Return the ``-log p`` up to which classes belong to the set, so that it holds the true one at this rate.

        With n images this is the k-th smallest score, k = ceil((n + 1) coverage). If k exceeds n it is inf: a set has
        all classes.

        Source: Sadinle et al. 2019 (arXiv 1609.00451), least ambiguous sets; Vovk et al. 2005, split conformal
        prediction.
        """
        rank = math.ceil((self.images + 1) * coverage - 1e-9)
        return self.surprises[rank - 1] if rank <= self.images else math.inf

    def remarks(self, unknown: float | None, coverage: float | None) -> list[str]:
        """Return a sentence for each promise that so few images allow to be kept only trivially."""
        images, found = self.images, []
        if unknown is not None and self.least_typicality(unknown) == -math.inf:
            needed = math.ceil(1 / unknown - 1e-9) - 1
            found.append(
                f"unknown {unknown:g} refuses nothing: that needs a calibration with {needed} images, and this one has "
                f"{images}. Allow {math.ceil(100 / (images + 1)) / 100:g} or more, or train with more images."
            )
        if coverage is not None and self.largest_surprise(coverage) == math.inf:
            needed = math.ceil(1 / (1 - coverage) - 1e-9) - 1
            found.append(
                f"coverage {coverage:g} gives all classes for every image: fewer need a calibration with {needed} "
                f"images, and this one has {images}. Ask for less, or train with more images."
            )
        return found

    def log_probabilities(self, logits: ArrayLike) -> np.ndarray:
        """Return the calibrated ``log p`` of logits, (..., C), float64."""
        return log_softmax(logits, self.temperature)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Calibration":
        """Build a calibration from what `to_json` returned, as ``inference.schema`` has checked it."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**values)


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Return ``log p`` of logits divided by a temperature, (..., C), float64."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def is_unknown(logits: ArrayLike, calibration: Calibration, unknown: float) -> np.ndarray:
    """Return which images are unlike the training classes, (N, C) to (N,), bool."""
    result: np.ndarray = calibration.typicality(logits) < calibration.least_typicality(unknown)
    return result


def class_sets(logits: ArrayLike, calibration: Calibration, coverage: float) -> np.ndarray:
    """Return which classes belong to each set, (N, C) to (N, C), bool; the most likely class always does."""
    log_p = calibration.log_probabilities(logits)
    likely = log_p == log_p.max(axis=-1, keepdims=True)
    result: np.ndarray = likely | (-log_p <= calibration.largest_surprise(coverage))
    return result


def calibrated_metrics(logits: "Tensor", labels: "Tensor", names: tuple[str, ...], calibration: Calibration) -> Metrics:
    """Compute metrics with calibrated probabilities, and check the promises on these images.

    Args:
        logits: (N, C).
        labels: (N,).
        names: C class names.
        calibration: Made without these images.
    """
    before = compute_metrics(logits, labels, names).calibration_error
    sets = class_sets(logits, calibration, COVERAGE)
    covered = np.take_along_axis(sets, np.asarray(labels)[:, None], axis=1).mean()
    check = CalibrationCheck(
        error_before=before,
        unknown=100 * UNKNOWN_RATE,
        refused=100 * float(is_unknown(logits, calibration, UNKNOWN_RATE).mean()),
        coverage=100 * COVERAGE,
        covered=100 * float(covered),
        set_size=float(sets.sum(axis=1).mean()),
        calibration_images=calibration.images,
    )
    return compute_metrics(logits, labels, names, temperature=calibration.temperature, check=check)
