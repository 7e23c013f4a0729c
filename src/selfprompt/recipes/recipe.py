"""Everything that fixes a run, as one record that can be written to YAML and read back; imports no torch.

A recipe file is flat: the keys are ``method``, ``options``, ``backbone``, ``statistics``, ``seed``,
``eval_batch_size``, and the fields of ``DataOptions`` and ``TrainOptions``. It never inherits from another one.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.validation import check_kinds
from selfprompt.utils.yaml_text import read_yaml, write_yaml

SHIPPED = files("selfprompt") / "recipes"
LONGEST_METHOD = 300
"""Letters of a method's name in a file."""
ENDINGS = (".yaml", ".yml")
"""What the name of a recipe file ends with."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method with its options, a backbone, data and training."""

    method: str = "sep"
    """A method (see `selfprompt methods`), or package.module:Class for one's own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The method's own options."""
    backbone: str = "open_clip/ViT-B-16/openai"
    """Name of the frozen model (see `selfprompt backbones`)."""
    statistics: Literal["backbone", "imagenet"] = "backbone"
    """Normalise images with the backbone's own mean and std, or with ImageNet's as some papers did."""
    seed: int = 1
    """Seed of every random choice; 0 is a seed."""
    eval_batch_size: int = 100
    """Images a batch in evaluation."""
    data: DataOptions = field(default_factory=DataOptions)
    train: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        check_kinds(type(self), vars(self))
        if not 1 <= self.eval_batch_size <= 10_000:
            raise ValueError(f"eval_batch_size must lie in 1..10000, got {self.eval_batch_size}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in 0..2**63 - 1, got {self.seed}.")
        for name, value in self.options.items():
            if not isinstance(name, str):
                raise ValueError(f"The names of options must be text, got {name!r}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"options.{name} must be a finite number, got {value}.")

    def flat(self) -> dict[str, Any]:
        """The recipe as the keys and values of its file."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("data", "train")}
        return {**own, "options": dict(self.options), **asdict(self.data), **asdict(self.train)}

    def changed(self, overrides: Mapping[str, Any]) -> Self:
        """The recipe with other values; ``options`` are merged name by name.

        Epochs that leave no room for the recipe's warm-up shorten it to a tenth of them.

        Raises:
            ValueError: If a key is unknown (the message has the nearest one) or a value does not fit.
        """
        check_keys(overrides)
        overrides = dict(overrides)
        check_kinds(TrainOptions, overrides)
        check_kinds(Recipe, overrides)
        epochs = overrides.get("epochs", self.train.epochs)
        if "warmup_epochs" not in overrides and self.train.warmup_epochs >= epochs:
            overrides["warmup_epochs"] = epochs // 10
        parts = {
            name: {key: overrides.pop(key) for key in list(overrides) if key in FIELDS[name]}
            for name in ("data", "train")
        }
        options = {**self.options, **overrides.pop("options", {})}
        return replace(
            self,
            **overrides,
            options=options,
            data=replace(self.data, **parts["data"]),
            train=replace(self.train, **parts["train"]),
        )

    def to_yaml(self) -> str:
        """The recipe as a file's text."""
        return write_yaml(_plain(self.flat()))


FIELDS = {
    "recipe": [f.name for f in fields(Recipe) if f.name not in ("data", "train")],
    "data": [f.name for f in fields(DataOptions)],
    "train": [f.name for f in fields(TrainOptions)],
}


def check_keys(values: Mapping[str, Any], where: str = "") -> None:
    """Raise ValueError for the first key that no recipe has, with the nearest one that it has."""
    known = [key for keys in FIELDS.values() for key in keys]
    for key in values:
        if key not in known:
            hint = did_you_mean(str(key), known) or " The method's own options go under 'options'."
            raise ValueError(f"{where}unknown key {key!r}.{hint}")


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(entry.name.removesuffix(".yaml") for entry in SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def shipped_recipe(name: str) -> str | None:
    """The recipe a method's or recipe's name stands for; a bare ``spt`` or ``vpt`` means its deep variant."""
    names = recipe_names()
    return next((candidate for candidate in (name, f"{name}-deep") if candidate in names), None)


def load_recipe(name: str, *, trust: bool = False) -> Recipe:
    """A shipped recipe by name, a recipe file by path, or defaults for one's own "package.module:Class".

    Args:
        name: One of these.
        trust: Whether a recipe file may name a method "package.module:Class", whose module then runs.

    Raises:
        ValueError: If there is no such recipe or the file is wrong; the message names it.
    """
    if ":" in name and not os.path.exists(name):
        return Recipe(method=name)
    if name.endswith(ENDINGS):
        return read_recipe(Path(name), trust=trust)
    shipped = shipped_recipe(name)
    if shipped is None:
        known = recipe_names()
        raise ValueError(
            f"Unknown method or recipe {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}. "
            "For your own method use 'package.module:Class'."
        )
    return Recipe().changed(read_values(SHIPPED / f"{shipped}.yaml"))


def read_recipe(path: Path | Traversable, method: str | None = None, *, trust: bool = False) -> Recipe:
    """A recipe file's values over those of the recipe that its ``method``, or the argument, names.

    Args:
        path: The file.
        method: Taken instead of the file's own.
        trust: Whether the file's own may be "package.module:Class", whose module runs when it is used.

    Raises:
        ValueError: If the file is wrong, its method is a file again, or it names code without being trusted; the
            message names it.
    """
    values = read_values(path)
    named = values.pop("method", Recipe.method)
    try:
        check_kinds(Recipe, {"method": named})
        if len(named) > LONGEST_METHOD:
            raise ValueError(f"method must be a name of up to {LONGEST_METHOD} letters, got {len(named):,}.")
        if named.endswith(ENDINGS):
            raise ValueError(f"method must be the name of a method or shipped recipe, not of a file, got {named!r}.")
        if ":" in named and not method and not trust:
            raise ValueError(
                f"its method is code, {named!r}, which would run. If you know that code, give the method yourself "
                f"(--method {named}), or allow it: --trust, or trust=True."
            )
        return load_recipe(method or named, trust=trust).changed(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def file_values(name: str) -> dict[str, Any]:
    """What the user wrote into a recipe file, without its method; nothing for other names.

    Raises:
        ValueError: If there is no such file or it is wrong.
    """
    values = read_values(Path(name)) if name.endswith(ENDINGS) else {}
    return {key: value for key, value in values.items() if key != "method"}


def read_values(path: Path | Traversable) -> dict[str, Any]:
    """The keys and values of a recipe file.

    Raises:
        ValueError: If there is no such file, it is no YAML mapping, or has unknown keys or values of
            other kinds; the message names it.
    """
    if isinstance(path, Path) and not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such recipe file.")
    values = read_yaml(path) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe consists of 'key: value' lines, got {type(values).__name__}.")
    check_keys(values, f"{path}: ")
    try:
        check_kinds(Recipe, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return values


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
