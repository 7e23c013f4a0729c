"""`review`: from labelled photos to a list of what is wrong with them, and what more of them would bring."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfprompt.data.dataset import Source
from selfprompt.data.duplicates import make_shortener
from selfprompt.inference.loading import pick_device
from selfprompt.metrics import wilson_interval
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.reviewing.copies import Copy, describe_copies, group_copies
from selfprompt.reviewing.cross_fit import Doubles, Indices, calibrated, cross_fit
from selfprompt.reviewing.learning_curve import ClassGain, CurvePoint, class_gains, learning_curve
from selfprompt.reviewing.photos import Photos, read_photos
from selfprompt.reviewing.problems import (
    Confusion,
    Outlier,
    WrongLabel,
    check_cleanlab,
    confusion_counts,
    find_confusions,
    find_outliers,
    find_wrong_labels,
)
from selfprompt.training.reporter import LogReporter, Reporter

FOLDS, REPEATS = 10, 3
IMAGE_COLUMNS = ("image", "label", "split", "problem", "suggestion", "score")
CLASS_COLUMNS = (
    "class",
    "images",
    "pictures judged",
    "accuracy",
    "gain of twice as many photos",
    "from",
    "to",
    "most confused with",
    "share confused",
)


@dataclass(frozen=True)
class Review:
    """The result of `review`.

    Attributes:
        photos: The images and their features.
        backbone: Name of the backbone.
        backbone_note: A remark on the backbone that every output must show; empty for a pretrained one.
        seed: Seed of every random choice.
        wrong_labels, copies, outliers, confusions: What was found, the most certain or harmful first.
        counts: Cross-fitted confusion matrix: true classes in rows, predicted ones in columns, (C, C).
        curve: Accuracy by photos a class.
        gains: What twice as many photos of a class would bring, the largest gain first.
    """

    photos: Photos
    backbone: str
    backbone_note: str
    seed: int
    wrong_labels: tuple[WrongLabel, ...]
    copies: tuple[Copy, ...]
    outliers: tuple[Outlier, ...]
    confusions: tuple[Confusion, ...]
    counts: Indices
    curve: tuple[CurvePoint, ...]
    gains: tuple[ClassGain, ...]

    @cached_property
    def _shorten(self) -> Callable[[Source], str]:
        return make_shortener(self.photos.dataset)

    def name(self, image: int) -> str:
        """Return the path of an image below the folder of all images."""
        return self._shorten(self.photos.items[image].source)

    def label(self, image: int) -> str:
        """Return the class name of an image."""
        return self.photos.classes[self.photos.items[image].label]

    @property
    def accuracy(self) -> tuple[float, tuple[float, float], int] | None:
        """Cross-fitted accuracy in percent, its 95 % interval and the number of images; None if none was scored."""
        total, correct = int(self.counts.sum()), int(np.trace(self.counts))
        return (100 * correct / total, wilson_interval(correct, total), total) if total else None

    def image_rows(self) -> list[list[object]]:
        """Return a row of ``IMAGE_COLUMNS`` for each problem of an image, and for each that cannot be read."""
        items, classes = self.photos.items, self.photos.classes
        found = [(one.image, "wrong label", classes[one.suggested], one.probability) for one in self.wrong_labels]
        found += [(one.image, one.kind, str(items[one.original].source), one.correlation) for one in self.copies]
        found += [(one.image, "outlier", "", one.distance) for one in self.outliers]
        rows: list[list[object]] = [
            [
                str(items[image].source),
                self.label(image),
                self.photos.splits[image],
                problem,
                suggestion,
                f"{score:.4f}",
            ]
            for image, problem, suggestion, score in found
        ]
        return rows + [[bad.path, "", "", "unreadable", bad.reason, ""] for bad in self.photos.bad]

    def class_rows(self) -> list[list[object]]:
        """Return a row of ``CLASS_COLUMNS`` for each class; numbers that cannot be estimated are empty."""
        images = np.bincount(self.photos.labels, minlength=len(self.photos.classes))
        gains = {gain.label: gain for gain in self.gains}
        partner: dict[int, tuple[int, float]] = {}
        for pair in self.confusions:
            partner.setdefault(pair.first, (pair.second, pair.share))
            partner.setdefault(pair.second, (pair.first, pair.share))
        rows: list[list[object]] = []
        for label, name in enumerate(self.photos.classes):
            judged = int(self.counts[label].sum())
            accuracy = f"{100 * self.counts[label, label] / judged:.1f}" if judged else ""
            gain = gains.get(label)
            estimate = ["", "", ""] if gain is None else [f"{value:.1f}" for value in (gain.gain, *gain.interval)]
            other, share = partner.get(label, (None, 0.0))
            confused = ["", ""] if other is None else [self.photos.classes[other], f"{share:.3f}"]
            rows.append([name, int(images[label]), judged, accuracy, *estimate, *confused])
        return rows


@torch.random.fork_rng(devices=[])  # layers draw their own initial values; the caller's random state stays
def review(
    data: Any,
    *,
    backbone: str | Backbone | None = None,
    class_names: str | Path | None = None,
    seed: int = 1,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Review:
    """Look for wrong labels, copies, outliers and confused classes, and estimate what more photos would bring.

    The backbone stays frozen, its features are computed once, and a head of linear discriminants is trained on them:
    every image is judged by heads that were trained without it and without its copies.

    Args:
        data: Whatever ``tune`` takes; the images of all splits are reviewed.
        backbone: A name (see ``list_backbones``) or a loaded backbone; None uses that of a recipe without one.
        class_names: File with class names; None uses those of the data.
        seed: Seed of every random choice, from 0.
        device: "cpu", "cuda", "cuda:NUMBER" or "mps"; "auto" uses a GPU if there is one.
        reporter: Receives the progress; None writes it to the log.

    Raises:
        ImportError: If cleanlab is not installed.
        ValueError: If an argument or the data are wrong, or fewer than two classes have readable training images.
    """
    check_cleanlab()
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    target, reporter = pick_device(device), reporter or LogReporter()
    model = backbone if isinstance(backbone, Backbone) else _load(backbone or Recipe.backbone, reporter)
    photos = read_photos(data, model, target, reporter, class_names=class_names)
    with reporter.stage("comparing images"):
        groups = group_copies(photos)
        copies, outliers = describe_copies(photos, groups), find_outliers(photos.features, groups)
    features, labels, classes = photos.features.astype(np.float64), photos.labels, len(photos.classes)
    scores, probabilities = judge_labels(features, labels, groups, classes, seed, reporter)
    counts = confusion_counts(scores, labels)
    curve, gains = _more_photos(features, labels, groups, classes, seed, reporter)
    return Review(
        photos,
        model.name,
        model.note,
        seed,
        tuple(find_wrong_labels(probabilities, labels)),
        tuple(copies),
        tuple(outliers),
        tuple(find_confusions(counts)),
        counts,
        tuple(curve),
        tuple(gains),
    )


def _load(name: str, reporter: Reporter) -> Backbone:
    with reporter.stage(f"loading {name}"):
        backbone = load_backbone(name, say=reporter.message)
    if backbone.note:
        reporter.message(backbone.note)
    return backbone


def judge_labels(
    features: Doubles, labels: Indices, groups: Indices, classes: int, seed: int, reporter: Reporter
) -> tuple[Doubles, Doubles]:
    """Return the cross-fitted scores and probabilities of all images, (N, C) each; NaN for those never held out."""
    with reporter.stage("judging labels") as progress:
        scores = cross_fit(
            features, labels, groups, classes, folds=FOLDS, repeats=REPEATS, seed=seed, progress=progress
        )
    judged = ~np.isnan(scores[:, 0])
    probabilities = scores.copy()
    if judged.any():
        probabilities[judged] = calibrated(scores[judged], labels[judged])
    return scores, probabilities


def _more_photos(
    features: Doubles, labels: Indices, groups: Indices, classes: int, seed: int, reporter: Reporter
) -> tuple[list[CurvePoint], list[ClassGain]]:
    """Return the learning curve and the gains of classes; of copies only the first image counts."""
    _, pictures = np.unique(groups, return_index=True)
    pictures = np.union1d(pictures, _only_images(labels, pictures))
    features, labels, groups = features[pictures], labels[pictures], groups[pictures]
    with reporter.stage("drawing the learning curve") as progress:
        curve = learning_curve(features, labels, groups, classes, seed=seed, progress=progress)
    with reporter.stage("estimating what more photos would bring") as progress:
        return curve, class_gains(features, labels, groups, classes, seed=seed, progress=progress)


def _only_images(labels: Indices, pictures: Indices) -> Indices:
    """Return the first image of each class all of whose images are copies of other classes' images."""
    missing = np.setdiff1d(labels, labels[pictures])
    return np.array([np.flatnonzero(labels == label)[0] for label in missing], dtype=np.int64)
