"""Recipes: every setting of a run in one record that is written to and read from YAML; imports no torch.

A recipe file is flat: its keys are ``method``, ``options``, ``backbone``, ``image_size``, ``statistics``, ``seed``,
``eval_batch_size``, ``calibrate``, and the fields of ``DataOptions`` and ``TrainOptions``.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

from selfprompt.methods import method_names
from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.renamed import with_present_keys, with_present_names
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.validation import check_types
from selfprompt.utils.yaml_text import read_yaml, write_yaml

AUTO = "auto"
"""The method that stands for the best of several, chosen by cross-validation."""
FREE_WITH_AUTO = (
    *("device", "devices", "precision", "float32", "workers"),
    *("checkpoint_every", "keep_every", "log_to"),
)
"""Training options that ``auto`` leaves to the user."""
SHIPPED = files("selfprompt") / "recipes"
MAX_METHOD_LENGTH = 300
"""Letters in the name of a method in a file."""
SUFFIXES = (".yaml", ".yml")
"""Suffixes of recipe files."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run: method, backbone, data and training."""

    method: str = "sep"
    """Name of a method (see `selfprompt methods`), or package.module:Class for your own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method."""
    backbone: str = "open_clip/ViT-B-16/openai"
    """Name of the frozen backbone (see `selfprompt backbones`)."""
    image_size: int | None = None
    """Height and width of the backbone's images in pixels, a multiple of its patch size; null for its own."""
    statistics: Literal["backbone", "imagenet"] = "backbone"
    """Normalise images with the mean and std of the backbone, or of ImageNet as in some papers."""
    seed: int = 1
    """Seed of every random choice, from 0."""
    eval_batch_size: int = 100
    """Images per batch in evaluation."""
    calibrate: Literal["auto", "always", "never"] = "auto"
    """Calibrate the classifier for `predict --unknown` and `--coverage`: whenever that is cheap, always, or never."""
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if not 1 <= self.eval_batch_size <= 10_000:
            raise ValueError(f"eval_batch_size must lie in 1..10000, got {self.eval_batch_size}.")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..2**63 - 1, got {self.seed}.")
        for name, value in self.options.items():
            if not isinstance(name, str):
                raise ValueError(f"The names of options must be text, got {name!r}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"options.{name} must be a finite number, got {value}.")

    def flat(self) -> dict[str, Any]:
        """Return the keys and values of the recipe file."""
        top = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("data", "train")}
        return {**top, "options": dict(self.options), **asdict(self.data), **asdict(self.train)}

    def changed(self, overrides: Mapping[str, Any]) -> Self:
        """Return the recipe with other values; ``options`` are merged name by name.

        If there are too few epochs for the warm-up of the recipe, it is shortened to a tenth of them.

        Raises:
            ValueError: If a key is unknown (the message suggests the nearest one) or a value is not valid.
        """
        overrides = with_present_keys(overrides)
        check_keys(overrides)
        check_types(TrainOptions, overrides)
        check_types(Recipe, overrides)
        epochs = overrides.get("epochs", self.train.epochs)
        if "warmup_epochs" not in overrides and self.train.warmup_epochs >= epochs:
            overrides["warmup_epochs"] = epochs // 10
        parts = {
            name: {key: overrides.pop(key) for key in list(overrides) if key in FIELDS[name]}
            for name in ("data", "train")
        }
        method, changed = overrides.get("method", self.method), overrides.pop("options", {})
        return replace(
            self,
            **overrides,
            options={**with_present_names(method, self.options), **with_present_names(method, changed)},
            data=replace(self.data, **parts["data"]),
            train=replace(self.train, **parts["train"]),
        )

    def to_yaml(self) -> str:
        """Return the text of the recipe file."""
        return write_yaml(_plain(self.flat()))


FIELDS = {
    "recipe": [f.name for f in fields(Recipe) if f.name not in ("data", "train")],
    "data": [f.name for f in fields(DataOptions)],
    "train": [f.name for f in fields(TrainOptions)],
}


