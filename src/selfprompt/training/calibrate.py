"""Fits the calibration of a classifier to logits of images that its model was not trained on."""

import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.inference.calibration import CROSS_VALIDATION, VALIDATION, Calibration, Source, log_softmax
from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.inference.record_checks import MAX_CALIBRATION
from selfprompt.methods.base import Method
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.crossfit import (
    Split,
    cross_fit_training,
    known_features,
    make_splits,
    needs_only_features,
    spread_of,
    training_spread,
)
from selfprompt.training.reporter import Reporter
from selfprompt.training.steps import RunData, build_classifier
from selfprompt.utils.progress import Progress

RANGE = 7.0
"""The inverse temperature lies between exp(-RANGE) and exp(RANGE), in units of the spread of the logits."""

LEAST = 10
"""Fewest images that are worth a calibration."""
FOLDS = 5


def calibrate(
    classifier: Classifier,
    data: RunData,
    recipe: Recipe,
    fabric: Any,
    reporter: Reporter,
    logits: Tensor | None = None,
) -> Calibration | None:
    """Calibrate a trained classifier, on training images by cross-validation or on validation images.

    A method that needs only features is cross-validated, which takes seconds. Any other one is if its cross-validated
    logits are known, or with the option ``calibrate: always``, which trains it five times more. Otherwise the
    validation images serve.

    Args:
        classifier: The trained classifier.
        data: Its images.
        recipe: How it was trained.
        fabric: A launched Fabric.
        reporter: Receives a stage, and the reason if there is no calibration.
        logits: Cross-fitted logits of the training images, (N, C), NaN for an image in no fold, of a method that is
            trained in the units of ``cross_fit_training``; None if not known.

    Returns:
        The calibration; None if the recipe wants none or there are too few images.
    """
    if recipe.calibrate == "never":
        return None
    dataset = data.dataset
    cross_fitted = _cross_fitting(classifier, data, recipe, fabric, logits)
    if cross_fitted is None and len(dataset.val) < LEAST:
        return None
    with reporter.stage("calibrating") as progress:
        if cross_fitted is not None:
            found, items, source = cross_fitted(progress), dataset.train, CROSS_VALIDATION
        else:
            batches = classifier.batches(dataset.val, data.store, data.features)
            found, items, source = (
                compute_logits(classifier.method, batches, progress=progress),
                dataset.val,
                VALIDATION,
            )
    kept, labels = found.isfinite().all(dim=1), torch.tensor([item.label for item in items])
    if int(kept.sum()) < LEAST:
        reporter.message(f"Not calibrated: that takes {LEAST} images, and there are {int(kept.sum())}.")
        return None
    return fit_calibration(found[kept], labels[kept], source)


def _cross_fitting(
    classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any, logits: Tensor | None
) -> Callable[[Progress], Tensor] | None:
    """Return the function that gives cross-fitted logits, (N, C), NaN for an image in no fold; None if it is costly."""
    cheap = needs_only_features(classifier.method)
    if not cheap and logits is not None:
        return lambda progress: logits * training_spread(classifier, data, recipe, fabric)
    if fabric.world_size > 1 or not (cheap or recipe.calibrate == "always"):
        return None
    try:
        (split,) = make_splits(data.dataset, folds=FOLDS, repeats=1, seed=recipe.seed)
    except ValueError:  # one image a class
        return None
    backbone = classifier.method.backbone

    def train_folds(progress: Progress) -> Tensor:
        found = cross_fit_training(recipe, backbone, data, split, fabric, progress)
        return found * training_spread(classifier, data, recipe, fabric)

    if not cheap:
        return train_folds
    classes, check = data.dataset.described_classes, not data.dataset.ids
    other = build_classifier(recipe, backbone, classes, fabric.device, check=check).method

    def cross_fit(progress: Progress) -> Tensor:
        known = known_features(classifier, data, recipe, fabric)
        return logits_in_scale(classifier.method, other, known, split, recipe.seed, progress)

    return cross_fit


@torch.no_grad()
def logits_in_scale(
    final: Method, method: Method, known: KnownFeatures, split: Split, seed: int, progress: Progress
) -> Tensor:
    """Return cross-fitted logits in the scale of the final model, (N, C), NaN for an image in no fold.

    The scale of the logits may depend on the number of training images, and on options that are chosen on them: one
    fold may choose a weight ten times that of another. Then the logits of a fold say little about those of the final
    model. So they are multiplied by the spread of the final model's logits over that of the fold's, each on its own
    training images.

    Args:
        final: The trained method.
        method: Another one with the same options, prepared anew for each fold.
        known: The features of all training images.
        split: The folds.
        seed: Seed of ``prepare``.
        progress: Called with the number of folds done, and of all folds.
    """
    logits = torch.full((known.size, len(method.classes)), torch.nan)
    target = spread_of(_logits(final, known))
    for done, (training, held_out) in enumerate(split):
        part = known.subset(training)
        method.prepare(part, torch.Generator().manual_seed(seed))
        own = spread_of(_logits(method, part))
        scale = target / own if target > 0 and own > 0 else 1.0
        logits[held_out] = scale * _logits(method, known.subset(held_out))
        progress(done + 1, len(split))
    return logits


def _logits(method: Method, known: KnownFeatures) -> Tensor:
    """Return the logits of evaluation views, (N, C), on the CPU."""
    return method.eval().logits(Views(None, known.features, known.labels)).float().cpu()


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
    source: Source,
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
    log_p = torch.from_numpy(log_softmax(logits, temperature))
    surprises = -log_p.gather(1, labels[:, None])[:, 0].clamp(max=0)
    return Calibration(
        temperature,
        tuple(logits.double().amax(dim=1).tolist()),
        tuple(log_p.exp().amax(dim=1).clamp(max=1).tolist()),
        tuple(surprises.sort().values.tolist()),
        source,
    )
