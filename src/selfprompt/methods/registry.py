"""How a method is found by its name, and built: the file name is the registry."""

import difflib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from selfprompt.kinds import check_kinds
from selfprompt.methods import list_methods
from selfprompt.methods.base import Method, check_names
from selfprompt.towers.load import Backbone


def find(name: str) -> type[Method]:
    """The method class of a name; the file name is the registry, and "package.module:Class" is one's own method.

    Raises:
        ValueError: If there is none; the message lists the known ones.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            own = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"Method {name!r} could not be imported: {error}.") from error
        if not (isinstance(own, type) and issubclass(own, Method)):
            raise ValueError(f"{name!r} must name a subclass of selfprompt.methods.base.Method, got {own!r}.")
        return own
    known = list_methods()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"Unknown method {name!r}.{hint} Known: {', '.join(known)}. For your own use 'package.module:Class'."
        )
    module = importlib.import_module(f"selfprompt.methods.{name.replace('-', '_')}")
    (found,) = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    return found


def make_options(method: type[Method], values: Mapping[str, Any]) -> Any:
    """The method's options from plain values; lists become tuples.

    Raises:
        ValueError: If a name is unknown (the message lists the options) or a value is of another kind than the option.
    """
    known = [f.name for f in fields(method.Options)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            shown = method.__module__.rpartition(".")[2].replace("_", "-")
            raise ValueError(f"{shown} has no option {name!r}.{hint} Its options: {', '.join(known) or 'none'}.")
    check_kinds(method.Options, values)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}.")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return method.Options(**plain)


def build_method(
    name: str, backbone: Backbone, class_names: Sequence[str], *, seed: int = 1, check: bool = True, **options: Any
) -> Method:
    """Build a method, ready for ``prepare`` and training.

    Args:
        name: A method's name, or "package.module:Class".
        backbone: From ``load_backbone``.
        class_names: At least two, all different.
        seed: Of every random start.
        check: Whether to refuse other names. A published protocol's may repeat (ImageNet's list), or be a single one.
        options: The method's options.

    Raises:
        ValueError: If the name, an option or the class names are wrong.
    """
    method = find(name)
    chosen = make_options(method, options)
    reader = backbone if method.traits_for(chosen).needs_text else None
    names = check_names(class_names, reader) if check else class_names
    generator = torch.Generator().manual_seed(seed)
    return method(backbone, names, chosen, generator)
