"""Finding methods by name and building them; the file name is the registry."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from selfprompt.data.class_description import Described
from selfprompt.methods import method_names
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_classes
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import load_recipe, shipped_recipe
from selfprompt.recipes.renamed import with_present_names
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.validation import check_types


def find_method(name: str) -> type[Method]:
    """Return the class of a method: "coop" from ``methods/coop.py``, "package.module:Class" from any module.

    Raises:
        ValueError: If there is no such method, or its file does not define exactly one.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            custom = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"Method {name!r} could not be imported: {error}.") from error
        if not (isinstance(custom, type) and issubclass(custom, Method)):
            raise ValueError(f"{name!r} must name a subclass of selfprompt.methods.base.Method, got {custom!r}.")
        return custom
    known = method_names()
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(
            f"Unknown method {name!r}.{hint} Known: {', '.join(known)}. For your own use 'package.module:Class'."
        )
    module = importlib.import_module(f"selfprompt.methods.{name.replace('-', '_')}")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise ValueError(
            f"{module.__file__} must define exactly one subclass of Method, got {len(classes)}; move the others to "
            "files of their own."
        )
    return classes[0]


def make_options(method: type[Method], values: Mapping[str, Any]) -> Any:
    """Return the method's options from values as a YAML file has them; lists become tuples.

    Raises:
        ValueError: If an option is unknown (the message lists the known ones), or a value has the wrong type.
    """
    label = method.__module__.rpartition(".")[2].replace("_", "-")
    values = with_present_names(label, values)
    known = [f.name for f in fields(method.Options)]
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"{label} has no option {name!r}.{hint} Its options: {', '.join(known) or 'none'}.")
    check_types(method.Options, values)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}.")
    return method.Options(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


@torch.random.fork_rng(devices=[])  # nn.Linear draws weights before ours replace them
def build_method(
    name: str,
    backbone: Backbone | str,
    class_names: Sequence[Described],
    *,
    seed: int = 1,
    check: bool = True,
    **options: Any,
) -> Method:
    """Build a method: a ``torch.nn.Module`` with ``logits``, ``loss`` and ``image_size``, ready for ``prepare``.

    Args:
        name: A method ("sep"), a shipped recipe ("sep-authors", whose options are then the defaults), or
            "package.module:Class".
        backbone: From ``load_backbone``, or its name.
        class_names: At least two different names, or descriptions of classes: mappings with names, descriptions and
            templates.
        seed: Seed of every random initial value.
        check: Whether to check the class names; those of a published protocol may repeat or be a single one.
        options: The method's options.

    Raises:
        ValueError: If the name, an option or the class names are wrong.

    Example:
        >>> import selfprompt
        >>> backbone = selfprompt.load_backbone("embedded/clip")
        >>> method = selfprompt.build_method("sep", backbone, ["cat", "dog"], text_prompts=2)
        >>> method.image_size, method.traits.batch_independent
        ((64, 64), True)
    """
    if name not in method_names() and shipped_recipe(name):
        recipe = load_recipe(name)
        name, options = recipe.method, {**recipe.options, **with_present_names(recipe.method, options)}
    method = find_method(name)
    values = make_options(method, options)
    loaded = load_backbone(backbone) if isinstance(backbone, str) else backbone
    reader = loaded if method.traits_for(values).needs_text else None
    classes = check_classes(class_names, reader) if check else class_names
    return method(loaded, classes, values, torch.Generator().manual_seed(seed))
