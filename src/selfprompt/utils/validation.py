"""Checks values against the types of a dataclass, and names types in messages."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
    Mapping: "names with values",
}


def check_types(record: type, values: Mapping[str, Any]) -> None:
    """Check values against the types of a dataclass; names that it does not declare are ignored.

    Raises:
        ValueError: For the first wrong value; the message names it, its type or choices, and the value.
    """
    for name, kind in get_type_hints(record).items():
        if name in values and not _fits(values[name], kind):
            raise ValueError(f"{name} must be {_type_name(kind)}, got {_short(values[name])}.")


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value has a type; types that options do not use accept any value."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple:  # tuple[int, ...], which is a list in YAML
        return isinstance(value, (list, tuple)) and all(_fits(entry, inner[0]) for entry in value)
    if isinstance(value, bool):
        return kind is bool or (origin or kind) not in TYPE_NAMES
    expected = (int, float) if kind is float else origin or kind
    return not isinstance(expected, (type, tuple)) or isinstance(value, expected)


def _short(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _type_name(kind: Any) -> str:
    """Return the name of a type for a message."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(_type_name(choice) for choice in inner)
    if origin is tuple:
        return f"a list, each {_type_name(inner[0])}"
    return TYPE_NAMES.get(origin or kind, str(kind))
