"""The floors of a result: zero-shot CLIP and ridge regression on the same frozen features and test images."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.inference.zero_shot import zero_shot_logits
from selfprompt.metrics import FLOORS, Metrics, compute_metrics, mcnemar
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.steps import RunData, build_classifier, train
from selfprompt.utils.progress import Progress

ZERO_SHOT, RIDGE = "zero_shot", "ridge"
LEAST_TRAINING_ACCURACY = 80.0
"""Percent of the training images, as they are; below it, training has not fitted them."""


def floor_logits(
    classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any, reporter: Reporter
) -> dict[str, Tensor]:
    """Return the logits of the test images under each floor, (N, C); none without test images.

    There is no zero-shot floor without a text tower or readable names, and no ridge regression where a class has no
    training images. The classifier's own method is not among the floors.
    """
    if not data.dataset.test:
        return {}
    floors = {}
    for name, compute in ((ZERO_SHOT, _zero_shot), (RIDGE, _ridge)):
        if classifier.method.name == FLOORS[name].split()[0] and name == RIDGE:
            continue
        try:
            with reporter.stage(f"{FLOORS[name]} on the test images") as progress:
                logits = compute(classifier, data, recipe, fabric, progress)
        except ValueError as error:  # the method itself may do without names, or without images of a class
            reporter.message(f"No {FLOORS[name]} accuracy: {error}")
            continue
        if logits is not None:
            floors[name] = logits
    return floors


def _zero_shot(classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any, progress: Progress) -> Tensor | None:
    batches = classifier.batches(data.dataset.test, data.store, data.features)
    return zero_shot_logits(classifier, batches, check=not data.dataset.ids, progress=progress)


@torch.random.fork_rng(devices=[])
def _ridge(classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any, progress: Progress) -> Tensor:
    plain = replace(recipe.train, augment="none", crop=None, flip=None)
    recipe = replace(recipe, method="ridge", options={}, train=plain)
    backbone = classifier.method.backbone
    ridge = build_classifier(recipe, backbone, data.dataset.described_classes, fabric.device, check=False)
    train(ridge, data, recipe, fabric, None, LogReporter(), resume=False, progress=False)
    return compute_logits(ridge.method, ridge.batches(data.dataset.test, data.store, data.features), progress=progress)


def comparison(
    classifier: Classifier, data: RunData, floors: Mapping[str, Tensor], tuned: Tensor | None, training: float | None
) -> dict[str, Any]:
    """Return the metrics of tuned model and floors, their paired tests, and warnings, as JSON values.

    Args:
        classifier: The trained classifier.
        data: The images of the run.
        floors: From ``floor_logits``.
        tuned: Logits of the trained classifier on the same test images, (N, C); None without any.
        training: Its accuracy on the training images as they are, in percent; None if nothing was trained.
    """
    result: dict[str, Any] = {"tuned": None, ZERO_SHOT: None, RIDGE: None, "against": {}}
    result |= {"training_accuracy": training}
    warnings = []
    if training is not None and training < LEAST_TRAINING_ACCURACY:
        warnings.append(
            f"Only {training:.1f} % of the training images are classified correctly after training, so it has not "
            "fitted them. Train longer (--epochs), or with a higher rate (--lr), or use --method auto."
        )
    if tuned is not None:
        labels = torch.tensor([item.label for item in data.dataset.test])
        measured = {name: compute_metrics(logits, labels, classifier.classes) for name, logits in floors.items()}
        metrics = classifier.metrics(tuned, labels)
        result |= {"tuned": metrics.to_json(), **{name: floor.to_json() for name, floor in measured.items()}}
        hits = tuned.argmax(dim=1) == labels
        for name, logits in floors.items():
            against = mcnemar(hits, logits.argmax(dim=1) == labels)
            result["against"][name] = against.to_json()
            if metrics.accuracy < measured[name].accuracy:
                warnings.append(_below(classifier.method.name, name, metrics, measured[name], against.p))
    return {**result, "warnings": warnings}


def _below(method: str, name: str, tuned: Metrics, floor: Metrics, p: float) -> str:
    """Say that the tuned model is below a floor."""
    chance = "may be chance" if p >= 0.05 else "is not chance"
    advice = {ZERO_SHOT: "zero-shot", RIDGE: "ridge"}[name]
    return (
        f"{method} is below {FLOORS[name]}: {tuned.accuracy:.1f} % against {floor.accuracy:.1f} % of the test images. "
        f"The difference {chance} (McNemar's test on the same images, p = {p:.2g}). Consider --method {advice}."
    )
