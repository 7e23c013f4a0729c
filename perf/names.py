"""Class names of realistic lengths: those of ImageNet."""

import random
from collections.abc import Callable

from open_clip import IMAGENET_CLASSNAMES

OTHER_TOKENS = 19
"""Tokens of a text besides the class name: SOS, CoOp's 16 prompts, the full stop, EOT."""


def class_names(count: int, length: Callable[[str], int], context: int) -> tuple[str, ...]:
    """Return distinct class names in a fixed random order; a smaller count gives a prefix of a larger one.

    Args:
        count: Number of names.
        length: Returns the number of tokens of a name.
        context: Context length of the text tower; names that leave no room for prompts are skipped.

    Raises:
        ValueError: If there are fewer names, or ``count`` is below 2.
    """
    names = [*dict.fromkeys(IMAGENET_CLASSNAMES)]
    random.Random(0).shuffle(names)
    names += [f"other {name}" for name in names]  # makes up for duplicates and names that are too long
    names = [name for name in names if length(name) + OTHER_TOKENS <= context]
    if not 2 <= count <= len(names):
        raise ValueError(f"classes must be 2 to {len(names)} for this backbone's texts, got {count}.")
    return tuple(names[:count])
