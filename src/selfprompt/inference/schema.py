"""The schema of a saved classifier's config.json: keys, types and ranges, checked before any value is used.

The file may come from an untrusted source, so sizes have upper bounds that limit the cost of loading it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from selfprompt.data.class_description import describe_all
from selfprompt.utils.spelling import clean_name
from selfprompt.utils.validation import check_types

FORMAT = 1
MAX_CLASSES = 100_000
MAX_BATCH_SIZE = 10_000
MAX_IMAGE_SIZE = 4096
"""Pixels per side."""
MAX_REVISION = 200
"""Letters of a revision of a repository."""
MAX_OPTION = 10_000
"""Maximum of an integer option of a method: prompts, layers, ranks."""
UNBOUNDED = ("options.images",)
"""Options that count training images and set no size."""
MAX_LETTERS = 2_000
"""Letters in the name of a class, method or backbone, or in a text option of a method."""

MAX_CALIBRATION = 10_000
"""Images of a calibration."""
MAX_SCORE = 1e30
"""Largest score of an image of a calibration."""

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of config.json; a key with a default may be absent."""

    format: int
    method: str
    options: Mapping[str, Any]
    backbone: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocess: Mapping[str, Any]
    batch_size: int
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]
    tensors_sha256: str
    class_descriptions: tuple[Mapping[str, Any], ...] | None = None
    sample_wise: bool = True
    versions: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    origin: str = ""


@dataclass(frozen=True)
class _BackboneKeys:
    name: str
    fingerprint: str
    architecture: str = ""
    note: str = ""
    image_size: int | None = None
    revision: str = ""


@dataclass(frozen=True)
class _PreprocessKeys:
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mode: Literal["shortest", "squash", "pad"] = "shortest"
    resize: int | None = None


@dataclass(frozen=True)
class _RecipeKeys:
    """The keys that `selfprompt eval` reads; others are only displayed."""

    holdout: float = 0.0
    seed: int = 0
    classes: Literal["all", "base", "new"] = "all"
    class_names: str | None = None


@dataclass(frozen=True)
class _ResultsKeys:
    """The keys that the model card, `selfprompt eval` and notebooks read."""

    tuned: Mapping[str, Any] | None = None
    zero_shot: Mapping[str, Any] | None = None
    ridge: Mapping[str, Any] | None = None
    against: Mapping[str, Any] | None = None
    selection: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: str = ""
    data_key: str = ""


@dataclass(frozen=True)
class _CalibrationKeys:
    temperature: float
    largest_logits: tuple[float, ...]
    largest_probabilities: tuple[float, ...]
    surprises: tuple[float, ...]
    source: Literal["cross-validation", "validation images"]


@dataclass(frozen=True)
class _MetricsKeys:
    accuracy: float
    interval: tuple[float, ...]
    total: int


@dataclass(frozen=True)
class _EstimateKeys:
    accuracy: float
    interval: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class _PairedTestKeys:
    tuned_only: int
    floor_only: int
    p: float


def check_config(config: Mapping[str, Any]) -> None:
    """Check every key that is read from a config.json of format ``FORMAT``.

    Raises:
        ValueError: For the first key that is missing, unknown, of the wrong type or out of range; the message names
            the key, not the file.
    """
    _check(ConfigKeys, config, "")
    _check(_BackboneKeys, config["backbone"], "backbone")
    _check(_PreprocessKeys, config["preprocess"], "preprocess")
    _check_text("method", config["method"])
    _check_text("backbone.name", config["backbone"]["name"])
    if config["backbone"].get("image_size") is not None:
        _check_range("backbone.image_size", config["backbone"]["image_size"], 1, MAX_IMAGE_SIZE)
    _check_range("the letters of origin", len(config.get("origin", "")), 0, MAX_LETTERS)
    _check_range("the letters of backbone.revision", len(config["backbone"].get("revision", "")), 0, MAX_REVISION)
    for key, value in (
        ("tensors_sha256", config["tensors_sha256"]),
        ("backbone.fingerprint", config["backbone"]["fingerprint"]),
    ):
        if not _HASH.fullmatch(value):
            raise ValueError(f"{key} must be 64 hexadecimal digits, got {_format(value)}")
    _check_classes(config["classes"])
    if config.get("class_descriptions") is not None:
        _check_descriptions(config["class_descriptions"], config["classes"])
    _check_range("batch_size", config["batch_size"], 1, MAX_BATCH_SIZE)
    _check_preprocess(config["preprocess"])
    for name, value in config["options"].items():
        if ":" not in config["method"]:  # custom code is trusted or does not run
            _check_option(f"options.{name}", value)
    _check_results(config["results"], config["recipe"])
    if config.get("calibration") is not None:
        _check_calibration(config["calibration"])


