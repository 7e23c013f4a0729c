"""The schema of a saved classifier's config.json: keys, types and ranges, checked before any value is used.

The file may come from an untrusted source, so sizes have upper bounds that limit the cost of loading it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfprompt.data.class_description import describe_all
from selfprompt.inference.record_checks import (
    MAX_BATCH_SIZE,
    MAX_IMAGE_SIZE,
    MAX_LETTERS,
    check_calibration,
    check_classes,
    check_hash,
    check_preprocess,
    check_range,
    check_record,
    check_text,
    short,
)
from selfprompt.utils.spelling import clean_name

FORMAT = 1
MAX_OPTION = 10_000
"""Maximum of an integer option of a method: prompts, layers, ranks."""
MAX_REVISION = 200
"""Letters of a revision of a repository."""
UNBOUNDED = ("options.images",)
"""Options that count training images and set no size."""


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
    check_record(ConfigKeys, config, "")
    check_record(_BackboneKeys, config["backbone"], "backbone")
    check_text("method", config["method"])
    check_text("backbone.name", config["backbone"]["name"])
    if config["backbone"].get("image_size") is not None:
        check_range("backbone.image_size", config["backbone"]["image_size"], 1, MAX_IMAGE_SIZE)
    check_range("the letters of origin", len(config.get("origin", "")), 0, MAX_LETTERS)
    check_range("the letters of backbone.revision", len(config["backbone"].get("revision", "")), 0, MAX_REVISION)
    for key, value in (
        ("tensors_sha256", config["tensors_sha256"]),
        ("backbone.fingerprint", config["backbone"]["fingerprint"]),
    ):
        check_hash(key, value)
    check_classes(config["classes"])
    if config.get("class_descriptions") is not None:
        _check_descriptions(config["class_descriptions"], config["classes"])
    check_range("batch_size", config["batch_size"], 1, MAX_BATCH_SIZE)
    check_preprocess(config["preprocess"])
    for name, value in config["options"].items():
        if ":" not in config["method"]:  # custom code is trusted or does not run
            _check_option(f"options.{name}", value)
    _check_results(config["results"], config["recipe"])
    if config.get("calibration") is not None:
        check_calibration(config["calibration"])


def _check_descriptions(descriptions: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    try:
        described = describe_all(descriptions)
    except (ValueError, TypeError) as error:
        raise ValueError(f"class_descriptions, {str(error).rstrip('.')}") from None
    if [one.name for one in described] != [clean_name(name) for name in classes]:
        raise ValueError("class_descriptions must have the names in classes, in their order")


def _check_option(name: str, value: Any) -> None:
    """Bound texts and integers, also in lists; the method itself checks names and types of its options."""
    if isinstance(value, list):
        check_range(f"the length of {name}", len(value), 0, MAX_OPTION)
        for entry in value:
            _check_option(name, entry)
    elif isinstance(value, str):
        check_range(f"the letters of {name}", len(value), 0, MAX_LETTERS)
    elif isinstance(value, int) and name not in UNBOUNDED:
        check_range(name, value, -MAX_OPTION, MAX_OPTION)


def _check_results(results: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    check_record(_ResultsKeys, results, "results", allow_unknown=True)
    for name in ("tuned", "zero_shot", "ridge"):
        _check_measured(_MetricsKeys, results, name, "results")
    _check_measured(_EstimateKeys, results.get("selection") or {}, "estimate", "results.selection")
    for name in results.get("against") or {}:
        _check_part(_PairedTestKeys, results["against"], name, "results.against")
    check_record(_RecipeKeys, recipe, "recipe", allow_unknown=True)
    check_range("recipe.holdout", recipe.get("holdout", 0.0), 0, 1)
    check_range("recipe.seed", recipe.get("seed", 0), 0, 2**63 - 1)
    missing = [name for name in ("holdout", "seed", "classes") if results.get("data_key") and name not in recipe]
    if missing:
        raise ValueError(f"recipe has no {', '.join(missing)}, and results.data_key needs them")


def _check_measured(record: type, values: Mapping[str, Any], name: str, where: str) -> None:
    """Check a part with an accuracy and its interval, if there is one."""
    if values.get(name):
        _check_part(record, values, name, where)
        if len(values[name]["interval"]) != 2:
            raise ValueError(f"{where}.{name}.interval must be two numbers")


def _check_part(record: type, values: Mapping[str, Any], name: str, where: str) -> None:
    if not isinstance(values[name], Mapping):
        raise ValueError(f"{where}.{name} must hold names and values, got {short(values[name])}")
    check_record(record, values[name], f"{where}.{name}", allow_unknown=True)
