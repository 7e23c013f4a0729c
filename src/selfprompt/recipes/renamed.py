"""Options and recipe keys that were renamed: old recipes, artifacts and checkpoints keep working; imports no torch."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

_TEXT = {"words": "init_text"}
_CONTEXT = {**_TEXT, "position": "class_token_position"}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "cocoop": _TEXT,
    "coop": _CONTEXT,
    "ivlp": _TEXT,
    "kgcoop": _CONTEXT,
    "maple": _TEXT,
    "prograd": _CONTEXT,
    "promptsrc": _TEXT,
    "sep": _TEXT,
    "spt": {"authors": "released"},
}
"""Methods with the former and the present names of their renamed options."""


def with_present_names(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method under their present names, and log each former name once.

    Raises:
        ValueError: If an option is given under both names.
    """
    renamed = RENAMED.get(method, {})
    for former in options.keys() & renamed.keys():
        if renamed[former] in options:
            raise ValueError(
                f"{method} has the option {former!r} under its present name, {renamed[former]!r}, too: keep that one."
            )
        _log_once(f"The option {former!r} of {method} is now called {renamed[former]!r}.")
    return {renamed.get(name, name): value for name, value in options.items()}


def with_former_names(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method under the names that they first had, which ids and checkpoints contain."""
    former = {present: name for name, present in RENAMED.get(method, {}).items()}
    return {former.get(name, name): value for name, value in options.items()}


@cache
def _log_once(message: str) -> None:
    logger.warning(message)


RECIPE_KEYS: Mapping[str, str] = {"accelerator": "device", "log_tensorboard": "log_to"}
"""Former and present names of renamed recipe keys; none of them is part of an id or of a checkpoint."""
FORMER_VALUES: Mapping[str, Mapping[str, Any]] = {"log_tensorboard": {"true": "tensorboard", "false": []}}
"""Former names of recipe keys whose values have changed, too, with their values as text and the present ones."""


def with_present_keys(values: Mapping[str, Any], *, log: bool = True) -> dict[str, Any]:
    """Return the values of a recipe under the present names of their keys, and log each former name once.

    Raises:
        ValueError: If a key is given under both names.
    """
    for former, present in RECIPE_KEYS.items():
        if former in values and present in values:
            raise ValueError(f"{former} is the former name of {present}, and both are given: keep {present}.")
        if log and former in values:
            _log_once(f"{former} is now called {present}.")
    return {RECIPE_KEYS.get(key, key): present_value(key, value) for key, value in values.items()}


def present_value(key: str, value: Any) -> Any:
    """Return what is now written for the value of a recipe key that may be a former one."""
    return FORMER_VALUES.get(key, {}).get(str(value).lower(), value)
