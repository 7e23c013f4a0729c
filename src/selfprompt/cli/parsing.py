"""Parses arguments: both spellings of an option, former names, and a parser's errors as one sentence."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from selfprompt.cli.terminal_text import wrapped
from selfprompt.recipes.renamed import present_value
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.yaml_text import check_plain

TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list like [1,2]",
    "dict": "a mapping",
    "NoneType": "null",
}


class Parser(ArgumentParser):
    """Takes options with dashes or underscores, and shows them with dashes.

    Attributes:
        former_names: Present names of renamed options by their former ones, both without leading dashes. A command
            adds to it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.former_names: dict[str, str] = {}

    def format_help(self, *args: Any, **options: Any) -> str:
        """Return the help text, with dashes in the names of options."""
        text = super().format_help(*args, **options)
        return re.sub(r"(?<![\w-])--[a-z][\w.]*", lambda option: dashed(option[0]), text)


def dashed(name: str) -> str:
    """Return the name of an option with dashes: ``on-bad-image``."""
    return name.replace("_", "-")


def underscored(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with underscores in the names of options, as parsers declare them."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = []
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        options.append(name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument)
    return options + list(arguments[end:])


def with_present_names(arguments: Sequence[str], former_names: Mapping[str, str]) -> list[str]:
    """Return the arguments with renamed options under their present names; a note on stderr names each."""
    renamed = {f"--{former}": f"--{present}" for former, present in former_names.items()}
    result = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if name in renamed:
            result[index] = renamed[name] + equals + str(present_value(name[2:], value))
            if not equals and index + 1 < len(result):
                result[index + 1] = str(present_value(name[2:], result[index + 1]))
            note(f"{dashed(name)} is now called {dashed(renamed[name])}.")
    return result


def note(message: str) -> None:
    """Print a note on stderr."""
    print(wrapped(f"selfprompt: note: {message}", sys.stderr), file=sys.stderr)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ValueError for a value that must not be parsed as YAML, as the values of options are."""
    for argument in arguments:
        name, _, value = argument.partition("=")
        try:
            check_plain(value if name.startswith("--") else argument)
        except ValueError as error:
            raise ValueError(f"{argument[:40]}{'...' if len(argument) > 40 else ''}: {error}.") from None


def explain_parse_error(error: ArgumentError, parser: ArgumentParser) -> str:
    """Return a parser's error as one sentence, with the nearest option or choice where one is near."""
    text = str(error.message)
    see_help = f"See {parser.prog} --help."
    if match := re.search(r"unrecognized arguments: (?:--([\w.]+))?(.*)", text, re.DOTALL):
        if not match[1]:
            return f"unexpected {match[2].strip()!r}. {see_help} Put quotes around names with spaces."
        group, dot, name = match[1].rpartition(".")  # an option of the method is options.NAME
        known = [action.dest.removeprefix(group + dot) for action in parser._actions if action.dest.startswith(group)]
        hint = did_you_mean(name, known, lambda near: f"--{group}{dot}{dashed(str(near))}") or f" {see_help}"
        return f"unknown option --{dashed(match[1])}.{hint}"
    if match := re.search(r"argument --([\w.]+): expected one argument", text):
        return f"--{dashed(match[1])} needs a value. {see_help}"
    if match := re.search(r"argument --([\w.]+): ignored explicit argument (.*)", text):
        return f"--{dashed(match[1])} takes no value, got {match[2]}."
    if match := re.search(r'Parser key "([\w.]+)":(.*)(?:Got|Given) value: (.*)', text, re.DOTALL):
        return _wrong_value(*match.groups())
    return f"{' '.join(text.split())}. {see_help}"


def _wrong_value(name: str, expected: str, value: str) -> str:
    """Say which values an option takes, and which one came."""
    choices = [
        choice for listed in re.findall(r"Literal\[(.*?)\]", expected) for choice in re.findall(r"'(.*?)'", listed)
    ]
    types = [TYPE_NAMES.get(kind, kind) for kind in re.findall(r"Expected (?:a )?<class '(\w+)'>", expected)]
    choices = list(dict.fromkeys(choices))  # a union lists its choices twice
    types += [f"one of {', '.join(choices)}"] if choices else []
    hint = did_you_mean(value, choices, str)
    return f"--{dashed(name)} must be {' or '.join(types) or 'another value'}, got {value!r}.{hint}"
