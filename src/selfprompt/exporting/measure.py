"""Compares an exported model with the classifier in torch, and measures its accuracy on labelled images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from selfprompt.data.dataset import Item
from selfprompt.data.loading.image_views import view_of
from selfprompt.data.loading.prefetch import batched, prefetch
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.inference.classifier import Classifier
from selfprompt.runtime.folder import Measured
from selfprompt.runtime.session import Session
from selfprompt.utils.progress import Progress

NOISE = (5, 1)
"""Images in the batches of noise that a model is always compared on: more than one, and one alone."""
ABSOLUTE, RELATIVE = 1e-4, 1e-5
"""How much a float32 model's logits may differ: operators sum in another order, in proportion to the largest logit."""


@dataclass(frozen=True)
class TestImages:
    """Labelled images that a classifier was not trained on.

    Attributes:
        items: The images, with labels of its classes, at least one.
        store: Keeps decoded images.
        name: What they are, for people.
    """

    __test__ = False  # not a class of tests

    items: Sequence[Item]
    store: ImageStore
    name: str


def largest_difference(classifier: Classifier, session: Session) -> float:
    """Return the largest difference of a logit on images of noise, at least 0; inf if logits are not finite."""
    size, generator = classifier.preprocess.size, np.random.default_rng(0)
    batches = [generator.integers(0, 256, (count, size, size, 3), np.uint8) for count in NOISE]
    pairs = [(torch_logits(classifier, pixels), session.logits(pixels)) for pixels in batches]
    return max(_difference(*pair) for pair in pairs)


def check_equal(classifier: Classifier, session: Session) -> None:
    """Raise RuntimeError unless a float32 model gives the logits of the classifier in torch, on images of noise."""
    size = classifier.preprocess.size
    largest = float(np.abs(torch_logits(classifier, np.full((1, size, size, 3), 128, np.uint8))).max())
    found, allowed = largest_difference(classifier, session), ABSOLUTE + RELATIVE * largest
    if not found <= allowed:
        raise RuntimeError(
            f"The exported model is not equal to the classifier: its logits differ by {found:.2g}, where {allowed:.2g} "
            "is allowed. Nothing was written. Please report it, with the versions of torch, onnxscript and onnxruntime."
        )


def measure(
    classifier: Classifier, session: Session, images: TestImages, progress: Progress | None = None
) -> tuple[float, Measured]:
    """Return the largest difference of a logit on images, and the accuracy of an exported model on them.

    Args:
        classifier: The classifier in torch.
        session: The exported model.
        images: The images.
        progress: Called with (done, total) images.
    """
    found, expected = [], []
    done = 0
    for pixels in pixel_batches(classifier, images):
        found.append(session.logits(pixels))
        expected.append(torch_logits(classifier, pixels))
        done += len(pixels)
        if progress:
            progress(done, len(images.items))
    logits, labels = np.concatenate(found), torch.tensor([item.label for item in images.items])
    metrics = classifier.metrics(torch.from_numpy(logits), labels)
    return _difference(np.concatenate(expected), logits), Measured(metrics.accuracy, metrics.interval, metrics.total)


def pixel_batches(classifier: Classifier, images: TestImages) -> Iterator[np.ndarray]:
    """Yield the bytes that a model reads, (B, S, S, 3), in batches of the classifier's size."""
    view = view_of(classifier.preprocess)
    read = partial(images.store.apply, lambda image: np.asarray(view(image)))
    return map(np.stack, prefetch(read, batched(images.items, classifier.batch_size), 0))


def torch_logits(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Return the logits of bytes of images, (B, S, S, 3), by the classifier in torch: (B, C), float32."""
    transform = eval_transform(classifier.preprocess)
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    result: np.ndarray = classifier.logits(transform.batch(list(images), classifier.device)).numpy()
    return result


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    difference = float(np.abs(expected.astype(np.float64) - found).max())
    return difference if np.isfinite(difference) else float("inf")
