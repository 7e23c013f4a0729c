"""Checks of records from untrusted JSON files that several formats share; knows no torch.

Sizes have upper bounds that limit the cost of using a record. Messages name the key, not the file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from selfprompt.utils.validation import check_types

MAX_CLASSES = 100_000
MAX_BATCH_SIZE = 10_000
MAX_IMAGE_SIZE = 4096
"""Pixels per side."""
MAX_LETTERS = 2_000
"""Letters in the name of a class, method or backbone, or in a text option of a method."""
MAX_CALIBRATION = 10_000
"""Images of a calibration."""
MAX_SCORE = 1e30
"""Largest score of an image of a calibration."""

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PreprocessKeys:
    """The preprocessing of images; the values of ``models.backbone.Preprocess``."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mode: Literal["shortest", "squash", "pad"] = "shortest"
    resize: int | None = None


@dataclass(frozen=True)
class CalibrationKeys:
    """The scores of a calibration; the values of ``inference.calibration.Calibration``."""

    temperature: float
    largest_logits: tuple[float, ...]
    largest_probabilities: tuple[float, ...]
    surprises: tuple[float, ...]
    source: Literal["cross-validation", "validation images"]


def check_record(record: type, values: Mapping[str, Any], where: str, *, allow_unknown: bool = False) -> None:
    """Raise ValueError unless the values have the keys and types of the record, and (by default) no other keys."""
    known = fields(record)
    required = [field.name for field in known if field.default is MISSING and field.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    subject = where or "it"
    if missing:
        raise ValueError(f"{subject} has no {', '.join(missing)}")
    unknown = sorted(values.keys() - {field.name for field in known})
    if unknown and not allow_unknown:
        raise ValueError(f"{subject} has unknown keys: {short(', '.join(unknown))}")
    try:
        check_types(record, values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}".lstrip(".").rstrip(".")) from error


def check_classes(classes: Sequence[str]) -> None:
    """Raise ValueError unless there are 1 to ``MAX_CLASSES`` names of classes."""
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"classes must be 1 to {MAX_CLASSES:,} names, got {len(classes):,}")
    for number, name in enumerate(classes):
        check_text(f"classes[{number}]", name)


def check_preprocess(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values are a preprocessing of images."""
    check_record(PreprocessKeys, values, "preprocess")
    check_range("preprocess.size", values["size"], 1, MAX_IMAGE_SIZE)
    if values.get("resize") is not None:
        check_range("preprocess.resize", values["resize"], values["size"], MAX_IMAGE_SIZE)
        if values.get("mode") == "pad":
            raise ValueError("preprocess.resize must be null where mode is pad")
    for name, low in (("mean", -1e3), ("std", 1e-6)):
        if len(values[name]) != 3:
            raise ValueError(f"preprocess.{name} must be three numbers, got {short(values[name])}")
        for value in values[name]:
            check_range(f"preprocess.{name}", value, low, 1e3)


def check_calibration(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless the values are a calibration, with as many scores of each kind."""
    check_record(CalibrationKeys, values, "calibration")
    check_range("calibration.temperature", values["temperature"], 1e-30, MAX_SCORE)
    count = len(values["largest_logits"])
    check_range("the length of calibration.largest_logits", count, 1, MAX_CALIBRATION)
    for name, low, high in (
        ("largest_logits", -MAX_SCORE, MAX_SCORE),
        ("largest_probabilities", 0, 1),
        ("surprises", 0, MAX_SCORE),
    ):
        if len(values[name]) != count:
            raise ValueError(f"calibration.{name} must be as many as largest_logits, {count}, got {len(values[name])}")
        for value in values[name]:
            check_range(f"calibration.{name}", value, low, high)
    if any(a > b for a, b in pairwise(values["surprises"])):
        raise ValueError("calibration.surprises must be in ascending order")


def check_hash(name: str, value: str) -> None:
    """Raise ValueError unless a value is a SHA-256 in hex."""
    if not _HASH.fullmatch(value):
        raise ValueError(f"{name} must be 64 hexadecimal digits, got {short(value)}")


def check_text(name: str, value: str) -> None:
    """Raise ValueError for a text that is empty or too long."""
    if not value.strip() or len(value) > MAX_LETTERS:
        raise ValueError(f"{name} must be text of 1 to {MAX_LETTERS:,} letters, got {short(value)}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError for a number outside of low to high."""
    if not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name} must lie in {low:,}..{high:,}, got {short(value)}")


def short(value: Any) -> str:
    """Format a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
