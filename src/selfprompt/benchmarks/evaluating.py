"""The evaluations of a trained cell: logits, metrics and hits of each part of its test images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from selfprompt.benchmarks.hits import Hits
from selfprompt.benchmarks.protocols import Evaluation
from selfprompt.benchmarks.supports import group_drawings
from selfprompt.data.dataset import Item
from selfprompt.data.loading.check_images import check_images
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.metrics import compute_metrics, openworld_auc
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.identity import image_identities
from selfprompt.training.reporter import Reporter
from selfprompt.training.steps import RunData

CONFUSION_UP_TO = 60
"""Largest number of classes for which a result keeps the confusion matrix."""
READ_BEFORE = ("base", "new", "union", "test", "source")
"""Evaluations whose images were read with the training images."""


@dataclass(frozen=True)
class PartLogits:
    """What a classifier says about the images of an evaluation.

    Attributes:
        classes: Class names.
        items: The images.
        logits: (N, C), float32; -inf where a class was never seen.
        labels: Class of each image, (N,).
    """

    classes: tuple[str, ...]
    items: tuple[Item, ...]
    logits: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Whether each image is classified correctly, (N,)."""
        return self.logits.argmax(dim=1) == self.labels

    def metrics(self) -> dict[str, Any]:
        """Return the metrics as JSON values."""
        metrics = compute_metrics(self.logits, self.labels, self.classes).to_json()
        if len(self.classes) > CONFUSION_UP_TO:
            del metrics["confusion"]
        return metrics

    def hits(self) -> dict[str, Any]:
        """Return which images are classified correctly, as JSON values."""
        labels, right = self.labels.tolist(), self.right.tolist()
        identities, groups = image_identities(self.items), group_drawings(self.items)
        return Hits.of(self.classes, identities, labels, groups, right).to_json()

    def first(self, count: int) -> "PartLogits":
        """Return the first images alone."""
        return replace(self, items=self.items[:count], logits=self.logits[:count], labels=self.labels[:count])

    def after(self, count: int) -> "PartLogits":
        """Return the images behind the first ones alone."""
        return replace(self, items=self.items[count:], logits=self.logits[count:], labels=self.labels[count:])


def compute_part(
    classifier: Classifier,
    evaluation: Evaluation,
    recipe: Recipe,
    data: RunData,
    reporter: Reporter,
    seen: Sequence[int] = (),
) -> PartLogits | None:
    """Compute the logits of one evaluation; None if the method has no scores for its classes or it has no images.

    Args:
        classifier: The trained classifier.
        evaluation: Images and classes.
        recipe: The recipe it was trained with.
        data: Stores of images and features.
        reporter: Receives the progress.
        seen: The evaluation's labels of the classes of a head that was trained on some of them only; empty for all.
    """
    method, among = adapt_method(classifier.method, evaluation, recipe.method), None
    if method is None and (evaluation.tuned_labels or seen):
        method, among = classifier.method, evaluation.tuned_labels or None
    with reporter.stage(f"evaluating: {evaluation.name}") as progress:
        items = evaluation.items
        if method is None or not items:
            return None
        if evaluation.name not in READ_BEFORE:
            items, _ = check_images(items, data.store, on_bad=recipe.data.on_bad_image)
        adapted = replace(classifier, method=method)
        logits, labels = adapted.item_logits(items, data.store, data.features, progress=progress)
    if among is not None:
        logits = logits[:, list(among)]
    if seen:
        logits = spread_over_classes(logits, seen, len(evaluation.classes))
    return PartLogits(evaluation.classes, items, logits, labels)


def spread_over_classes(logits: Tensor, seen: Sequence[int], classes: int) -> Tensor:
    """Return logits of all classes, (N, C), from those of the classes seen in training; the others get -inf."""
    result = logits.new_full((len(logits), classes), -torch.inf)
    result[:, list(seen)] = logits
    return result


def strict_record(parts: Mapping[str, PartLogits | None]) -> dict[str, Any]:
    """Return what a strict cell records besides metrics: the hits, and OpenworldAUC if there are base and new classes.

    An image's score for being of a base class is the sum of the softmax over the base names among all names.
    """
    hits = {name: part.hits() for name, part in parts.items() if part}
    record: dict[str, Any] = {"hits": hits, "openworld_auc": None}
    base, new, union = (parts.get(name) for name in ("base", "new", "union"))
    if base and new and union:
        scores = union.logits.double().softmax(dim=1)[:, : len(base.classes)].sum(dim=1).numpy()
        count = len(base.labels)
        right = base.right.numpy(), new.right.numpy()
        record["openworld_auc"] = openworld_auc(*right, scores[:count], scores[count:])
    return record


def with_halves(parts: Mapping[str, PartLogits | None]) -> dict[str, PartLogits | None]:
    """Return the evaluations, and those of the base and the new images among all classes if there is a union."""
    base, union = parts.get("base"), parts.get("union")
    if not (base and union):
        return dict(parts)
    count = len(base.labels)
    return {**parts, "union-base": union.first(count), "union-new": union.after(count)}


def is_restricted(method: Method, evaluation: Evaluation) -> bool:
    """Return whether an evaluation chooses among only some of the classes that the method has scores for."""
    return not method.traits.open_vocabulary and len(evaluation.tuned_labels) not in (0, len(method.classes))


def adapt_method(method: Method, evaluation: Evaluation, name: str) -> Method | None:
    """Return the tuned method for an evaluation's classes and texts; None if it cannot take other class names."""
    options = {**asdict(method.options), **evaluation.texts}
    same_texts = options == asdict(method.options)
    if evaluation.classes == method.classes and same_texts:
        return method
    if not method.traits.open_vocabulary:
        return None
    classes = evaluation.descriptions or evaluation.classes
    if same_texts:
        return method.with_classes(classes, check=False)
    adapted = build_method(name, method.backbone, classes, check=False, **options)
    adapted.to(next(method.vision.parameters()).device)
    adapted.load_adapter_state_dict(method.adapter_state_dict())
    return adapted
