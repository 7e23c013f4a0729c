"""Building blocks for scripts: methods by name on a loaded backbone."""

from collections.abc import Sequence
from typing import Any

import torch

from selfprompt.methods import list_methods, registry
from selfprompt.methods.base import Method
from selfprompt.recipe import load_recipe, shipped_recipe
from selfprompt.towers.load import Backbone, load_backbone


@torch.random.fork_rng(devices=[])  # layers draw a start of their own before ours; the caller's random state stays
def build_method(
    name: str, backbone: Backbone | str, class_names: Sequence[str], *, seed: int = 1, **options: Any
) -> Method:
    """Build a method: a ``torch.nn.Module`` with ``logits(images)``, ``loss(images, labels)`` and ``image_size``.

    Args:
        name: A method ("sep"), a shipped recipe ("sep-authors", whose options are then the defaults), or
            "package.module:Class".
        backbone: From ``load_backbone``, or its name.
        class_names: At least two, all different.
        seed: Of every random start.
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
    if name not in list_methods() and shipped_recipe(name):
        recipe = load_recipe(name)
        name, options = recipe.method, {**recipe.options, **options}
    found = load_backbone(backbone) if isinstance(backbone, str) else backbone
    return registry.build_method(name, found, class_names, seed=seed, **options)
