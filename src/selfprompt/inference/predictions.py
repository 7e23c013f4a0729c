"""The prediction of one image, and its formats: a record, CSV rows, JSON lines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfprompt.utils.csv_text import csv_text
from selfprompt.utils.files import to_json

COLUMNS = ("image", "rank", "label", "score")
ERROR_COLUMN = "error"


UNKNOWN = "unknown"
"""Label of an image that is unlike the training classes."""


@dataclass(frozen=True)
class Request:
    """What to answer for an image.

    Attributes:
        top: Number of classes, unless ``coverage`` is given.
        unknown: Largest share of images of the trained classes that may be refused as unknown, in (0, 1); None refuses
            none.
        coverage: Share of images whose set of classes contains the true one, in (0, 1); None gives ``top`` classes.
    """

    top: int = 1
    unknown: float | None = None
    coverage: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}.")
        for name in ("unknown", "coverage"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value:g}.")
        if self.coverage is not None and self.top != 1:
            raise ValueError(f"top cannot be set with coverage, which decides the number of classes; got {self.top}.")

    @property
    def needs_calibration(self) -> bool:
        """Whether it asks for a promise."""
        return self.unknown is not None or self.coverage is not None


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of one image.

    Attributes:
        image: Path of the image, or its number if it has no path.
        label: The most likely class, "unknown" if ``unknown``; empty if there is an error.
        score: Probability of ``label``, in [0, 1]; 0 if ``unknown``.
        top: The most likely classes with their probabilities, best first; with ``coverage``, the set of classes that
            contains the true one at that rate. Empty if ``unknown``.
        error: Why there is no prediction: the image is unreadable, or its scores are not finite. Otherwise empty.
        remarks: Warnings about a readable image, such as "of one colour throughout".
        unknown: Whether the image is unlike the training classes.
    """

    image: str
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()
    unknown: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of ``top``."""
        return tuple(name for name, _ in self.top)


def as_record(prediction: Prediction) -> dict[str, object]:
    """Return a prediction as JSON values."""
    if prediction.error:
        return {"image": prediction.image, "error": prediction.error}
    top = [list(pair) for pair in prediction.top]
    record = {"image": prediction.image, "label": prediction.label, "score": prediction.score, "top": top}
    record |= {"unknown": True} if prediction.unknown else {}
    return record | {"remarks": list(prediction.remarks)} if prediction.remarks else record


def as_lines(predictions: Iterable[Prediction]) -> str:
    """Format predictions as JSON, one line per image."""
    return "".join(to_json(as_record(prediction)) + "\n" for prediction in predictions)


def as_csv(predictions: Iterable[Prediction], *, errors: bool, guard: bool = False) -> str:
    """Format predictions as CSV rows image, rank, label, score: one row per likely class of an image.

    An unknown image has one row with the label "unknown", and without rank and score: a class may have this name, too.

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
        if one.unknown:
            rows.append([one.image, "", UNKNOWN, "", *last])
        rows += [[one.image, rank, label, f"{score:.6f}", *last] for rank, (label, score) in enumerate(one.top, 1)]
    return csv_text(rows, guard=guard)


def csv_header(*, errors: bool) -> str:
    """Return the header line for ``as_csv``."""
    return csv_text([(*COLUMNS, ERROR_COLUMN) if errors else COLUMNS])
