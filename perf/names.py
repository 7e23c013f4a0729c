"""Class names of realistic lengths: ImageNet's own."""

import random
from collections.abc import Callable

from open_clip import IMAGENET_CLASSNAMES

PLACES = 19
"""Positions of a text that are not its name's: SOS, CoOp's 16 prompts, the full stop, EOT."""


def class_names(count: int, length: Callable[[str], int], context: int) -> tuple[str, ...]:
    """Different class names in a fixed random order; fewer are the first of more.

    Args:
        count: How many.
        length: Tokens of a name.
        context: Positions of a text: names that leave no room for prompts are passed over.

    Raises:
        ValueError: If there are not so many.
    """
    names = [*dict.fromkeys(IMAGENET_CLASSNAMES)]
    random.Random(0).shuffle(names)
    names += [f"other {name}" for name in names]  # a few are missing: two are in the list twice, some are too long
    names = [name for name in names if length(name) + PLACES <= context]
    if not 2 <= count <= len(names):
        raise ValueError(f"classes must be 2 to {len(names)} for this backbone's texts, got {count}.")
    return tuple(names[:count])
