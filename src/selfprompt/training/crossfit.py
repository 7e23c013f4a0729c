"""Cross-fitting: the logits of every training image from a model that was trained without it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from selfprompt.data.dataset import Dataset, Source
from selfprompt.data.duplicates import find_duplicates
from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.methods.base import Method
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.reporter import LogReporter
from selfprompt.training.selection import stratified_folds
from selfprompt.training.steps import RunData, build_classifier, train, train_batches
from selfprompt.utils.progress import Progress

Split = Sequence[tuple[Tensor, Tensor]]
"""Indices of training and held-out images, for each fold."""


def make_splits(dataset: Dataset, *, folds: int, repeats: int, seed: int) -> list[Split]:
    """Return the folds of each repetition; copies of a picture stay in one fold.

    Raises:
        ValueError: If no class has two different images.
    """
    duplicates = find_duplicates(item.source for item in dataset.train)
    first: dict[Source, int] = {}
    groups = [first.setdefault(duplicates.get(item.source, item.source), len(first)) for item in dataset.train]
    labels = [item.label for item in dataset.train]
    repetitions = stratified_folds(labels, groups, folds=folds, repeats=repeats, seed=seed)
    return [[(torch.from_numpy(a), torch.from_numpy(b)) for a, b in split] for split in repetitions]


def needs_only_features(method: Method) -> bool:
    """Return whether a method is computed from features alone, without epochs."""
    return method.traits.inputs == "features" and (method.traits.closed_form or not method.trainable())


@torch.no_grad()
def known_features(classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any) -> KnownFeatures:
    """Return the features of the training images, with as many random views as the options of the method name."""
    method, count = classifier.method.eval(), getattr(classifier.method.options, "views", 0)
    batches = train_batches(classifier, data, recipe, fabric)
    plain = list(method.feature_views(batches.deterministic(), 0))  # batches whose features training keeps too
    labels = torch.cat([views.labels for views in plain])
    features = torch.cat([method.frozen_features(views) for views in plain])
    if not count or not batches.transform.random:
        return KnownFeatures(features, labels)
    rows = features.new_empty(count, *features.shape)
    for view in range(count):
        for views in method.feature_views(batches, view):
            rows[view, views.indices] = method.frozen_features(views)
    return KnownFeatures(features, labels, rows)


@torch.no_grad()
def cross_fit_features(
    method: Method, known: KnownFeatures, split: Split, seed: int, progress: Callable[[], None]
) -> Tensor:
    """Return the logits of images under a method that needs only features and no epochs, (N, C), on the CPU.

    Args:
        method: Prepared anew for each fold.
        known: The features of all images.
        split: The folds; an image in none of them gets NaN.
        seed: Seed of ``prepare``.
        progress: Called after each fold.
    """
    logits = torch.full((known.size, len(method.classes)), torch.nan)
    for training, held_out in split:
        method.prepare(known.subset(training), torch.Generator().manual_seed(seed))
        part = known.subset(held_out)
        logits[held_out] = method.eval().logits(Views(None, part.features, part.labels)).float().cpu()
        progress()
    return logits


def training_part(data: RunData, indices: Tensor) -> RunData:
    """Return the data with these training images alone, and no others."""
    items = tuple(data.dataset.train[i] for i in indices.tolist())
    return replace(data, dataset=replace(data.dataset, train=items, val=(), test=()))


def cross_fit_training(
    recipe: Recipe,
    backbone: Backbone,
    data: RunData,
    split: Split,
    fabric: Any,
    progress: Progress,
    go_on: Callable[[Tensor], bool] = lambda logits: True,
) -> Tensor:
    """Return the logits of images under a method that is trained, (N, C), on the CPU; a training for each fold.

    They are in units of ``spread_of`` the logits of the fold's own training images: that grows with the length of the
    training, and the model that the logits are to tell about may have been trained for longer.

    Args:
        recipe: How to train.
        backbone: The frozen backbone.
        data: The images; only the training images are used.
        split: The folds; an image in none of them gets NaN.
        fabric: A launched Fabric with one process.
        progress: Called with the number of trained folds, and of all folds.
        go_on: Gets the logits so far; False stops.
    """
    dataset, log = data.dataset, LogReporter()
    logits = torch.full((len(dataset.train), len(dataset.classes)), torch.nan)
    for done, (training, held_out) in enumerate(split):
        progress(done, len(split))
        images = training_part(data, training)
        classifier = build_classifier(recipe, backbone, dataset.described_classes, fabric.device, check=not dataset.ids)
        train(classifier, images, recipe, fabric, None, log, resume=False, progress=False)
        items = [dataset.train[i] for i in held_out.tolist()]
        found = compute_logits(classifier.method, classifier.batches(items, data.store, data.features))
        logits[held_out] = found / (training_spread(classifier, images, recipe, fabric) or 1.0)
        if not go_on(logits):
            break
    return logits


def training_spread(classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any) -> float:
    """Return ``spread_of`` the logits of the training images, seen as they are."""
    batches = train_batches(classifier, data, recipe, fabric).deterministic()  # whose features may be kept
    return spread_of(compute_logits(classifier.method, batches))


def spread_of(logits: Tensor) -> float:
    """Return the standard deviation over the classes, as the mean over the images."""
    return float(logits.std(dim=1, correction=0).mean())


def cross_fit(
    recipe: Recipe, backbone: Backbone, data: RunData, split: Split, fabric: Any, progress: Progress
) -> Tensor:
    """Return cross-fitted logits of the training images for any method, (N, C), NaN for an image in no fold.

    A method that needs only features takes seconds; any other is trained once for each fold.
    """
    dataset = data.dataset
    classifier = build_classifier(recipe, backbone, dataset.described_classes, fabric.device, check=not dataset.ids)
    if not needs_only_features(classifier.method):
        return cross_fit_training(recipe, backbone, data, split, fabric, progress)
    known = known_features(classifier, data, recipe, fabric)
    return cross_fit_features(classifier.method, known, split, recipe.seed, lambda: None)
