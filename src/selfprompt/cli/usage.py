"""Wrong usage: errors in the command line itself, which end a command with status 2 instead of 1."""

from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import Namespace


class UsageError(ValueError):
    """An option, or a name given for one, is wrong whatever the data are."""


@contextmanager
def usage() -> Iterator[None]:
    """Count the errors of what is done inside as wrong usage."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def check_not_empty(options: Namespace) -> None:
    """Raise UsageError for the first argument that is given as nothing, such as ``--out ""``; a method's own may be."""
    for name, value in vars(options).items():
        words = value if isinstance(value, list) else [value]
        if any(isinstance(word, str) and not word.strip() for word in words):
            raise UsageError(f"{name} must not be empty: give it a value, or leave it out.")


def check_at_least(options: Namespace, smallest: int, *names: str) -> None:
    """Raise UsageError for the first of these options that is a smaller number."""
    for name in names:
        if options[name] is not None and options[name] < smallest:
            raise UsageError(f"--{name} must be at least {smallest}, got {options[name]}.")
