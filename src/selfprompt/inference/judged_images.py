"""Predictions for labelled images one by one: which are wrong, and which were close."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

from selfprompt.data.dataset import Item
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.store import ImageStore
from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.metrics import Metrics
from selfprompt.utils.progress import Progress


@dataclass(frozen=True)
class JudgedImage:
    """A labelled image with its prediction.

    Attributes:
        item: The image.
        truth: Its class.
        top: The two most likely classes with their probabilities, best first.
        wrong: Whether the most likely class is another one.
    """

    item: Item
    truth: str
    top: tuple[tuple[str, float], ...]
    wrong: bool

    @property
    def margin(self) -> float:
        """Probability of the first class minus that of the second, in [0, 1]."""
        return self.top[0][1] - (self.top[1][1] if len(self.top) > 1 else 0.0)


def judge_images(
    classifier: Classifier,
    items: Sequence[Item],
    store: ImageStore,
    progress: Progress | None = None,
    features: FeatureStore | None = None,
) -> tuple[Metrics, list[JudgedImage]]:
    """Evaluate a classifier on labelled images, and keep the prediction of each.

    Args:
        classifier: The classifier.
        items: Images with its labels, at least one.
        store: Keeps decoded images.
        progress: Called with (done, total) images.
        features: Keeps frozen features of the images.
    """
    batches = classifier.batches(items, store, features)
    with classifier.computing():
        logits = compute_logits(classifier.method, batches, progress=progress)
    names = classifier.classes
    best = classifier.probabilities(logits).topk(min(2, len(names)))
    judged = []
    for item, shares, labels in zip(items, best.values.tolist(), best.indices.tolist(), strict=True):
        top = tuple((names[label], share) for label, share in zip(labels, shares, strict=True))
        judged.append(JudgedImage(item, names[item.label], top, labels[0] != item.label))
    return classifier.metrics(logits, batches.labels), judged


def most_wrong(judged: Sequence[JudgedImage], count: int) -> list[JudgedImage]:
    """Return the wrong predictions with the highest probability, the most confident first."""
    return nlargest(count, (one for one in judged if one.wrong), key=lambda one: one.top[0][1])


def least_sure(judged: Sequence[JudgedImage], count: int) -> list[JudgedImage]:
    """Return the images whose two most likely classes are nearest to each other, the closest first."""
    return nlargest(count, judged, key=lambda one: -one.margin)
