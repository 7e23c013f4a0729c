"""Compares candidates by cross-validation on the training images, within a budget: what ``auto`` chooses from."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfprompt.data.known_features import KnownFeatures
from selfprompt.inference.classifier import Classifier
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.candidates import Candidate, for_comparison, with_resize, with_views
from selfprompt.training.crossfit import (
    Split,
    cross_fit_features,
    cross_fit_training,
    known_features,
    needs_only_features,
    training_part,
)
from selfprompt.training.folder_recipe import takes_views, with_epochs
from selfprompt.training.rate_search import search_cost, search_rate
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.selection import simplest_of_the_best, standard_error
from selfprompt.training.selection_results import Result, shares_of
from selfprompt.training.steps import RunData, build_classifier, train_batches
from selfprompt.utils.progress import Progress

LEAST_FOLDS = 2
"""Fewest folds for a candidate that is trained."""


@dataclass(frozen=True)
class _Outcome:
    """What the cross-validation of a candidate gave.

    Attributes:
        logits: Of each repetition, (R, N, C), NaN for an image in no fold.
        note: Why the candidate was not compared.
        lr: The learning rate that was searched for it; None if none was.
    """

    logits: Tensor | None = None
    note: str = ""
    lr: float | None = None


class Comparison:
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
            measure = self._trained if cost else self._from_features
            outcome = measure(classifier, candidate, left, progress)
        spent = time.monotonic() - start
        if outcome.logits is None:
            self.reporter.message(f"  {candidate.name}: {outcome.note}")
            return Result(candidate.name, spent, cost, None, outcome.note)
        shares = self._hits(outcome.logits).mean(dim=0).numpy()
        accuracy, error = 100 * float(np.nanmean(shares)), 100 * float(standard_error(shares))
        self.reporter.message(f"  {candidate.name}: {accuracy:.1f} % (standard error {error:.1f}), {spent:.0f} s")
        known = [None if math.isnan(share) else share for share in shares.tolist()]
        return Result(candidate.name, spent, cost, known, "", outcome.lr, outcome.logits[0])

    def _from_features(self, classifier: Classifier, candidate: Candidate, left: float, progress: Progress) -> _Outcome:
        """Cross-validate a method of features; fewer repetitions if the budget ends, but at least one."""
        start, done, folds = time.monotonic(), 0, sum(map(len, self.splits))
        if left <= 0 and self.results:
            return _Outcome(note="skipped, no time is left")
        recipe = candidate.recipe
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
        return _Outcome(torch.stack(repetitions))

    def _trained(self, classifier: Classifier, candidate: Candidate, left: float, progress: Progress) -> _Outcome:
        """Cross-validate a method that is trained, over one repetition, unless it takes too long or is worse.

        The learning rate is searched once, on the training images of the first fold: it is one of a few values and
        hardly depends on single images.
        """
        with_text, images = self.backbone.text is not None, len(self.data.dataset.train)
        recipe = for_comparison(candidate.recipe, images, with_text=with_text)
        seconds, search = self._training_seconds(classifier, recipe), search_cost(recipe, images)
        split = self._folds_within(left / seconds - search)
        if not split:
            self.skipped[candidate.name] = expected = (LEAST_FOLDS + search) * seconds
            left = max(0.0, left)
            return _Outcome(note=f"skipped, it would take {expected:.0f} s of the {left:.0f} s left")
        share = len(split[0][0]) / images  # as many steps as for all images
        recipe = with_epochs(recipe, math.ceil(recipe.train.epochs / share))
        heads = [result for result in self.results if result.shares is not None and not result.cost]
        rival = max(heads, key=lambda result: np.mean(shares_of([result])), default=None)
        folds = 0

        def go_on(logits: Tensor) -> bool:
            nonlocal folds
            folds += 1
            return rival is None or folds == len(split) or not self._is_worse(logits, rival)

        first = training_part(self.data, split[0][0])
        recipe, trials = search_rate(recipe, self.backbone, first, self.fabric, LogReporter())
        logits = cross_fit_training(recipe, self.backbone, self.data, split, self.fabric, progress, go_on)
        if rival and folds < len(split):
            return _Outcome(note=f"stopped after {folds} of {len(split)} folds, it was behind {rival.name}")
        return _Outcome(logits[None], lr=recipe.train.lr if trials else None)

    def _folds_within(self, trainings: float) -> Split:
        """Return the first folds of the first repetition, as many as time allows; none if even two are too many.

        Two halves instead of two of five folds would test on all images, but leave less to train on.
        """
        count = int(min(trainings, len(self.splits[0])))
        return self.splits[0][:count] if count >= LEAST_FOLDS else []

    def _is_worse(self, logits: Tensor, rival: Result) -> bool:
        """Whether a candidate is behind another by more than a standard error, on the folds so far."""
        behind = (shares_of([rival]) - self._hits(logits[None]).numpy())[0]
        return bool(np.nanmean(behind) > standard_error(behind))

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

    def _hits(self, logits: Tensor) -> Tensor:
        """Whether each image in a fold is classified correctly, (R, M), float64; NaN if its logits are not known."""
        known = self._in_folds()
        labels = torch.tensor([item.label for item in self.data.dataset.train])[known]
        hits = (logits[:, known].argmax(dim=2) == labels).double()
        return hits.masked_fill(logits[:, known].isnan().any(dim=2), torch.nan)
