"""``auto``: chooses the method for a data set by cross-validation on its training images alone."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfprompt.data.dataset import Dataset, Source
from selfprompt.data.duplicates import find_duplicates
from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import find_method, make_options
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.options import AutoOptions, parse_seconds
from selfprompt.recipes.recipe import AUTO, FREE_WITH_AUTO, SUFFIXES, Recipe, load_recipe
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.selection import (
    Shares,
    corrected_estimate,
    simplest_of_the_best,
    standard_error,
    stratified_folds,
)
from selfprompt.training.steps import RunData, build_classifier, train, train_batches
from selfprompt.utils.files import write_json
from selfprompt.utils.json_files import read_json
from selfprompt.utils.progress import Progress
from selfprompt.utils.validation import check_types

SELECTION = "selection.json"
WITH_TEXT = ("zero-shot", "simpleshot", "ridge", "logistic", "ss-text", "gda", "clap", "sep")
WITHOUT_TEXT = ("simpleshot", "ridge", "logistic", "spt-deep")
ONE_SHOT = ("sep", "simpleshot")
"""The methods for data that cannot be cross-validated: with a text tower, and without."""
STEPS = 300
"""Least number of training steps of a candidate; published numbers of epochs are for larger data sets."""
Splits = Sequence[Sequence[tuple[Tensor, Tensor]]]
"""Indices of training and held-out images, for each fold of each repetition."""


@dataclass(frozen=True)
class Result:
    """The cross-validation of one candidate.

    Attributes:
        name: A method or recipe.
        seconds: Time that it took.
        shares: For each image, the share of repetitions that classified it correctly; None if it was skipped.
        note: Why it was skipped.
    """

    name: str
    seconds: float
    shares: list[float] | None = None
    note: str = ""


def check_options(recipe: Recipe) -> None:
    """Raise ValueError if the recipe has wrong options for its method; loads nothing."""
    if recipe.method == AUTO:
        auto_options(recipe)
    else:
        make_options(find_method(recipe.method), recipe.options)


def auto_options(recipe: Recipe) -> AutoOptions:
    """Return the options of ``auto``; the candidates must be known."""
    check_types(AutoOptions, recipe.options)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.options.items()}
    options = AutoOptions(**values)
    for name in options.candidates:
        if name == AUTO:
            raise ValueError("auto cannot be a candidate of itself.")
        if ":" in name or name.endswith(SUFFIXES):  # a recipe file from elsewhere must not import code by this way
            raise ValueError(f"candidates must be methods or recipes of the package, got {name!r}.")
        load_recipe(name)
    return options


def resolve_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe with ``auto`` replaced by the chosen method, and the record of the choice."""
    if recipe.method != AUTO:
        return recipe, {}
    recipe, selection = select_recipe(recipe, backbone, data, fabric, folder, reporter)
    return recipe, {"selection": selection}


def select_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> tuple[Recipe, dict[str, Any]]:
    """Compare candidates by cross-validation, and choose the simplest one within one standard error of the best.

    Args:
        recipe: Its method is ``auto``; its data options and seed hold for every candidate.
        backbone: The frozen backbone.
        data: The images; only the training images are used.
        fabric: A launched Fabric with one process.
        folder: Folder for selection.json, which a resumed run reads; None writes nothing.
        reporter: Receives one message per candidate.

    Returns:
        The recipe to train on all training images, and the record of the comparison as JSON values.

    Raises:
        ValueError: With several processes.
    """
    if fabric.world_size > 1:
        raise ValueError("auto compares candidates on one device; use --devices 1, or name a method.")
    options, dataset = auto_options(recipe), data.dataset
    names = options.candidates or (WITH_TEXT if backbone.text is not None else WITHOUT_TEXT)
    plans = [candidate_recipe(recipe, name, len(dataset.train)) for name in names]
    try:
        splits = _splits(dataset, options, recipe.seed)
    except ValueError as error:
        name = options.candidates[0] if options.candidates else ONE_SHOT[backbone.text is None]
        reporter.message(f"{error} Nothing can be compared, so the method is {name}.")
        return candidate_recipe(recipe, name, len(dataset.train)), {"chosen": name, "candidates": []}
    trial = _Trial(backbone, data, splits, fabric)
    path, identity = (folder and folder / SELECTION), _identity(recipe, names, backbone, dataset)
    done = {result.name: result for result in _read(path, identity)}
    start = time.monotonic()
    results: list[Result] = []
    for name, plan in zip(names, plans, strict=True):
        spent = sum(result.seconds for result in results)
        result = done.get(name) or trial.run(name, plan, parse_seconds(options.budget) - spent, reporter)
        results.append(result)
        if path:
            write_json(path, {"identity": identity, "candidates": [asdict(r) for r in results]})
    compared = [result for result in results if result.shares is not None]
    if not compared:
        raise ValueError(f"No candidate fits into the budget of {options.budget}; give more time, or name a method.")
    shares = np.array([result.shares for result in compared])
    chosen = compared[simplest_of_the_best(shares)].name
    estimate = corrected_estimate(shares, seed=recipe.seed)
    reporter.message(f"chose {chosen} of {len(compared)} candidates in {time.monotonic() - start:.0f} s")
    record = {"chosen": chosen, "candidates": _rows(results), "estimate": asdict(estimate)}
    return plans[list(names).index(chosen)], record


