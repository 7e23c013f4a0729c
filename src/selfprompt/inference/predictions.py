"""What an image shows, and the forms in which that is written: a record, rows of CSV, lines of JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfprompt.utils.csv_text import csv_text
from selfprompt.utils.files import to_json

COLUMNS = ("image", "rank", "label", "score")
ERROR_COLUMN = "error"


@dataclass(frozen=True)
class Prediction:
    """What an image shows.

    Attributes:
        image: The image's path, or its number where it has none.
        label: The most likely class; empty when there is an error.
        score: Its probability, in [0, 1].
        top: The most likely classes with their probabilities, best first.
        error: Why there is no prediction: the image cannot be read, or its scores are not finite numbers. Else empty.
        remarks: What is odd about an image that can be read: "of one colour throughout".
    """

    image: str
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()


def as_record(prediction: Prediction) -> dict[str, object]:
    """A prediction as JSON values."""
    if prediction.error:
        return {"image": prediction.image, "error": prediction.error}
    top = [list(pair) for pair in prediction.top]
    record = {"image": prediction.image, "label": prediction.label, "score": prediction.score, "top": top}
    return record | {"remarks": list(prediction.remarks)} if prediction.remarks else record


def as_lines(predictions: Iterable[Prediction]) -> str:
    """A line of JSON an image."""
    return "".join(to_json(as_record(prediction)) + "\n" for prediction in predictions)


def as_csv(predictions: Iterable[Prediction], *, errors: bool, guard: bool = False) -> str:
    """Rows image, rank, label, score: one for each of an image's most likely classes.

    Args:
        predictions: Of any number of images.
        errors: Whether there is a last column with the reason why an image could not be read; without it such images
            are left out.
        guard: Whether to put an apostrophe before names that a spreadsheet might run as formulas.
    """
    rows: list[Sequence[object]] = []
    for found in predictions:
        if found.error and errors:
            rows.append([found.image, "", "", "", found.error])
        last = [""] if errors else []
        rows += [[found.image, rank, label, f"{score:.6f}", *last] for rank, (label, score) in enumerate(found.top, 1)]
    return csv_text(rows, guard=guard)


def csv_header(*, errors: bool) -> str:
    """The first line of what ``as_csv`` gives."""
    return csv_text([(*COLUMNS, ERROR_COLUMN) if errors else COLUMNS])
