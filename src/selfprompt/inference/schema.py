"""What a saved classifier's config.json must hold: names, kinds and ranges, checked before anything uses a value.

The file may come from a stranger, so sizes have upper bounds: what a value costs must not surprise its reader.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from selfprompt.utils.validation import check_kinds

FORMAT = 1
MOST_CLASSES = 100_000
MOST_IN_A_BATCH = 10_000
LARGEST_IMAGE = 4096
"""Pixels along a side."""
LARGEST_OPTION = 10_000
"""Of whole numbers among a method's options: prompts, layers, ranks."""
SIZELESS = ("options.images",)
"""Options that count training images and size nothing."""
LONGEST_NAME = 2_000
"""Letters in the name of a class, a method or a backbone, and in a text among a method's options."""

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Config:
    """The keys of config.json; those with a default may be absent."""

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
    sample_wise: bool = True
    versions: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Backbone:
    name: str
    fingerprint: str
    architecture: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Preprocess:
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mode: Literal["shortest", "squash"] = "shortest"


@dataclass(frozen=True)
class _Recipe:
    """The keys that `selfprompt eval` reads; the others are only shown."""

    holdout: float = 0.0
    seed: int = 0
    classes: Literal["all", "base", "new"] = "all"
    class_names: str | None = None


@dataclass(frozen=True)
class _Results:
    """The keys that the model card and `selfprompt eval` read."""

    tuned: Mapping[str, Any] | None = None
    zero_shot: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    weights: str = ""
    data_key: str = ""


@dataclass(frozen=True)
class _Accuracy:
    accuracy: float
    interval: tuple[float, ...]
    total: int


def check_config(config: Mapping[str, Any]) -> None:
    """Check every key that is read from a config.json of the format ``FORMAT``.

    Raises:
        ValueError: For the first key that is missing, unknown, of another kind or out of its range; the message names
            the key, not the file.
    """
    _check(Config, config, "")
    _check(_Backbone, config["backbone"], "backbone")
    _check(_Preprocess, config["preprocess"], "preprocess")
    _check_text("method", config["method"])
    _check_text("backbone.name", config["backbone"]["name"])
    for key, value in (
        ("tensors_sha256", config["tensors_sha256"]),
        ("backbone.fingerprint", config["backbone"]["fingerprint"]),
    ):
        if not _HASH.fullmatch(value):
            raise ValueError(f"{key} must be 64 hexadecimal digits, got {_shown(value)}")
    _check_classes(config["classes"])
    _check_range("batch_size", config["batch_size"], 1, MOST_IN_A_BATCH)
    _check_preprocess(config["preprocess"])
    for name, value in config["options"].items():
        if ":" not in config["method"]:  # code of one's own, which is trusted or does not run, has its own bounds
            _check_option(f"options.{name}", value)
    _check_results(config["results"], config["recipe"])


def _check(record: type, values: Mapping[str, Any], where: str, *, others: bool = False) -> None:
    """Raise ValueError unless the values have the record's keys, none besides (unless ``others``), and its kinds."""
    known = fields(record)
    required = [field.name for field in known if field.default is MISSING and field.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    subject = where or "it"
    if missing:
        raise ValueError(f"{subject} has no {', '.join(missing)}")
    unknown = sorted(values.keys() - {field.name for field in known})
    if unknown and not others:
        raise ValueError(f"{subject} has unknown keys: {_shown(', '.join(unknown))}")
    try:
        check_kinds(record, values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}".lstrip(".").rstrip(".")) from error


def _check_classes(classes: list[str]) -> None:
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise ValueError(f"classes must be 1 to {MOST_CLASSES:,} names, got {len(classes):,}")
    for number, name in enumerate(classes):
        _check_text(f"classes[{number}]", name)


def _check_preprocess(values: Mapping[str, Any]) -> None:
    _check_range("preprocess.size", values["size"], 1, LARGEST_IMAGE)
    for name, least in (("mean", -1e3), ("std", 1e-6)):
        if len(values[name]) != 3:
            raise ValueError(f"preprocess.{name} must be three numbers, got {_shown(values[name])}")
        for value in values[name]:
            _check_range(f"preprocess.{name}", value, least, 1e3)


def _check_option(name: str, value: Any) -> None:
    """Bound texts and whole numbers, in lists too; which options there are, and of which kinds, the method knows."""
    if isinstance(value, list):
        _check_range(f"the length of {name}", len(value), 0, LARGEST_OPTION)
        for entry in value:
            _check_option(name, entry)
    elif isinstance(value, str):
        _check_range(f"the letters of {name}", len(value), 0, LONGEST_NAME)
    elif isinstance(value, int) and name not in SIZELESS:
        _check_range(name, value, -LARGEST_OPTION, LARGEST_OPTION)


def _check_results(results: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    _check(_Results, results, "results", others=True)
    for name in ("tuned", "zero_shot"):
        if results.get(name):
            _check(_Accuracy, results[name], f"results.{name}", others=True)
            if len(results[name]["interval"]) != 2:
                raise ValueError(f"results.{name}.interval must be two numbers")
    _check(_Recipe, recipe, "recipe", others=True)
    _check_range("recipe.holdout", recipe.get("holdout", 0.0), 0, 1)
    _check_range("recipe.seed", recipe.get("seed", 0), 0, 2**63 - 1)
    missing = [name for name in ("holdout", "seed", "classes") if results.get("data_key") and name not in recipe]
    if missing:
        raise ValueError(f"recipe has no {', '.join(missing)}, and results.data_key needs them")


def _check_text(name: str, value: str) -> None:
    if not value.strip() or len(value) > LONGEST_NAME:
        raise ValueError(f"{name} must be text of 1 to {LONGEST_NAME:,} letters, got {_shown(value)}")


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # not a number is in no range
        raise ValueError(f"{name} must lie in {least:,}..{most:,}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