def candidate_recipe(base: Recipe, name: str, images: int) -> Recipe:
    """Return the recipe of a candidate for so many training images.

    A batch has at most a quarter of the images, training has at least 300 steps, and each image is seen as it is:
    random crops and mirror images are right for photographs of objects, but not for digits or text.
    """
    found = load_recipe(name)
    batch = max(1, min(found.train.batch_size, images // 4))
    steps = math.ceil(images / batch)
    training = replace(
        found.train,
        batch_size=batch,
        epochs=max(found.train.epochs, math.ceil(STEPS / steps)),
        augment="none",
        drop_last=False,
        **{name: getattr(base.train, name) for name in FREE_WITH_AUTO},
    )
    return replace(
        found,
        backbone=base.backbone,
        statistics=base.statistics,
        seed=base.seed,
        eval_batch_size=base.eval_batch_size,
        calibrate=base.calibrate,
        data=base.data,
        train=training,
    )


@dataclass(frozen=True)
class _Trial:
    """Runs candidates on the same splits of the training images."""

    backbone: Backbone
    data: RunData
    splits: Splits
    fabric: Any

    def run(self, name: str, recipe: Recipe, budget: float, reporter: Reporter) -> Result:
        """Cross-validate one candidate; it is skipped if it would take longer than the budget, in seconds."""
        start = time.monotonic()
        classifier = build_classifier(
            recipe,
            self.backbone,
            self.data.dataset.described_classes,
            self.fabric.device,
            check=not self.data.dataset.ids,
        )
        method = classifier.method
        with reporter.stage(f"comparing: {name}") as progress:
            if method.traits.inputs == "features" and (method.traits.closed_form or not method.trainable()):
                batches = classifier.batches(self.data.dataset.train, self.data.store, self.data.features)
                views = list(method.eval().feature_views(batches, 0))
                features = torch.cat([method.frozen_features(view) for view in views])
                known = KnownFeatures(features, torch.cat([view.labels for view in views]))
                shares: Shares | None = cross_validate(method, known, self.splits, recipe.seed, progress)
            else:
                expected = len(self.splits[0]) * self._training_seconds(classifier, recipe)
                shares = self._trained(recipe, progress) if expected <= budget else None
        spent = time.monotonic() - start
        if shares is None:
            note = f"would exceed the {max(0.0, budget):.0f} s left"
            reporter.message(f"  {name}: skipped, it {note}")
            return Result(name, spent, None, note)
        accuracy, error = 100 * np.nanmean(shares), 100 * standard_error(shares[~np.isnan(shares)])
        reporter.message(f"  {name}: {accuracy:.1f} % (standard error {error:.1f}), {spent:.0f} s")
        return Result(name, spent, shares[~np.isnan(shares)].tolist())

    def _training_seconds(self, classifier: Classifier, recipe: Recipe) -> float:
        """Estimate the time of one training from its second step; the first one is slower."""
        method, batches = classifier.method.train(), train_batches(classifier, self.data, recipe, self.fabric)
        views = next(method.views(batches, 0))
        for _ in range(2):
            start = time.monotonic()
            method.loss(views).backward()
            step = time.monotonic() - start
        return step * len(batches) * recipe.train.epochs

    def _trained(self, recipe: Recipe, progress: Progress) -> Shares:
        """Cross-validate a method that is trained, over the first repetition."""
        dataset, split = self.data.dataset, self.splits[0]
        hits = torch.full((len(dataset.train),), torch.nan)
        for done, (training, held_out) in enumerate(split):
            part = replace(dataset, train=tuple(dataset.train[i] for i in training.tolist()), val=(), test=())
            classifier = build_classifier(
                recipe, self.backbone, dataset.described_classes, self.fabric.device, check=not dataset.ids
            )
            data = replace(self.data, dataset=part)
            train(classifier, data, recipe, self.fabric, None, LogReporter(), resume=False, progress=False)
            items = [dataset.train[i] for i in held_out.tolist()]
            hits[held_out] = _hits(classifier.method, classifier.batches(items, self.data.store, self.data.features))
            progress(done + 1, len(split))
        return np.asarray(hits.double().numpy())


@torch.no_grad()
def cross_validate(method: Method, known: KnownFeatures, splits: Splits, seed: int, progress: Progress) -> Shares:
    """Cross-validate a method that needs only features and no epochs.

    Args:
        method: Prepared anew for each fold.
        known: The features of all images.
        splits: The folds of each repetition.
        seed: Seed of ``prepare``.
        progress: Called with (folds done, folds in all).

    Returns:
        For each image, the share of repetitions that classified it correctly, (N,); NaN if it was in no fold.
    """
    done, total = 0, sum(map(len, splits))
    hits = torch.full((len(splits), known.size), torch.nan)
    for repeat, split in enumerate(splits):
        for training, held_out in split:
            method.prepare(known.subset(training), torch.Generator().manual_seed(seed))
            part = known.subset(held_out)
            scores = method.logits(Views(None, part.features, part.labels))
            hits[repeat, held_out] = (scores.argmax(dim=1) == part.labels).float().cpu()
            done += 1
            progress(done, total)
    return np.asarray(hits.double().mean(dim=0).numpy())


@torch.no_grad()
def _hits(method: Method, batches: Any) -> Tensor:
    """Whether each image is classified correctly, (N,), float32, on the CPU."""
    method.eval()
    parts = [(method.logits(views).argmax(dim=1) == views.labels).float().cpu() for views in method.views(batches, 0)]
    return torch.cat(parts)


def _splits(dataset: Dataset, options: AutoOptions, seed: int) -> Splits:
    """The folds of each repetition; copies of a picture stay together."""
    duplicates = find_duplicates(item.source for item in dataset.train)
    first: dict[Source, int] = {}
    groups = [first.setdefault(duplicates.get(item.source, item.source), len(first)) for item in dataset.train]
    labels = [item.label for item in dataset.train]
    repetitions = stratified_folds(labels, groups, folds=options.folds, repeats=options.repeats, seed=seed)
    return [[(torch.from_numpy(a), torch.from_numpy(b)) for a, b in split] for split in repetitions]


def _identity(recipe: Recipe, names: Sequence[str], backbone: Backbone, dataset: Dataset) -> str:
    """A hash of everything that the comparison depends on."""
    facts: list[Any] = [recipe.to_yaml(), list(names), backbone.fingerprint, list(dataset.classes)]
    facts += [asdict(one) for one in dataset.descriptions]
    items = [(str(item.source), item.label) for item in dataset.train]
    return hashlib.sha256(json.dumps([facts, items]).encode()).hexdigest()


def _read(path: Path | None, identity: str) -> list[Result]:
    """The finished candidates of an interrupted comparison; none if there was none, or one of other data or options."""
    if path is None or not path.exists():
        return []
    record = read_json(path, advice="Delete it to compare the candidates again.")
    if not isinstance(record, dict) or record.get("identity") != identity:
        return []
    try:
        return [Result(**row) for row in record["candidates"] if row["shares"] is not None]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Delete it to compare the candidates again.") from error


def _rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The table of the comparison as JSON values; accuracy and standard error in percent."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"name": result.name, "seconds": round(result.seconds, 1), "note": result.note}
        if result.shares is not None:
            shares = np.array(result.shares)
            row |= {"accuracy": 100 * float(shares.mean()), "standard_error": 100 * float(standard_error(shares))}
        rows.append(row)
    return rows
