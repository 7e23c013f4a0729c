"""Whether values are of the kinds that a dataclass declares, and how a message names a kind; knows nothing else."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
    Mapping: "names with values",
}


def check_kinds(record: type, values: Mapping[str, Any]) -> None:
    """Check that values are of the kinds that a dataclass declares; names that it does not have are left alone.

    Raises:
        ValueError: For the first that is not; the message names it, its kind or choices, and the value.
    """
    for name, kind in get_type_hints(record).items():
        if name in values and not _fits(values[name], kind):
            raise ValueError(f"{name} must be {_in_words(kind)}, got {_shown(values[name])}.")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; of kinds that options do not use, anything is."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple:  # tuple[int, ...], which is a list in YAML
        return isinstance(value, (list, tuple)) and all(_fits(entry, inner[0]) for entry in value)
    if isinstance(value, bool):
        return kind is bool or (origin or kind) not in WORDS
    expected = (int, float) if kind is float else origin or kind
    return not isinstance(expected, (type, tuple)) or isinstance(value, expected)


def _shown(value: Any) -> str:
    """A value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _in_words(kind: Any) -> str:
    """A kind as a message names it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(_in_words(choice) for choice in inner)
    if origin is tuple:
        return f"a list, each {_in_words(inner[0])}"
    return WORDS.get(origin or kind, str(kind))
