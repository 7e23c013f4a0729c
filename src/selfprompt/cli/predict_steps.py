"""Steps of ``selfprompt predict`` that are the same for the standard output and for a folder of shards."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.saved_classifier import load_saved_classifier, parse_classes
from selfprompt.inference.predictions import Prediction, Request
from selfprompt.utils.cores import cores

if TYPE_CHECKING:
    from selfprompt.data.loading.archived_images import Columns
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.inference.classifier import Classifier
    from selfprompt.inference.shards import Predict

MAX_READERS = 16
"""Largest default number of threads that read images."""


class PredictionCounter:
    """Counts predictions in a stream and reports images that cannot be read.

    Attributes:
        images: Number of images so far.
        unreadable: Number of them that cannot be read.
        remarks: Remarks on the others.
    """

    def __init__(self, output: Output, fail: bool, progress: Callable[[int], None]) -> None:
        from selfprompt.data.loading.image_remarks import RemarkCounter

        self.images = self.unreadable = 0
        self.remarks = RemarkCounter()
        self._output, self._fail, self._progress = output, fail, progress

    def follow(self, batches: Iterator[list[Prediction]]) -> Iterator[list[Prediction]]:
        """Yield the batches unchanged.

        Raises:
            ValueError: If an image cannot be read and the command stops at such images.
        """
        for batch in collect_remarks(batches, self.remarks):
            self.images += len(batch)
            bad = [prediction for prediction in batch if prediction.error]
            self.unreadable += len(bad)
            for prediction in bad:
                word = "cannot read" if self._fail else "skipped"
                self._output.message(f"{word} {prediction.image}: {prediction.error}")
            if bad and self._fail:
                raise ValueError(f"{len(bad)} of {self.images} images cannot be read.")
            yield batch
            self._progress(self.images)


def collect_remarks(batches: Iterator[list[Prediction]], remarks: "RemarkCounter") -> Iterator[list[Prediction]]:
    """Yield the batches unchanged and count the remarks on their images."""
    for batch in batches:
        for prediction in batch:
            remarks.add(prediction.image, prediction.remarks)
        yield batch


def load_classifier(options: Namespace, output: Output) -> "Classifier":
    """Load the classifier, with other class names if the options give some."""
    classifier = load_saved_classifier(options, output)
    classes = parse_classes(options.classes) if options.classes is not None else None
    classes = Path(options.class_names) if options.class_names is not None else classes
    if classes is not None:
        with output.stage("encoding the class texts"):
            classifier = classifier.with_classes(classes)
    output.note(classifier.method, classifier.batch_size)
    for remark in classifier.check_request(Request(options.top, options.unknown, options.coverage)):
        output.message(f"Note: {remark}")
    return classifier


def image_columns(options: Namespace) -> "Columns":
    """Return the columns of Parquet files."""
    from selfprompt.data.loading.archived_images import Columns

    return Columns(options.image_column, options.key_column)


def stream(options: Namespace, classifier: "Classifier") -> "Predict":
    """Return the function from groups of images to predictions that the options ask for."""
    request = {"top": options.top, "unknown": options.unknown, "coverage": options.coverage}
    return partial(classifier.stream_groups, **request, workers=reader_threads(options))


def reader_threads(options: Namespace) -> int:
    """Return the number of threads that read images in one process."""
    if options.workers is not None:
        return int(options.workers)
    processes = options.jobs if options.engine == "local" else 1
    result: int = min(MAX_READERS, max(1, cores() // processes))
    return result
