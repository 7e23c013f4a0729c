"""``selfprompt``: reads the command line, runs one command, and turns errors into one sentence.

Imports no torch: commands import what they need when they run.
"""

import difflib
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

COMMANDS = {
    "train": "tune a backbone to a folder of labelled images",
    "eval": "measure a saved classifier on labelled images",
    "predict": "classify images with a saved classifier",
    "methods": "list the methods, or the options of one",
    "backbones": "list names of frozen models",
    "demo": "see the whole job on small images, without downloads",
}
MODULES = {"eval": "evaluate", "methods": "listing", "backbones": "listing"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    given = [_underscored(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0 if given else 2
    if given[0] == "--version":
        print(import_module("selfprompt").__version__)
        return 0
    command = given[0]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return _fail(f"unknown command {command!r}.{hint} Commands: {', '.join(COMMANDS)}.", 2)
    return run(command, given[1:])


def run(command: str, given: Sequence[str]) -> int:
    """Parse one command's arguments and run it."""
    module = import_module(f"selfprompt.cli.{MODULES.get(command, command)}")
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=f"selfprompt {command}", description=COMMANDS[command], exit_on_error=False)
    try:
        module.add_arguments(parser, given)
        options = parser.parse_args(list(given))
    except ArgumentError as error:
        return _fail(explain(error, parser), 2)
    except ValueError as error:
        return _fail(str(error), 2)
    return _run(getattr(module, command), options)


def _run(function: object, options: Namespace) -> int:
    try:
        return int(function(options) or 0)  # type: ignore[operator]
    except KeyboardInterrupt:
        return _fail("interrupted. A run with --out can go on: repeat the command with --resume.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; say nothing more
        return 0
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("SELFPROMPT_DEBUG"):
            raise
        return _fail(str(error), 1)


def overview() -> str:
    """What ``selfprompt --help`` prints."""
    rows = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: selfprompt COMMAND ...\n\n"
        "Adapt a frozen vision transformer or CLIP to your own images with a few learned prompts.\n\n"
        f"{rows}\n\n"
        "selfprompt COMMAND --help tells more. A first run without any data: selfprompt demo"
    )


def explain(error: ArgumentError, parser: ArgumentParser) -> str:
    """A parser's error as one sentence, with the nearest option where a name is unknown."""
    text = str(error.message if isinstance(error, ArgumentError) else error)
    unknown = re.search(r"unrecognized arguments: --([\w.]+)", text) or re.search(r'option "?([\w.]+)"?', text)
    if unknown:
        known = [action.dest for action in parser._actions]
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f" Did you mean --{near[0]}?" if near else " See --help; a method's own options are --options.NAME."
        return f"unknown option --{unknown[1]}.{hint}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = " ".join(lines).replace("typing.Literal", "").replace("Parser key ", "option ")
    return re.sub(r"<class '(\w+)'>", r"\1", text)


def _underscored(argument: str) -> str:
    """``--on-bad-image=skip`` as ``--on_bad_image=skip``: both spellings of an option are fine."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _fail(message: str, status: int) -> int:
    print(f"selfprompt: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
