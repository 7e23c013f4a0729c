"""``selfprompt``: reads the command line, runs one command, and turns errors into one sentence.

Imports no torch: commands import what they need when they run.
"""

import io
import logging
import os
import re
import shutil
import sys
import textwrap
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from selfprompt.cli.printable import printable
from selfprompt.cli.usage import UsageError, check_not_empty
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.yaml_text import check_plain

COMMANDS = {
    "train": "tune a backbone to a folder of labelled images",
    "eval": "measure a saved classifier on labelled images",
    "predict": "classify images with a saved classifier",
    "bench": "run a published protocol over data sets, methods and seeds",
    "report": "show the tables and plots of a bench",
    "analyze": "show what the prompts of a saved classifier do",
    "data": "list, look at, check and fetch data sets",
    "methods": "list the methods, or the options of one",
    "backbones": "list names of frozen models",
    "demo": "see the whole job on small images, without downloads",
}
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list like [1,2]",
    "dict": "a mapping",
    "NoneType": "null",
}
RESUME_HINTS = {
    "train": " A run with --out can go on: repeat the command with --resume.",
    "bench": " Repeat the command to go on.",
    "predict": " A job with --out goes on when the command is repeated.",
}
MODULES = {"eval": "evaluate", "methods": "listing", "backbones": "listing"}


class Parser(ArgumentParser):
    """Shows options with dashes; both spellings are understood."""

    def format_help(self, *args: Any, **options: Any) -> str:
        text = super().format_help(*args, **options)
        return re.sub(r"(?<![\w-])--[a-z][\w.]*", lambda option: option[0].replace("_", "-"), text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0 if given else 2
    if given[0] == "--version":
        print(import_module("selfprompt").__version__)
        return 0
    command = given[0]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        return _fail(f"unknown command {command!r}.{hint} Commands: {', '.join(COMMANDS)}.", 2)
    return run(command, given[1:])


def run(command: str, given: Sequence[str]) -> int:
    """Parse one command's arguments and run it."""
    module = import_module(f"selfprompt.cli.{MODULES.get(command, command)}")
    return run_module(module, command, f"selfprompt {command}", COMMANDS[command], given)


def run_module(module: ModuleType, command: str, prog: str, description: str, given: Sequence[str]) -> int:
    """Parse a command's arguments and run it.

    Args:
        module: Has ``add_arguments(parser, given)`` and a function of the command's name.
        command: The command's name.
        prog: What starts it, for help and messages.
        description: What it does, in one line.
        given: Its arguments; both spellings of an option, with dashes or underscores, are taken.

    Returns:
        The exit status.
    """
    given = _underscored(given)
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(
        prog=prog,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,  # train has one of its own
    )
    try:
        check_words(given)
        module.add_arguments(parser, given)
        options = parser.parse_args(list(given))
        check_not_empty(options)
    except ArgumentError as error:
        return _fail(explain_parse_error(error, parser), 2)
    except (ValueError, TypeError, OSError) as error:
        return _fail(str(error), 2)
    _silence_libraries()
    return _run(command, getattr(module, command), options)


def _run(command: str, function: Callable[[Namespace], int], options: Namespace) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = function(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail(f"interrupted.{RESUME_HINTS.get(command, '')}", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; say nothing more
        return 0
    except UsageError as error:
        return _fail(str(error), 2)
    except Exception as error:
        if os.environ.get("SELFPROMPT_DEBUG"):
            raise
        expected = isinstance(error, (ValueError, TypeError, RuntimeError, OSError, ImportError)) and str(error)
        unexpected = f"{type(error).__name__}: {error}. This should not happen; SELFPROMPT_DEBUG=1 shows where it did."
        return _fail(str(error) if expected else unexpected, 1)


def _silence_libraries() -> None:
    """Keep libraries from logging beside the command's own output; SELFPROMPT_DEBUG lets them."""
    if not os.environ.get("SELFPROMPT_DEBUG"):
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        logging.basicConfig(handlers=[logging.NullHandler()])


def overview() -> str:
    """What ``selfprompt --help`` prints."""
    rows = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: selfprompt COMMAND ...\n\n"
        "Adapt a frozen vision transformer or CLIP to your own images with a few learned prompts.\n\n"
        f"{rows}\n\n"
        "selfprompt COMMAND --help tells more. A first run without any data: selfprompt demo\n\n"
        "Exit status: 0 done; 2 wrong usage: an option or its value, whatever the data are; 1 anything else that went\n"
        "wrong: files, data, a run that failed; 130 interrupted."
    )


def check_words(given: Sequence[str]) -> None:
    """Raise ValueError for a value that must not be read as YAML, which is how values of options are read."""
    for word in given:
        name, _, value = word.partition("=")
        try:
            check_plain(value if name.startswith("--") else word)
        except ValueError as error:
            raise ValueError(f"{word[:40]}{'...' if len(word) > 40 else ''}: {error}.") from None


def explain_parse_error(error: ArgumentError, parser: ArgumentParser) -> str:
    """A parser's error as one sentence, with the nearest option or choice where there is one."""
    text = str(error.message)
    help_hint = f"See {parser.prog} --help."
    if found := re.search(r"unrecognized arguments: (?:--([\w.]+))?(.*)", text, re.DOTALL):
        if not found[1]:
            return f"unexpected {found[2].strip()!r}. {help_hint} Put quotes around names with spaces."
        group, dot, name = found[1].rpartition(".")  # an option of the method is options.NAME
        known = [action.dest.removeprefix(group + dot) for action in parser._actions if action.dest.startswith(group)]
        hint = did_you_mean(name, known, f"--{group}{dot}{{}}".format) or f" {help_hint}"
        return f"unknown option --{found[1]}.{hint}"
    if found := re.search(r"argument --([\w.]+): expected one argument", text):
        return f"--{found[1]} needs a value. {help_hint}"
    if found := re.search(r"argument --([\w.]+): ignored explicit argument (.*)", text):
        return f"--{found[1]} takes no value, got {found[2]}."
    if found := re.search(r'Parser key "([\w.]+)":(.*)(?:Got|Given) value: (.*)', text, re.DOTALL):
        return _wrong_value(*found.groups())
    return f"{' '.join(text.split())}. {help_hint}"


def _wrong_value(name: str, expected: str, value: str) -> str:
    """What an option takes, and what it got."""
    choices = [
        choice for listed in re.findall(r"Literal\[(.*?)\]", expected) for choice in re.findall(r"'(.*?)'", listed)
    ]
    kinds = [KINDS.get(kind, kind) for kind in re.findall(r"Expected (?:a )?<class '(\w+)'>", expected)]
    kinds += [f"one of {', '.join(choices)}"] if choices else []
    hint = did_you_mean(value, choices, str)
    return f"--{name} must be {' or '.join(kinds) or 'another value'}, got {value!r}.{hint}"


def _underscored(arguments: Sequence[str]) -> list[str]:
    """``--on-bad-image=skip`` as ``--on_bad_image=skip``: both spellings of an option are fine."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    changed = []
    for argument in arguments[:end]:
        name, equals, value = argument.partition("=")
        changed.append(name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument)
    return changed + list(arguments[end:])


def _fail(message: str, status: int) -> int:
    rank = os.environ.get("LOCAL_RANK", "0")  # with several devices each has a process, and what it says is its own
    text = f"selfprompt{'' if rank == '0' else f' (process {rank})'}: {printable(message)}"
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    print(text, file=sys.stderr)
    return status


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Show a warning as the command's own; names in it are not sent to the terminal as they are."""
    print(f"selfprompt: warning: {printable(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
