"""Renaming tensors by tables."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Tensors by name."""
Table = Mapping[str, str | tuple[str, ...]]
"""New names -> old names. A new name that ends in "." or "_" stands for a weight and a bias, each of which may be
absent. Several old names are concatenated as rows, in this order."""


def take(tensors: State, table: Table, old: str = "", new: str = "") -> State:
    """Move tensors out of a state dict, under new names.

    What is absent is left out, and what the table does not name stays where it is, so that loading the result and the
    rest strictly names both.

    Args:
        tensors: The state dict, which loses the tensors.
        table: New names -> old names.
        old: Put in front of the old names.
        new: Put in front of the new names.
    """
    moved = {}
    for target, sources in table.items():
        for end in ("weight", "bias") if target[-1] in "._" else ("",):
            names = [f"{old}{source}{end}" for source in ([sources] if isinstance(sources, str) else sources)]
            if all(name in tensors for name in names):
                parts = [tensors.pop(name) for name in names]
                moved[f"{new}{target}{end}"] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return moved


def take_blocks(tensors: State, table: Table, depth: int, old: str, new: str) -> State:
    """Move the tensors of all blocks; ``old`` and ``new`` are put in front of a block's number."""
    blocks = [take(tensors, table, f"{old}{index}.", f"{new}{index}.") for index in range(depth)]
    return {name: tensor for block in blocks for name, tensor in block.items()}


def without_empty(state: Mapping[str, Tensor]) -> State:
    """Return the tensors that hold numbers; transformers stores registers also where there are none."""
    return {name: tensor for name, tensor in state.items() if tensor.numel()}


def change(state: State, name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Apply a function to a tensor, in place of it, if there is one of this name."""
    if name in state:
        state[name] = function(state[name]).contiguous()


def without(tensors: Mapping[str, Tensor], patterns: Iterable[str]) -> State:
    """Return the tensors whose names match none of the patterns (``*`` for any characters)."""
    patterns = tuple(patterns)
    return {name: x for name, x in tensors.items() if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def without_prefix(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> State:
    """Return the tensors without the prefix that a model for one task puts in front of the encoder's names."""
    result = dict(tensors)
    for prefix in prefixes:
        result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return result


def mlp_ratio(hidden: int, width: int) -> float:
    """Return a ratio from which the libraries' ``int(width * ratio)`` gives ``hidden``, whatever the rounding."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width
