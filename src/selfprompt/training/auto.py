"""``auto``: chooses the method for a data set by cross-validation on its training images alone."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfprompt.data.known_features import KnownFeatures
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.checks import can_edit
from selfprompt.methods.registry import find_method, make_options
from selfprompt.methods.traits import Traits
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.options import AutoOptions
from selfprompt.recipes.recipe import AUTO, SUFFIXES, Recipe, load_recipe
from selfprompt.training.candidates import (
    ONE_SHOT,
    VIEWS,
    Candidate,
    default_names,
    for_all_images,
    for_comparison,
    make_candidate,
    with_resize,
    with_views,
)
from selfprompt.training.crossfit import (
    Split,
    cross_fit,
    cross_fit_features,
    cross_fit_training,
    known_features,
    make_splits,
    needs_only_features,
    training_part,
)
from selfprompt.training.folder_recipe import takes_views, with_epochs
from selfprompt.training.rate_search import search_cost, search_rate
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.selection import corrected_estimate, simplest_of_the_best, standard_error
from selfprompt.training.selection_results import (
    Result,
    comparison_identity,
    read_results,
    shares_of,
    table_rows,
    write_results,
)
from selfprompt.training.steps import RunData, build_classifier, train_batches
from selfprompt.utils.progress import Progress
from selfprompt.utils.validation import check_types
from selfprompt.utils.wording import listing

LEAST_FOLDS = 2
"""Fewest folds for a candidate that is trained."""


@dataclass(frozen=True)
class Choice:
    """What to train on all training images.

    Attributes:
        recipe: The recipe of the chosen candidate, or the given one.
        record: The record of the comparison as JSON values; empty if there was none.
        logits: Cross-fitted logits of the training images, (N, C), NaN for an image in no fold, of a method that is
            trained in the units of ``cross_fit_training``; None if not known.
        rate_known: Whether the recipe has a learning rate that was searched for these images.
    """

    recipe: Recipe
    record: dict[str, Any]
    logits: Tensor | None = None
    rate_known: bool = False


def check_options(recipe: Recipe) -> None:
    """Raise ValueError if the recipe has wrong options for its method; loads nothing."""
    if recipe.method == AUTO:
        auto_options(recipe)
    else:
        make_options(find_method(recipe.method), recipe.options)


def auto_options(recipe: Recipe) -> AutoOptions:
    """Return the options of ``auto``; the candidates and views must be known."""
    check_types(AutoOptions, recipe.options)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.options.items()}
    options = AutoOptions(**values)
    for name in options.candidates:
        if name == AUTO:
            raise ValueError("auto cannot be a candidate of itself.")
        if ":" in name or name.endswith(SUFFIXES):  # a recipe file from elsewhere must not import code by this way
            raise ValueError(f"candidates must be methods or recipes of the package, got {name!r}.")
        load_recipe(name)
    for name in options.views:
        if name not in VIEWS:
            raise ValueError(f"views must be of {', '.join(VIEWS)}; got {name!r}.")
    return options


def resolve_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> Choice:
    """Return the recipe with ``auto`` replaced by the chosen method."""
    if recipe.method != AUTO:
        return Choice(recipe, {})
    return select_recipe(recipe, backbone, data, fabric, folder, reporter)


def select_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> Choice:
    """Compare candidates by cross-validation, and choose the simplest one within one standard error of the best.

    First come the methods that need only features; then, for the best of these, another way to make a square of an
    image, and random views; then the methods that are trained, with the resizing and the views that were best.

    Args:
        recipe: Its method is ``auto``; its data options and seed hold for every candidate.
        backbone: The frozen backbone.
        data: The images; only the training images are used.
        fabric: A launched Fabric with one process.
        folder: Folder for the results so far, which a resumed run reads; None writes nothing.
        reporter: Receives one message per candidate.

    Raises:
        ValueError: With several processes, or if no candidate fits into the budget.
    """
    if fabric.world_size > 1:
        raise ValueError("auto compares candidates on one device; use --devices 1, or name a method.")
    options, with_text = auto_options(recipe), backbone.text is not None
    images = len(data.dataset.train)
    names = _candidate_names(options, backbone)
    try:
        splits = make_splits(data.dataset, folds=options.folds, repeats=options.repeats, seed=recipe.seed)
    except ValueError as error:
        name = options.candidates[0] if options.candidates else ONE_SHOT[not with_text]
        reporter.message(f"{error} Nothing can be compared, so the method is {name}.")
        return Choice(make_candidate(recipe, name, images).recipe, {"selection": {"chosen": name, "candidates": []}})
    start = time.monotonic()
    identity = comparison_identity(recipe, names, backbone, data.dataset)
    keep = partial(write_results, folder, identity)
    known = read_results(folder, identity)
    seconds = options.seconds(with_text=with_text)
    comparison = _Comparison(backbone, data, splits, fabric, seconds, reporter, known, keep)
    chosen = comparison.run([make_candidate(recipe, name, images) for name in names], options.views)
    results = comparison.results
    if chosen is None:
        raise ValueError(f"No candidate fits into the budget of {seconds:g} s; give more time, or name a method.")
    compared = [result for result in results if result.shares is not None]
    estimate = corrected_estimate(shares_of(compared), [r.cost for r in compared], seed=recipe.seed)
    reporter.message(f"chose {chosen.name} of {len(compared)} candidates in {time.monotonic() - start:.0f} s")
    if comparison.skipped:
        minutes = math.ceil((sum(r.seconds for r in results) + sum(comparison.skipped.values())) / 60)
        reporter.message(f"a budget of about {minutes}min compares {listing(list(comparison.skipped))} as well")
    record = {"chosen": chosen.name, "candidates": table_rows(results), "estimate": asdict(estimate)}
    best = next(result for result in compared if result.name == chosen.name)
    trained = chosen.recipe if best.lr is None else chosen.recipe.changed({"lr": best.lr})
    logits = best.logits
    if logits is None:  # the comparison was resumed
        with reporter.stage(f"cross-validating {chosen.name}") as progress:
            compared_recipe = for_comparison(trained, images, with_text=with_text)
            logits = cross_fit(compared_recipe, backbone, data, splits[0], fabric, progress)
    final = for_all_images(trained, images, with_text=with_text)
    return Choice(final, {"selection": record}, logits, rate_known=best.lr is not None)


def _candidate_names(options: AutoOptions, backbone: Backbone) -> Sequence[str]:
    """Return the names of the candidates, without those that edit an image side of which only features are known.

    Raises:
        ValueError: If none is left, or new class names are wanted and no candidate takes them.
    """
    names = options.candidates or default_names(backbone.text is not None)
    traits = {name: _traits_of(load_recipe(name)) for name in names}
    names = [name for name in names if can_edit(traits[name], backbone)]
    if not names:
        raise ValueError(
            f"Of {backbone.name} only the image features are known, and all candidates edit its image side; add a "
            "method that reads features, such as ridge."
        )
    if not options.new_classes:
        return names
    able = [name for name in names if traits[name].open_vocabulary]
    if backbone.text is None or not able:
        raise ValueError(
            f"new_classes needs a CLIP and a candidate that reads class names; {backbone.name} with "
            f"{', '.join(names)} has none."
        )
    return able


def _traits_of(recipe: Recipe) -> Traits:
    method = find_method(recipe.method)
    return method.traits_for(make_options(method, recipe.options))


class _Comparison:
    """Compares candidates on the same splits of the training images, within a budget in seconds."""

    def __init__(
        self,
        backbone: Backbone,
        data: RunData,
        splits: Sequence[Split],
        fabric: Any,
        budget: float,
        reporter: Reporter,
        known: Mapping[str, Result],
        keep: Callable[[Sequence[Result]], None],
    ) -> None:
        self.backbone, self.data, self.splits, self.fabric = backbone, data, splits, fabric
        self.budget, self.reporter, self.known, self.keep = budget, reporter, known, keep
        self.results: list[Result] = []
        self.skipped: dict[str, float] = {}
        """Seconds that candidates would have taken for which no time was left."""

    def run(self, candidates: Sequence[Candidate], views: Sequence[str]) -> Candidate | None:
        """Compare candidates, with views; return the chosen one, or None if none was compared."""
        built = [(candidate, self._build(candidate)) for candidate in candidates]
        heads = [candidate for candidate, classifier in built if needs_only_features(classifier.method)]
        trained = [candidate for candidate, classifier in built if not needs_only_features(classifier.method)]
        for candidate in heads:
            self._compare(candidate)
        resized = self._resized(heads)
        if resized and self._best([*heads, resized]) is resized:
            heads.append(resized)
            trained = [with_resize(candidate, str(resized.recipe.data.resize)) for candidate in trained]
        best = self._best([candidate for candidate in heads if takes_views(candidate.recipe)])
        seen = [with_views(best, name) for name in views] if best else []
        for candidate in seen:
            self._compare(candidate)
        winner = self._best([*([best] if best else []), *seen])
        if winner in seen:
            name = views[seen.index(winner)]
            trained = [with_views(candidate, name) for candidate in trained]
        for candidate in trained:
            self._compare(candidate)
        return self._best([*heads, *seen, *trained])

    def _resized(self, heads: Sequence[Candidate]) -> Candidate | None:
        """Compare the best head with images that are squashed, or cropped if the backbone squashes them itself.

        None if the user has set the resizing, or if all images are squares, which come out the same.
        """
        best, items = self._best(heads), self.data.dataset.train
        if best is None or best.recipe.data.resize != "backbone":
            return None
        if all(self.data.store.apply(lambda image: image.width == image.height, item) for item in items):
            return None
        other = with_resize(best, "crop" if self.backbone.preprocess.mode == "squash" else "squash")
        self._compare(other)
        return other

    def _best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Return the candidate that the rule chooses of those that were compared."""
        by_name = {candidate.name: candidate for candidate in candidates}
        compared = [r for r in self.results if r.shares is not None and r.name in by_name]
        if not compared:
            return None
        return by_name[compared[simplest_of_the_best(shares_of(compared), [r.cost for r in compared])].name]

    def _build(self, candidate: Candidate) -> Classifier:
        dataset = self.data.dataset
        return build_classifier(
            candidate.recipe, self.backbone, dataset.described_classes, self.fabric.device, check=not dataset.ids
        )

    def _compare(self, candidate: Candidate) -> None:
        """Cross-validate one candidate, or take its result from an interrupted run."""
        self.results.append(self.known.get(candidate.name) or self._measured(candidate))
        self.keep(self.results)

    def _measured(self, candidate: Candidate) -> Result:
        start, left = time.monotonic(), self.budget - sum(result.seconds for result in self.results)
        classifier = self._build(candidate)
        cost = int(not needs_only_features(classifier.method))
        with self.reporter.stage(f"comparing: {candidate.name}") as progress:
            lr = None
            if cost:
                logits, note, lr = self._trained(classifier, candidate, left, progress)
            else:
                logits, note = self._from_features(classifier, candidate.recipe, left, progress)
        spent = time.monotonic() - start
        if note:
            self.reporter.message(f"  {candidate.name}: {note}")
            return Result(candidate.name, spent, cost, None, note)
        shares = self._hits(logits).mean(dim=0)
        accuracy, error = 100 * float(shares.mean()), 100 * float(standard_error(shares.numpy()))
        message = f"  {candidate.name}: {accuracy:.1f} % (standard error {error:.1f}), {spent:.0f} s"
        self.reporter.message(message)
        return Result(candidate.name, spent, cost, shares.tolist(), "", lr, logits[0])

    def _from_features(
        self, classifier: Classifier, recipe: Recipe, left: float, progress: Progress
    ) -> tuple[Tensor, str]:
        """Cross-validate a method of features; fewer repetitions if the budget ends, but at least one."""
        start, done, folds = time.monotonic(), 0, sum(map(len, self.splits))
        if left <= 0 and self.results:
            return torch.empty(0), "skipped, no time is left"
        known: KnownFeatures = known_features(classifier, self.data, recipe, self.fabric)
        repetitions: list[Tensor] = []

        def count() -> None:
            nonlocal done
            done += 1
            progress(done, folds)

        for split in self.splits:
            repetitions.append(cross_fit_features(classifier.method, known, split, recipe.seed, count))
            if time.monotonic() - start > left:
                break
        return torch.stack(repetitions), ""

    def _trained(
        self, classifier: Classifier, candidate: Candidate, left: float, progress: Progress
    ) -> tuple[Tensor, str, float | None]:
        """Cross-validate a method that is trained, over one repetition, unless it takes too long or is worse.

        The learning rate is searched once, on the training images of the first fold: it is one of a few values and
        hardly depends on single images.
        """
        with_text, images = self.backbone.text is not None, len(self.data.dataset.train)
        recipe = for_comparison(candidate.recipe, images, with_text=with_text)
        seconds, search = self._training_seconds(classifier, recipe), search_cost(recipe, images)
        split = self._split_within(left / seconds - search, recipe.seed)
        if split is None:
            self.skipped[candidate.name] = expected = (LEAST_FOLDS + search) * seconds
            left = max(0.0, left)
            return torch.empty(0), f"skipped, it would take {expected:.0f} s of the {left:.0f} s left", None
        share = len(split[0][0]) / images  # as many steps as for all images
        recipe = with_epochs(recipe, math.ceil(recipe.train.epochs / share))
        heads = [result for result in self.results if result.shares is not None]
        rival = max(heads, key=lambda result: np.mean(result.shares or [0.0]), default=None)
        folds = 0

        def go_on(logits: Tensor) -> bool:
            nonlocal folds
            folds += 1
            return rival is None or folds == len(split) or not self._is_worse(logits, rival)

        first = training_part(self.data, split[0][0])
        recipe, trials = search_rate(recipe, self.backbone, first, self.fabric, LogReporter())
        logits = cross_fit_training(recipe, self.backbone, self.data, split, self.fabric, progress, go_on)
        if rival and folds < len(split):
            return logits, f"stopped after {folds} of {len(split)} folds, it was behind {rival.name}", None
        return logits[None], "", recipe.train.lr if trials else None

    def _split_within(self, trainings: float, seed: int) -> Split | None:
        """Return the folds of the first repetition, or fewer and larger ones if time allows only so many trainings.

        Fewer folds leave less to train on, which is to the trained candidate's disadvantage. None if even two folds are
        too many.
        """
        usual = self.splits[0]
        folds = next((count for count in (len(usual), 3, LEAST_FOLDS) if count <= min(trainings, len(usual))), None)
        if folds is None or folds == len(usual):
            return usual if folds else None
        return make_splits(self.data.dataset, folds=folds, repeats=1, seed=seed)[0]

    def _is_worse(self, logits: Tensor, rival: Result) -> bool:
        """Whether a candidate is behind another by more than a standard error, on the folds so far."""
        known = self._in_folds()
        hits = self._hits(logits[None], known)[0]
        done = ~logits[known].isnan().any(dim=1)
        behind = (torch.tensor(rival.shares, dtype=torch.float64) - hits)[done].numpy()
        return bool(behind.mean() > standard_error(behind))

    def _training_seconds(self, classifier: Classifier, recipe: Recipe) -> float:
        """Estimate the time of one training from its second step; the first one is slower."""
        method, batches = classifier.method.train(), train_batches(classifier, self.data, recipe, self.fabric)
        views = next(method.views(batches, 0))
        for _ in range(2):
            start = time.perf_counter()
            method.loss(views).backward()
            step = time.perf_counter() - start
        return step * math.ceil(batches.size / batches.batch_size) * recipe.train.epochs

    def _in_folds(self) -> Tensor:
        """Indices of the images that are in a fold; they are the same in every repetition."""
        return torch.cat([held_out for _, held_out in self.splits[0]]).sort().values

    def _hits(self, logits: Tensor, known: Tensor | None = None) -> Tensor:
        """Whether each image in a fold is classified correctly, (R, M), float64."""
        known = self._in_folds() if known is None else known
        labels = torch.tensor([item.label for item in self.data.dataset.train])[known]
        return (logits[:, known].argmax(dim=2) == labels).double()