def check_keys(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first unknown key and suggest the nearest known one."""
    known = [key for keys in FIELDS.values() for key in keys]
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known) or " The options of the method go under 'options'."
            raise ValueError(f"unknown key {key!r}.{hint}")


def check_overrides(method: str, keys: Iterable[str]) -> None:
    """Raise ValueError for the first key that ``auto`` sets itself."""
    for key in keys if method == AUTO else ():
        if key in FIELDS["train"] and key not in FREE_WITH_AUTO:
            raise ValueError(f"{key} cannot be set with the method auto, which sets it itself; name a method instead.")


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def shipped_recipe(name: str) -> str | None:
    """Return the recipe of a method or recipe name; a bare ``spt`` or ``vpt`` means its deep variant."""
    names = recipe_names()
    return next((candidate for candidate in (name, f"{name}-deep") if candidate in names), None)


def load_recipe(name: str, *, trust: bool = False) -> Recipe:
    """Load a recipe of the package by name or a recipe file by path; a method without a recipe gets the defaults.

    Args:
        name: Name of a recipe or method, path of a recipe file, or "package.module:Class".
        trust: Whether a recipe file may name a method "package.module:Class", which runs that module.

    Raises:
        ValueError: If there is no such recipe or the file is not valid; the message names it.
    """
    if ":" in name and not os.path.exists(name):
        return Recipe(method=name)
    if name == AUTO:
        return Recipe(method=AUTO, data=DataOptions(shots=0))
    if name.endswith(SUFFIXES):
        return read_recipe(Path(name), trust=trust)
    shipped = shipped_recipe(name)
    if shipped is None and name in method_names():
        return Recipe(method=name)
    if shipped is None:
        known = sorted({AUTO, *recipe_names(), *method_names()})
        raise ValueError(
            f"Unknown method or recipe {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
            "For your own method use 'package.module:Class'."
        )
    return Recipe().changed(read_values(SHIPPED / f"{shipped}.yaml"))


def read_recipe(path: Path | Traversable, method: str | None = None, *, trust: bool = False) -> Recipe:
    """Read a recipe file; keys that it lacks come from the recipe of its method.

    Args:
        path: Path of the file.
        method: Method to use instead of the one in the file.
        trust: Whether the file may name a method "package.module:Class", which runs that module.

    Raises:
        ValueError: If the file is not valid, its method is a file, or it names code without ``trust``; the message
            names the file.
    """
    values = read_values(path)
    named = values.pop("method", Recipe.method)
    try:
        check_types(Recipe, {"method": named})
        if len(named) > MAX_METHOD_LENGTH:
            raise ValueError(f"method must be a name of up to {MAX_METHOD_LENGTH} letters, got {len(named):,}.")
        if named.endswith(SUFFIXES):
            raise ValueError(f"method must be the name of a method or shipped recipe, not of a file, got {named!r}.")
        if ":" in named and not method and not trust:
            raise ValueError(
                f"its method is code, {named!r}, which would run. If you trust that code, give the method yourself "
                f"(--method {named}), or allow it: --trust, or trust=True."
            )
        return load_recipe(method or named, trust=trust).changed(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def file_values(name: str) -> dict[str, Any]:
    """Return the values in a recipe file, without its method; empty for other names.

    Raises:
        ValueError: If there is no such file or it is not valid.
    """
    values = read_values(Path(name)) if name.endswith(SUFFIXES) else {}
    return {key: value for key, value in values.items() if key != "method"}


def read_values(path: Path | Traversable) -> dict[str, Any]:
    """Return the keys and values in a recipe file.

    Raises:
        ValueError: If there is no such file, it is not a YAML mapping, or has unknown keys or values of the wrong type;
            the message names it.
    """
    if isinstance(path, Path) and not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such recipe file.")
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe consists of 'key: value' lines, got {type(values).__name__}.")
    try:
        values = with_present_keys(values)
        check_keys(values)
        check_types(Recipe, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return values


def _plain(value: Any) -> Any:
    """Return tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
