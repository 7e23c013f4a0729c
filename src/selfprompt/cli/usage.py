"""Wrong usage: errors in the command line itself, which end a command with status 2 instead of 1."""

from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.parsing import dashed


class UsageError(ValueError):
    """An option or its value is wrong, whatever the data are."""


@contextmanager
def usage(*names: str, group: str = "") -> Iterator[None]:
    """Turn a ValueError or TypeError raised inside into a UsageError.

    Args:
        names: Options, with underscores; a message that begins with one gets the option's full name.
        group: What precedes these names in the options, such as "options.".
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        word, space, rest = str(error).partition(" ")
        option = f"--{group}{dashed(word)}" if word in names else word
        raise UsageError(f"{option}{space}{rest}") from error


def check_not_empty(options: Namespace, parser: ArgumentParser) -> None:
    """Raise UsageError for the first empty argument, such as ``--out ""``; options of a method may be empty."""
    names = {action.dest: next(iter(action.option_strings), action.dest) for action in parser._actions}
    for name, value in vars(options).items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and not text.strip() for text in texts):
            raise UsageError(f"{dashed(names.get(name, name))} must not be empty: give it a value, or leave it out.")


def check_at_least(options: Namespace, smallest: int, *names: str) -> None:
    """Raise UsageError for the first of these options that is below ``smallest``."""
    for name in names:
        if options[name] is not None and options[name] < smallest:
            raise UsageError(f"--{dashed(name)} must be at least {smallest}, got {options[name]}.")
