"""Steps of ``selfprompt predict`` that both of its forms share: to the standard output, and to a folder in parts."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from selfprompt.cli.console import Output
from selfprompt.cli.usage import usage
from selfprompt.inference.predictions import Prediction
from selfprompt.utils.cores import cores

if TYPE_CHECKING:
    from selfprompt.data.loading.image_remarks import RemarkCounter
    from selfprompt.inference.classifier import Classifier

MAX_READERS = 16
"""Threads that read images, at most, unless more are asked for."""


class PredictionCounter:
    """PredictionCounter predictions as they pass by and says which images cannot be read.

    Attributes:
        done: Images so far.
        bad: Those of them that cannot be read.
        odd: What is odd about the others.
    """

    def __init__(self, output: Output, fail: bool, progress: Callable[[int], None]) -> None:
        from selfprompt.data.loading.image_remarks import RemarkCounter

        self.done = self.bad = 0
        self.odd = RemarkCounter()
        self._output, self._fail, self._progress = output, fail, progress

    def follow(self, batches: Iterator[list[Prediction]]) -> Iterator[list[Prediction]]:
        """The same batches.

        Raises:
            ValueError: If an image cannot be read and that is to stop the command.
        """
        for batch in collect_remarks(batches, self.odd):
            self.done += len(batch)
            bad = [prediction for prediction in batch if prediction.error]
            self.bad += len(bad)
            for prediction in bad:
                word = "cannot read" if self._fail else "skipped"
                self._output.message(f"{word} {prediction.image}: {prediction.error}")
            if bad and self._fail:
                raise ValueError(f"{len(bad)} of {self.done} images cannot be read.")
            yield batch
            self._progress(self.done)


def collect_remarks(batches: Iterator[list[Prediction]], odd: "RemarkCounter") -> Iterator[list[Prediction]]:
    """The same batches; counts what is odd about their images as they pass by."""
    for batch in batches:
        for prediction in batch:
            odd.add(prediction.image, prediction.remarks)
        yield batch


def load_classifier(options: Namespace, output: Output) -> "Classifier":
    """The classifier, with other class names if there are any."""
    from selfprompt.inference.classifier import load, pick_device

    with usage("device"):
        pick_device(options.device)
    with output.stage("loading"):
        classifier = load(
            options.classifier,
            backbone=options.backbone,
            device=options.device,
            trust=options.trust,
            say=output.message,
        )
    names = class_names_from(options, classifier.classes)
    if names is not None:
        classifier = classifier.with_classes(names)
    output.note(classifier.method, classifier.batch_size)
    return classifier


def reader_threads(options: Namespace) -> int:
    """Threads that read images in one process."""
    if options.workers is not None:
        return int(options.workers)
    return min(MAX_READERS, max(1, cores() // options.devices))


def class_names_from(options: Namespace, tuned: Sequence[str]) -> list[str] | None:
    """The class names of --classes or --class-names; None without them.

    Args:
        options: Of the command.
        tuned: The names that the classifier was tuned on, which a file may rename.

    Raises:
        ValueError: If the file is missing, empty, or no text.
    """
    if options.class_names is None:
        return None if options.classes is None else parse_class_names(options.classes)
    from selfprompt.data.class_names import clean_name, read_class_file

    given = read_class_file(Path(options.class_names), tuned)
    if isinstance(given, dict):
        given = [given.get(name, name) for name in tuned]
    return [clean_name(name) for name in given]


def parse_class_names(text: str) -> list[str]:
    """Names out of ``a,b,c``; a name that holds a comma stands in quotes: ``"salt, pepper",b``."""
    from selfprompt.methods.base import check_names

    with usage():
        names = [name.strip() for line in csv.reader([text], skipinitialspace=True) for name in line if name.strip()]
        return list(check_names(names))
