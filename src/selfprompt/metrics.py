"""Evaluation metrics from logits and labels, derived from exact counts.

torch is imported inside functions, so that reading a stored `Metrics` stays cheap.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BINS = 15  # of the calibration error
FLOORS = {"zero_shot": "zero-shot", "ridge": "ridge regression"}
"""Name of each classifier that a tuned one is compared with, by its key in the results."""


@dataclass(frozen=True)
class CalibrationCheck:
    """What the promises of a calibrated classifier came to on evaluated images; percentages lie in [0, 100].

    Attributes:
        error_before: Calibration error without the temperature, in [0, 1].
        unknown: Promise: at most this percentage of images of the trained classes is refused as unknown.
        refused: Percentage that was.
        coverage: Promise: in this percentage of images the set of classes contains the true one.
        covered: Percentage in which it did.
        set_size: Mean number of classes in a set.
        calibration_images: Number of images that the calibration was made from.
    """

    error_before: float
    unknown: float
    refused: float
    coverage: float
    covered: float
    set_size: float
    calibration_images: int


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation; percentages lie in [0, 100].

    Attributes:
        accuracy: Percentage of images whose largest logit is the one of their class.
        correct, total: The counts behind it.
        interval: 95 % Wilson interval of the accuracy, in percent; it covers only the choice of test images.
        macro: Mean of ``per_class``: each class with test images has the same weight.
        per_class: Accuracy in percent by class name, for the classes with test images.
        calibration_error: Expected calibration error of the probabilities with 15 bins, in [0, 1].
        confusion: Counts of images; rows are true classes, columns predicted classes.
        reliability: Mean confidence, accuracy (both in [0, 1]) and number of images of each non-empty bin of 15.
        calibration: What the promises of a calibrated classifier came to; None for another one.
    """

    accuracy: float
    correct: int
    total: int
    interval: tuple[float, float]
    macro: float
    per_class: dict[str, float]
    calibration_error: float
    confusion: list[list[int]]
    reliability: list[list[float]] = field(default_factory=list)
    calibration: CalibrationCheck | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; without ``calibration`` if there is none."""
        record = {**asdict(self), "interval": list(self.interval)}
        if self.calibration is None:
            del record["calibration"]
        return record

    def _repr_html_(self) -> str:
        """Return a table for notebooks, with the five classes of lowest accuracy; names are escaped."""
        low, high = self.interval
        lowest = sorted(self.per_class.items(), key=lambda entry: entry[1])[:5]
        rows = {
            "accuracy": f"{self.accuracy:.1f} % (95 % interval {low:.1f} - {high:.1f} %)",
            "images": f"{self.correct} of {self.total} are right",
            "mean of classes": f"{self.macro:.1f} %",
            "calibration error": f"{100 * self.calibration_error:.1f} %",
            "hardest classes": ", ".join(f"{name} {value:.1f} %" for name, value in lowest),
        }
        lines = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table><tbody>{''.join(lines)}</tbody></table>"

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Metrics":
        """Build metrics from what `to_json` returned."""
        low, high = record["interval"]
        check = record.get("calibration")
        return cls(**{**record, "interval": (low, high), "calibration": check and CalibrationCheck(**check)})


def compute_metrics(
    logits: "Tensor",
    labels: "Tensor",
    class_names: Sequence[str],
    *,
    temperature: float = 1.0,
    check: CalibrationCheck | None = None,
) -> Metrics:
    """Compute the metrics of predictions.

    Args:
        logits: Scores of any floating type, (N, C).
        labels: Class indices, (N,).
        class_names: C names; repeated names get their index appended in ``per_class``.
        temperature: The probabilities are softmax(logits / temperature).
        check: What the promises of the classifier came to.

    Raises:
        ValueError: If shapes do not match, there is no image, a label is out of range, or logits are
            not finite.
    """
    classes = len(class_names)
    _check(logits, labels, classes)
    probabilities = (logits.detach().cpu().double() / temperature).softmax(1)
    labels = labels.cpu()
    unusable = int(probabilities.isnan().any(1).sum())
    if unusable:
        raise ValueError(f"Logits must be finite numbers; those of {unusable} of {len(labels)} images are not.")
    predicted = logits.detach().cpu().argmax(1)
    counts = (labels * classes + predicted).bincount(minlength=classes**2).reshape(classes, classes).tolist()
    correct, total = sum(counts[i][i] for i in range(classes)), len(labels)
    per_class = {
        name: 100 * row[i] / sum(row)
        for i, (name, row) in enumerate(zip(_distinct(class_names), counts, strict=True))
        if sum(row)
    }
    reliability = _reliability(probabilities, predicted == labels)
    return Metrics(
        accuracy=100 * correct / total,
        correct=correct,
        total=total,
        interval=wilson_interval(correct, total),
        macro=math.fsum(per_class.values()) / len(per_class),
        per_class=per_class,
        calibration_error=math.fsum(count * abs(sure - right) for sure, right, count in reliability) / total,
        confusion=counts,
        reliability=reliability,
        calibration=check,
    )


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two models on the same images.

    Attributes:
        tuned_only: Images that only the tuned model classifies correctly.
        floor_only: Images that only the other one classifies correctly.
        p: Two-sided p-value, in [0, 1].
    """

    tuned_only: int
    floor_only: int
    p: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def mcnemar(tuned: "Tensor", floor: "Tensor") -> PairedTest:
    """Compare two models by the images on which only one of them is right.

    Args:
        tuned: Whether each image is classified correctly, (N,), bool.
        floor: The same for the other model.

    Source: McNemar 1947, Psychometrika 12:153, with the exact binomial distribution.
    """
    from scipy.stats import binomtest

    first, second = int((tuned & ~floor).sum()), int((floor & ~tuned).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return PairedTest(first, second, p)


def wilson_interval(correct: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of an accuracy, in percent.

    Unlike ``p +- 1.96 s`` it stays inside [0, 100] and does not shrink to a point at 0 or 100 %.

    Raises:
        ValueError: Unless ``0 <= correct <= total`` and ``total >= 1``.

    Source: Wilson 1927, Journal of the American Statistical Association 22:209.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"Need 0 <= correct <= total and total >= 1, got {correct} of {total}.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / total
    centre = p + z**2 / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    low = 0.0 if correct == 0 else (centre - spread) / (1 + z**2 / total)
    high = 1.0 if correct == total else (centre + spread) / (1 + z**2 / total)
    return 100 * low, 100 * high


def harmonic_mean(base: float, new: float) -> float:
    """Compute the harmonic mean of base and new accuracy.

    Args:
        base: Accuracy on the base classes in percent, in [0, 100].
        new: Accuracy on the new classes in percent, in [0, 100].

    Returns:
        The mean in percent; 0.0 when both are 0.

    Raises:
        ValueError: If either value is outside [0, 100].

    Source: Zhou et al. 2022 (arXiv 2203.05557), section 4.1.
    """
    for value in (base, new):
        if not 0 <= value <= 100:
            raise ValueError(f"An accuracy must lie in [0, 100] percent, got {value}.")
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)


def openworld_auc(
    base_right: "NDArray[np.bool_]",
    new_right: "NDArray[np.bool_]",
    base_scores: "NDArray[np.float64]",
    new_scores: "NDArray[np.float64]",
) -> float:
    """Compute OpenworldAUC: how often a base and a new image are both classified correctly and told apart.

    It is the share of pairs of a base and a new image of which the base image is right among the base classes, the new
    one is right among the new classes, and the base image has the higher score; equal scores count 1/2.

    Args:
        base_right: Whether each base image is classified correctly among the base classes, (N,).
        new_right: The same for new images among the new classes, (M,).
        base_scores: How much each base image looks like one of the base classes, (N,).
        new_scores: The same for new images, (M,).

    Returns:
        The share in percent, at most base accuracy times new accuracy.

    Raises:
        ValueError: If there are no pairs.

    Source: Hua et al. 2025 (OpenworldAUC, ICML 2025), whose scores come from a detector of its own.
    """
    import numpy as np

    if not len(base_right) or not len(new_right):
        raise ValueError(f"OpenworldAUC needs base and new images, got {len(base_right)} and {len(new_right)}.")
    new, base = np.sort(new_scores[new_right]), base_scores[base_right]
    wins = (np.searchsorted(new, base, "left") + np.searchsorted(new, base, "right")) / 2
    return 100 * float(wins.sum()) / (len(base_right) * len(new_right))


def _reliability(probabilities: "Tensor", correct: "Tensor") -> list[list[float]]:
    """Return mean confidence, accuracy and number of images of each non-empty bin."""
    confidence = probabilities.amax(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS)
    masks = [bins == number for number in range(1, BINS + 1)]
    return [[confidence[m].mean().item(), correct[m].double().mean().item(), int(m.sum())] for m in masks if m.any()]


def _check(logits: "Tensor", labels: "Tensor", classes: int) -> None:
    """Raise ValueError for wrong shapes, no image, or labels out of range."""
    if logits.ndim != 2 or logits.shape[1] != classes or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits must be (N, {classes}) and labels (N,), got {shapes}.")
    if len(labels) == 0:
        raise ValueError("Metrics need at least 1 image, got none.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"Labels must lie in 0..{classes - 1}, got {low}..{high}.")


def _distinct(names: Sequence[str]) -> list[str]:
    """Append the index to repeated names, so that all can be keys."""
    counts = Counter(names)
    return [f"{name} (#{i})" if counts[name] > 1 else name for i, name in enumerate(names)]
