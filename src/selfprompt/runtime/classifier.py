"""An exported classifier: predicts as `selfprompt.Classifier` does, without torch."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from selfprompt.data.loading.image_inputs import read_image
from selfprompt.data.loading.image_views import view_of
from selfprompt.inference.answers import Model, collect
from selfprompt.inference.predictions import Prediction, Request
from selfprompt.runtime.folder import PRECISIONS, ExportRecord, checked_file, read_export, read_vectors
from selfprompt.runtime.session import Session, open_session
from selfprompt.utils.cores import cores
from selfprompt.utils.progress import Progress
from selfprompt.utils.wording import plural, printable

logger = logging.getLogger(__name__)

MAX_BATCH = 32
"""Images per batch where their number does not change predictions; more are no faster."""
MAX_READERS = 16
"""Largest default number of threads that read images."""


@dataclass(frozen=True, repr=False)
class ExportedClassifier:
    """A classifier from the folder of `selfprompt export`.

    Attributes:
        record: What the folder says: classes, preprocessing, accuracies.
        precision: The precision of the model: "fp32", "fp16" or "int8".
        session: The model in onnxruntime.
    """

    record: ExportRecord
    precision: str
    session: Session

    def __repr__(self) -> str:
        record = self.record
        size = plural(len(self.classes), "class")
        return f"ExportedClassifier({record.method} on {record.backbone} in {self.precision}, {size})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.record.classes

    def pixels(self, image: Any) -> np.ndarray:
        """Return the bytes that the model reads, (S, S, 3), uint8, of an image of any kind that ``predict`` takes.

        Raises:
            ValueError: If the image cannot be read.
        """
        return self._view(read_image(image))

    def _view(self, image: Image.Image) -> np.ndarray:
        return np.asarray(view_of(self.record.preprocess)(image))

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits of pixels, (B, S, S, 3), uint8, to (B, C), float32."""
        if not len(pixels):
            return np.empty((0, len(self.classes)), np.float32)
        return self.session.logits(pixels)

    def predict(
        self,
        images: Any,
        *,
        top: int = 1,
        unknown: float | None = None,
        coverage: float | None = None,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Classify images.

        Args:
            images: One image: a path, a PIL image, an array (H, W, 3), the bytes of a file, or an open binary file. A
                folder, for all images below it. A batch, as array (N, H, W, 3). Or any iterable of images.
            top: Number of classes to return per image.
            unknown: Answer "unknown" for images unlike the trained classes, such that at most this share of images of
                these classes is refused, in (0, 1). None answers with a class for every image.
            coverage: Return a set of classes that contains the true one for this share of images, in (0, 1), instead of
                ``top`` classes. Unknown images have an empty set.
            workers: Threads that read images ahead of the model; None for one per core. They affect only the speed.
            progress: Called with (done, total) images; if the total is unknown, it equals done.

        Returns:
            One prediction per image, in order; unreadable images have an ``error``.

        Raises:
            ValueError: If an argument is out of range, a folder has no images, or ``unknown`` or ``coverage`` is given
                and the classifier is not calibrated.
        """
        stream = partial(self.stream, top=top, unknown=unknown, coverage=coverage, workers=workers)
        return collect(images, stream, progress)

    def stream(
        self,
        images: Any,
        *,
        top: int = 1,
        unknown: float | None = None,
        coverage: float | None = None,
        workers: int | None = None,
    ) -> Iterator[list[Prediction]]:
        """Classify any number of images in constant memory, batch by batch; arguments and errors as ``predict``."""
        request, model = Request(top, unknown, coverage), self.model()
        model.remarks(request)
        readers = min(MAX_READERS, cores()) if workers is None else workers
        if readers < 0:
            raise ValueError(f"workers must be at least 0, got {readers}.")
        return model.stream(images, request, readers)

    def model(self) -> Model[np.ndarray]:
        """Return what answers need of this classifier; a server uses its parts."""

        def logits(pixels: Sequence[np.ndarray]) -> np.ndarray:
            return self.logits(np.stack(pixels))

        record = self.record
        batch = min(record.batch_size, MAX_BATCH) if record.sample_wise else record.batch_size
        return Model(record.classes, self._view, logits, batch, record.calibration)


def load(
    folder: str | Path,
    *,
    precision: str | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
) -> ExportedClassifier:
    """Load an exported classifier. No code in the folder is run.

    Args:
        folder: A folder written by `selfprompt export`.
        precision: "fp32", "fp16" or "int8", if the folder has it; None for the first one.
        providers: Execution providers of onnxruntime in the order of preference, such as "CUDAExecutionProvider".
        threads: Threads of the model; 0 for all cores.

    Raises:
        ValueError: If the folder is not an export or is damaged, or has no model in this precision.
    """
    folder = Path(folder)
    record = read_export(folder)
    if remark := pillow_remark(record):
        logger.warning(remark)
    if precision is not None and precision not in record.precisions:
        known = ", ".join(record.precisions)
        wrong = "has no model in" if precision in PRECISIONS else "knows no precision"
        raise ValueError(f"{folder} {wrong} {precision}. It has: {known}.")
    chosen = next(name for name in record.precisions if precision in (None, name))
    stored = record.class_vectors
    vectors = None if stored is None else read_vectors(checked_file(folder, stored), len(record.classes))
    path = checked_file(folder, record.precisions[chosen].file)
    session = open_session(
        path,
        record.preprocess.size,
        classes=len(record.classes),
        vectors=vectors,
        providers=providers,
        threads=threads,
    )
    return ExportedClassifier(record, chosen, session)


def pillow_remark(record: ExportRecord) -> str:
    """Return a remark if this Pillow may resize otherwise than that of the export; "" if it does not."""
    made = str((record.versions or {}).get("pillow", ""))[:20]
    if not made or made.partition(".")[0] == PIL.__version__.partition(".")[0]:
        return ""
    return (
        f"Scores may differ in their last digits: this is Pillow {PIL.__version__}, and the export was made with "
        f"Pillow {printable(made)}. Versions resize tall images differently; requirements.txt has the one to install."
    )
