"""The prediction of one image, and its formats: a record, CSV rows, JSON lines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfprompt.utils.csv_text import csv_text
from selfprompt.utils.files import to_json

COLUMNS = ("image", "rank", "label", "score")
ERROR_COLUMN = "error"


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of one image.

    Attributes:
        image: Path of the image, or its number if it has no path.
        label: The most likely class; empty if there is an error.
        score: Probability of ``label``, in [0, 1].
        top: The most likely classes with their probabilities, best first.
        error: Why there is no prediction: the image is unreadable, or its scores are not finite. Otherwise empty.
        remarks: Warnings about a readable image, such as "of one colour throughout".
    """

    image: str
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()


def as_record(prediction: Prediction) -> dict[str, object]:
    """Return a prediction as JSON values."""
    if prediction.error:
        return {"image": prediction.image, "error": prediction.error}
    top = [list(pair) for pair in prediction.top]
    record = {"image": prediction.image, "label": prediction.label, "score": prediction.score, "top": top}
    return record | {"remarks": list(prediction.remarks)} if prediction.remarks else record


def as_lines(predictions: Iterable[Prediction]) -> str:
    """Format predictions as JSON, one line per image."""
    return "".join(to_json(as_record(prediction)) + "\n" for prediction in predictions)


def as_csv(predictions: Iterable[Prediction], *, errors: bool, guard: bool = False) -> str:
    """Format predictions as CSV rows image, rank, label, score: one row per likely class of an image.

    Args:
        predictions: Predictions of any number of images.
        errors: Whether to add a last column with the error of unreadable images; without it these are left out.
        guard: Whether to put an apostrophe before names that a spreadsheet might run as formulas.
    """
    rows: list[Sequence[object]] = []
    last = [""] if errors else []
    for one in predictions:
        if one.error and errors:
            rows.append([one.image, "", "", "", one.error])
        rows += [[one.image, rank, label, f"{score:.6f}", *last] for rank, (label, score) in enumerate(one.top, 1)]
    return csv_text(rows, guard=guard)


def csv_header(*, errors: bool) -> str:
    """Return the header line for ``as_csv``."""
    return csv_text([(*COLUMNS, ERROR_COLUMN) if errors else COLUMNS])
