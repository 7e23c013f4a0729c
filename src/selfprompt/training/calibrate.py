"""Fits the calibration of a classifier to logits of images that its model was not trained on."""

import math
from typing import Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from selfprompt.inference.calibration import Calibration
from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.inference.schema import MAX_CALIBRATION
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.reporter import Reporter
from selfprompt.training.steps import RunData

RANGE = 7.0
"""The inverse temperature lies between exp(-RANGE) and exp(RANGE), in units of the spread of the logits."""

LEAST = 10
"""Fewest images that are worth a calibration."""


def calibrate(classifier: Classifier, data: RunData, recipe: Recipe, reporter: Reporter) -> Calibration | None:
    """Calibrate a trained classifier on the validation images; None without enough of these."""
    val = data.dataset.val
    if recipe.calibrate == "never" or len(val) < LEAST:
        return None
    with reporter.stage("calibrating") as progress:
        batches = classifier.batches(val, data.store, data.features)
        logits = compute_logits(classifier.method, batches, progress=progress)
    if not logits.isfinite().all():
        reporter.message("Not calibrated: the logits of some images are not finite numbers.")
        return None
    return fit_calibration(logits, batches.labels, "validation images")


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the cross-entropy of images.

    Logits that are right for every image would have a temperature of 0 and claim certainty, however few images there
    are. So one more image is counted, whose label is shared by all classes, in the manner of Platt's corrected targets.

    Args:
        logits: Logits of images that the model was not trained on, (N, C), N at least 1.
        labels: Their classes, (N,).

    Source: Guo et al. 2017 (arXiv 1706.04599), section 4.2; Platt 1999, section 2.2, for the correction.
    """
    logits = logits.double() - logits.double().mean(dim=1, keepdim=True)
    spread = float(logits.std(correction=0))
    if spread == 0:
        return 1.0
    logits = logits / spread
    true = logits.gather(1, labels[:, None])[:, 0]
    count = len(labels)

    def slope(log_inverse: float) -> float:
        """The derivative of the cross-entropy, which grows with the inverse temperature."""
        expected = ((math.exp(log_inverse) * logits).softmax(dim=1) * logits).sum(dim=1)
        return float((count * (expected - true).mean() + expected.mean()) / (count + 1))

    if slope(-RANGE) >= 0:  # no better than chance
        return spread * math.exp(RANGE)
    return spread * math.exp(-brentq(slope, -RANGE, RANGE))


def fit_calibration(
    logits: Tensor,
    labels: Tensor,
    source: Literal["cross-validation", "validation images"],
    *,
    temperature: float | None = None,
) -> Calibration:
    """Return the calibration from images that the model was not trained on.

    Of more than ``MAX_CALIBRATION`` images a random sample is kept, for which the promises hold as well.

    Args:
        logits: (N, C), N at least 1, finite.
        labels: (N,).
        source: Where the images are from.
        temperature: None fits it to these images.
    """
    temperature = fit_temperature(logits, labels) if temperature is None else temperature
    if len(labels) > MAX_CALIBRATION:
        drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:MAX_CALIBRATION]
        logits, labels = logits[drawn], labels[drawn]
    log_p = Calibration(temperature, (), ()).log_probabilities(logits)
    surprises = -log_p.gather(1, labels[:, None])[:, 0].clamp(max=0)
    largest = logits.double().amax(dim=1)
    return Calibration(
        temperature, tuple(largest.sort().values.tolist()), tuple(surprises.sort().values.tolist()), source
    )