def _check(record: type, values: Mapping[str, Any], where: str, *, allow_unknown: bool = False) -> None:
    """Raise ValueError unless the values have the keys and types of the record, and (by default) no other keys."""
    known = fields(record)
    required = [field.name for field in known if field.default is MISSING and field.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    subject = where or "it"
    if missing:
        raise ValueError(f"{subject} has no {', '.join(missing)}")
    unknown = sorted(values.keys() - {field.name for field in known})
    if unknown and not allow_unknown:
        raise ValueError(f"{subject} has unknown keys: {_format(', '.join(unknown))}")
    try:
        check_types(record, values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}".lstrip(".").rstrip(".")) from error


def _check_classes(classes: list[str]) -> None:
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"classes must be 1 to {MAX_CLASSES:,} names, got {len(classes):,}")
    for number, name in enumerate(classes):
        _check_text(f"classes[{number}]", name)


def _check_descriptions(descriptions: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    try:
        described = describe_all(descriptions)
    except (ValueError, TypeError) as error:
        raise ValueError(f"class_descriptions, {str(error).rstrip('.')}") from None
    if [one.name for one in described] != [clean_name(name) for name in classes]:
        raise ValueError("class_descriptions must have the names in classes, in their order")


def _check_preprocess(values: Mapping[str, Any]) -> None:
    _check_range("preprocess.size", values["size"], 1, MAX_IMAGE_SIZE)
    if values.get("resize") is not None:
        _check_range("preprocess.resize", values["resize"], values["size"], MAX_IMAGE_SIZE)
        if values.get("mode") == "pad":
            raise ValueError("preprocess.resize must be null where mode is pad")
    for name, low in (("mean", -1e3), ("std", 1e-6)):
        if len(values[name]) != 3:
            raise ValueError(f"preprocess.{name} must be three numbers, got {_format(values[name])}")
        for value in values[name]:
            _check_range(f"preprocess.{name}", value, low, 1e3)


def _check_option(name: str, value: Any) -> None:
    """Bound texts and integers, also in lists; the method itself checks names and types of its options."""
    if isinstance(value, list):
        _check_range(f"the length of {name}", len(value), 0, MAX_OPTION)
        for entry in value:
            _check_option(name, entry)
    elif isinstance(value, str):
        _check_range(f"the letters of {name}", len(value), 0, MAX_LETTERS)
    elif isinstance(value, int) and name not in UNBOUNDED:
        _check_range(name, value, -MAX_OPTION, MAX_OPTION)


def _check_results(results: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    _check(_ResultsKeys, results, "results", allow_unknown=True)
    for name in ("tuned", "zero_shot", "ridge"):
        _check_measured(_MetricsKeys, results, name, "results")
    _check_measured(_EstimateKeys, results.get("selection") or {}, "estimate", "results.selection")
    for name in results.get("against") or {}:
        _check_part(_PairedTestKeys, results["against"], name, "results.against")
    _check(_RecipeKeys, recipe, "recipe", allow_unknown=True)
    _check_range("recipe.holdout", recipe.get("holdout", 0.0), 0, 1)
    _check_range("recipe.seed", recipe.get("seed", 0), 0, 2**63 - 1)
    missing = [name for name in ("holdout", "seed", "classes") if results.get("data_key") and name not in recipe]
    if missing:
        raise ValueError(f"recipe has no {', '.join(missing)}, and results.data_key needs them")


def _check_calibration(values: Mapping[str, Any]) -> None:
    """Check the scores of a calibration: as many of each kind."""
    _check(_CalibrationKeys, values, "calibration")
    _check_range("calibration.temperature", values["temperature"], 1e-30, MAX_SCORE)
    count = len(values["largest_logits"])
    _check_range("the length of calibration.largest_logits", count, 1, MAX_CALIBRATION)
    for name, low, high in (
        ("largest_logits", -MAX_SCORE, MAX_SCORE),
        ("largest_probabilities", 0, 1),
        ("surprises", 0, MAX_SCORE),
    ):
        if len(values[name]) != count:
            raise ValueError(f"calibration.{name} must be as many as largest_logits, {count}, got {len(values[name])}")
        for value in values[name]:
            _check_range(f"calibration.{name}", value, low, high)
    if any(a > b for a, b in pairwise(values["surprises"])):
        raise ValueError("calibration.surprises must be in ascending order")


def _check_measured(record: type, values: Mapping[str, Any], name: str, where: str) -> None:
    """Check a part with an accuracy and its interval, if there is one."""
    if values.get(name):
        _check_part(record, values, name, where)
        if len(values[name]["interval"]) != 2:
            raise ValueError(f"{where}.{name}.interval must be two numbers")


def _check_part(record: type, values: Mapping[str, Any], name: str, where: str) -> None:
    if not isinstance(values[name], Mapping):
        raise ValueError(f"{where}.{name} must hold names and values, got {_format(values[name])}")
    _check(record, values[name], f"{where}.{name}", allow_unknown=True)


def _check_text(name: str, value: str) -> None:
    if not value.strip() or len(value) > MAX_LETTERS:
        raise ValueError(f"{name} must be text of 1 to {MAX_LETTERS:,} letters, got {_format(value)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is in no range
        raise ValueError(f"{name} must lie in {low:,}..{high:,}, got {_format(value)}")


def _format(value: Any) -> str:
    """Format a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
