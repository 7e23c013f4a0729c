"""From images to predictions, whatever runs the model: reading ahead, batches, and what logits answer.

Knows numpy and PIL only, so that `selfprompt.runtime` gives the same answers as `Classifier` without torch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from selfprompt.data.loading.image_files import error_reason
from selfprompt.data.loading.image_inputs import read_image
from selfprompt.data.loading.image_remarks import remarks_on
from selfprompt.data.loading.memory_limit import DecodingLimit, Reserve
from selfprompt.data.loading.prefetch import batched, prefetch
from selfprompt.inference.calibration import Calibration, class_sets, is_unknown, log_softmax
from selfprompt.inference.inputs import image_name, iterate_images
from selfprompt.inference.predictions import UNKNOWN, Prediction, Request
from selfprompt.utils.progress import Progress

Pixels = TypeVar("Pixels")
"""The view of one image, as a model takes it."""


@dataclass(frozen=True)
class Model(Generic[Pixels]):
    """What answers need of a classifier.

    Attributes:
        classes: Names of the classes, C.
        view: Returns the pixels of an RGB image; called from several threads.
        logits: Returns the logits of the pixels of at least one image, (B, C).
        batch_size: Images per call of ``logits``.
        calibration: What probabilities and promises are based on; None for the softmax of the logits.
    """

    classes: Sequence[str]
    view: Callable[[Image.Image], Pixels]
    logits: Callable[[Sequence[Pixels]], np.ndarray]
    batch_size: int
    calibration: Calibration | None = None

    def remarks(self, request: Request) -> list[str]:
        """Return remarks on promises that the calibration keeps only trivially, because it has too few images.

        Raises:
            ValueError: If the request needs a calibration and there is none.
        """
        if not request.needs_calibration:
            return []
        if self.calibration is None:
            raise ValueError(
                "unknown and coverage need a calibrated classifier, and this one has no calibration. Train it again "
                "with this version; a method that takes epochs also needs --calibrate always, or validation images. "
                "Other class names than the trained ones have none."
            )
        return self.calibration.remarks(request.unknown, request.coverage)

    def stream(self, images: Any, request: Request, workers: int = 0) -> Iterator[list[Prediction]]:
        """Yield predictions in order, in lists of ``batch_size``; see ``Classifier.stream``."""
        return self.stream_groups([iterate_images(images)], request, workers)

    def stream_groups(
        self, groups: Iterable[Iterable[Any]], request: Request, workers: int = 0
    ) -> Iterator[list[Prediction]]:
        """Yield predictions like ``stream``, but begin a new batch with each group of images."""
        read = partial(read_view, self.view, DecodingLimit())
        batches = chain.from_iterable(batched(enumerate(group), self.batch_size) for group in groups)
        return (self.predict_batch(batch, request) for batch in prefetch(read, batches, workers))

    def predict_batch(self, batch: Sequence[tuple[Prediction, Pixels | None]], request: Request) -> list[Prediction]:
        """Return the predictions of a batch of images that `read_view` has read; unreadable ones keep their error."""
        pixels = [pixels for _, pixels in batch if pixels is not None]
        if not pixels:
            return [prediction for prediction, _ in batch]
        logits = iter(self.logits(pixels))
        return [one if one.error else self.answer(one, next(logits), request) for one, _ in batch]

    def answer(self, empty: Prediction, logits: np.ndarray, request: Request) -> Prediction:
        """Return a prediction with what the logits of its image, (C,), answer to a request."""
        if not np.isfinite(logits).all():
            return replace(empty, error="the model's scores for it are not finite numbers")
        count, calibration = request.top, self.calibration
        if calibration:
            if request.unknown is not None and is_unknown(logits[None], calibration, request.unknown):
                return replace(empty, label=UNKNOWN, unknown=True)
            if request.coverage is not None:
                count = int(class_sets(logits, calibration, request.coverage).sum())
        scores = np.exp(calibration.log_probabilities(logits) if calibration else log_softmax(logits))
        best = np.argsort(-scores, kind="stable")[:count]
        pairs = tuple((self.classes[index], float(scores[index])) for index in best)
        return replace(empty, label=pairs[0][0], score=pairs[0][1], top=pairs)


def read_view(
    view: Callable[[Image.Image], Pixels], decoding: DecodingLimit, numbered: tuple[int, Any]
) -> tuple[Prediction, Pixels | None]:
    """Return an empty prediction and the pixels of an image; one with an error, and None, if it cannot be read.

    Args:
        view: Returns the pixels of an RGB image.
        decoding: The memory that threads share while they decode.
        numbered: The image's number, which names it if it has no path, and the image.
    """
    number, image = numbered
    return open_view(view, decoding, image_name(image, number), partial(read_image, image))


def open_view(
    view: Callable[[Image.Image], Pixels],
    decoding: DecodingLimit,
    name: str,
    opener: Callable[[Reserve], Image.Image],
) -> tuple[Prediction, Pixels | None]:
    """Do the same for an image of this name that ``opener`` decodes."""
    empty = Prediction(name)
    try:
        with decoding.image() as reserve:
            opened = opener(reserve)
            return replace(empty, remarks=remarks_on(opened)), view(opened)
    except Exception as error:  # decoders, arrays, open files and views raise almost anything
        return replace(empty, error=error_reason(error)), None


def collect(
    images: Any, stream: Callable[[Any], Iterator[list[Prediction]]], progress: Progress | None = None
) -> list[Prediction]:
    """Return all predictions of a stream of images.

    Args:
        images: One image or many, as ``iterate_images`` takes them.
        stream: Returns the predictions of an iterable of images, in batches.
        progress: Called with (done, total) images; if the total is unknown, it equals done.
    """
    images = iterate_images(images)
    total = len(images) if isinstance(images, Sized) else 0
    predictions: list[Prediction] = []
    for batch in stream(images):
        predictions += batch
        if progress:
            progress(len(predictions), total or len(predictions))
    return predictions
