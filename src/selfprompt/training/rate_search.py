"""Finds a learning rate for a recipe on other images and another backbone: short trials, judged by the training loss.

A published rate belongs to the backbone and the data of its paper. Prompts of a smaller CLIP hardly move at it, and
training ends where it began. A rate that learns the training images is better left alone: SEP overfits at higher ones,
which the training loss does not tell. The trials read the training images alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfprompt.inference.classifier import Classifier
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.folder_recipe import with_epochs
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.steps import RunData, build_classifier, train

FACTORS = (1, 3, 10, 30, 100)
"""Rates to try, as multiples of the recipe's, rising."""
SHARE = 10
"""A trial has one of so many parts of the epochs, or more for the least number of steps."""
LEAST_STEPS = 20
"""Least number of optimiser steps in a trial; shorter ones tell rates apart by chance."""
CLOSE = 1.1
"""A loss of at most so many times the lowest counts as equal to it; then the lower rate is safer."""


@dataclass(frozen=True)
class Trial:
    """A learning rate and the mean training loss of the last epoch of its trial."""

    lr: float
    loss: float


def search_rate(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, reporter: Reporter
) -> tuple[Recipe, list[Trial]]:
    """Return the recipe with the rate that ``best_rate`` takes, and the trials.

    The recipe stays as it is, without trials, if its method is not trained in epochs, if a trial would be longer than
    half of the training, or with several processes. All trials together take half as long as the training, or longer
    if that is short (``search_cost``).

    Args:
        recipe: Already fitted to the images; its method is not ``auto``.
        backbone: The frozen backbone.
        data: The images; only the training images are used.
        fabric: A launched Fabric.
        reporter: Receives the progress.
    """
    epochs = _trial_epochs(recipe, len(data.dataset.train))
    too_short = 2 * epochs > recipe.train.epochs
    if fabric.world_size > 1 or too_short or not _has_epochs(_build(recipe, backbone, data, fabric)):
        return recipe, []
    with reporter.stage("trying learning rates") as progress:
        trials = []
        for trial in _trials(with_epochs(recipe, epochs), backbone, data, fabric):
            trials.append(trial)
            progress(len(trials), len(FACTORS))
    rate = best_rate(trials) if trials else recipe.train.lr
    reporter.message(
        f"learning rate {rate:.3g} (published: {recipe.train.lr:.3g}), by the training loss of short trials"
    )
    return recipe.changed({"lr": rate}), trials


def search_cost(recipe: Recipe, images: int) -> float:
    """Return the longest time of all trials, as a fraction of that of the training on so many images."""
    share = _trial_epochs(recipe, images) / recipe.train.epochs
    return 0.0 if share > 0.5 else len(FACTORS) * share


def _trial_epochs(recipe: Recipe, images: int) -> int:
    steps = math.ceil(images / recipe.train.batch_size)
    return max(recipe.train.epochs // SHARE, math.ceil(LEAST_STEPS / steps))


def best_rate(trials: Sequence[Trial]) -> float:
    """Return the lowest rate whose loss is close to the lowest loss, or the one before it at the edge of divergence.

    If the next higher rate is clearly worse, or diverged, a training that is ``SHARE`` times as long as a trial may
    diverge even at this rate; vit-lora on drawings did.

    Args:
        trials: Of the first ``FACTORS``, at least 1; fewer than all if the next rate diverged.
    """
    bound = CLOSE * min(trial.loss for trial in trials)
    best = next(number for number, trial in enumerate(trials) if trial.loss <= bound)
    higher = trials[best + 1 : best + 2]
    at_edge = higher[0].loss > bound if higher else len(trials) < len(FACTORS)
    return trials[max(0, best - at_edge)].lr


def _trials(recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any) -> Iterator[Trial]:
    """Try rising rates until the loss rises clearly or is not finite any more."""
    lowest = math.inf
    for factor in FACTORS:
        trial = recipe.changed({"lr": recipe.train.lr * factor})
        try:
            loss = _final_loss(trial, backbone, data, fabric)
        except RuntimeError:  # it diverged
            return
        yield Trial(trial.train.lr, loss)
        if loss > CLOSE * lowest:
            return
        lowest = min(lowest, loss)


def _final_loss(recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any) -> float:
    classifier = _build(recipe, backbone, data, fabric)
    result = train(classifier, data, recipe, fabric, None, LogReporter(), resume=False, progress=False)
    return math.inf if result is None else float(result.history[-1]["loss"])


def _build(recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any) -> Classifier:
    dataset = data.dataset
    return build_classifier(recipe, backbone, dataset.described_classes, fabric.device, check=not dataset.ids)


def _has_epochs(classifier: Classifier) -> bool:
    method = classifier.method
    return bool(method.trainable()) and not method.traits.closed_form
