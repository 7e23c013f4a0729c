"""``selfprompt``: runs one command and turns errors into one sentence.

Imports no torch: each command imports what it needs when it runs.
"""

import io
import logging
import os
import shlex
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from jsonargparse import Namespace, set_parsing_settings

from selfprompt.cli.parsing import Parser, check_arguments, explain_parse_error, note, underscored, with_present_names
from selfprompt.cli.terminal_text import wrapped
from selfprompt.cli.usage import UsageError, check_not_empty
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.wording import printable

COMMANDS = {
    "train": "tune a backbone on a folder of labelled images",
    "eval": "evaluate a saved classifier on labelled images",
    "predict": "classify images with a saved classifier",
    "push": "publish a saved classifier on the Hugging Face hub",
    "serve": "classify images by HTTP, with a page for a browser",
    "export": "write a saved classifier for use without torch: ONNX, web page, Triton",
    "review": "look for wrong labels, copies and outliers in labelled images",
    "bench": "run a published protocol over data sets, methods and seeds",
    "report": "show the tables and plots of a benchmark",
    "analyze": "show what the prompts of a saved classifier do",
    "data": "list, show, check and download data sets",
    "methods": "list the methods, or the options of one",
    "backbones": "search the names of frozen models, and what works with them",
    "demo": "run everything once on small images, without downloads",
}
RESUME_HINTS = {
    "train": " Repeat the command with --resume to continue a run with --out.",
    "bench": " Repeat the command to continue.",
    "predict": " Repeat the command to continue a job with --out.",
}
MODULES = {"eval": "evaluate"}


class NoteHandler(logging.Handler):
    """Prints what a library module logs as a note of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        note(printable(record.getMessage()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for an error, 2 for wrong usage, 130 if interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(wrapped(overview(), sys.stdout))
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
    """Run one command with its arguments."""
    module = import_module(f"selfprompt.cli.{MODULES.get(command, command)}")
    return run_module(module, command, f"selfprompt {command}", COMMANDS[command], given)


def run_module(module: ModuleType, command: str, prog: str, description: str, given: Sequence[str]) -> int:
    """Parse a command's arguments and run it.

    Args:
        module: Has ``add_arguments(parser, given)`` and a function named as the command, which gets the options and, as
            ``given``, the arguments.
        command: Name of the command.
        prog: How it is started, for help and messages.
        description: What it does, in one line.
        given: Its arguments; options may be spelled with dashes or underscores.

    Returns:
        The exit status.
    """
    command_line = shlex.join([*prog.split(), *given])
    given = underscored(given)
    _set_up_logging()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(
        prog=prog,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,  # train declares its own
    )
    try:
        check_arguments(given)
        module.add_arguments(parser, given)
        options = parser.parse_args(with_present_names(given, parser.former_names))
        check_not_empty(options, parser)
        options.command_line = command_line  # pages of results show it
        options.given = given
    except ArgumentError as error:
        return _fail(explain_parse_error(error, parser), 2)
    except (ValueError, TypeError, OSError) as error:
        return _fail(str(error), 2)
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; print nothing more
        return 0
    except UsageError as error:
        return _fail(str(error), 2)
    except Exception as error:
        if os.environ.get("SELFPROMPT_DEBUG"):
            raise
        expected = isinstance(error, (ValueError, TypeError, RuntimeError, OSError, ImportError)) and str(error)
        unexpected = f"{type(error).__name__}: {error}. This is a bug; SELFPROMPT_DEBUG=1 shows where it happened."
        return _fail(str(error) if expected else unexpected, 1)


def _set_up_logging() -> None:
    """Show renamed options as notes, and what other libraries log only with SELFPROMPT_DEBUG."""
    renamed = logging.getLogger("selfprompt.recipes.renamed")
    if not any(isinstance(handler, NoteHandler) for handler in renamed.handlers):
        renamed.addHandler(NoteHandler())
    if not os.environ.get("SELFPROMPT_DEBUG"):
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        logging.basicConfig(handlers=[logging.NullHandler()])


def overview() -> str:
    """Return the text of ``selfprompt --help``."""
    rows = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: selfprompt COMMAND ...\n\n"
        "Adapt a frozen vision transformer or CLIP to your own images with a few learned prompts.\n\n"
        f"{rows}\n\n"
        "Details: selfprompt COMMAND --help. A first run without any data: selfprompt demo\n\n"
        "Exit status: 0 success; 1 an error in files, data or a run; 2 wrong usage, such as an unknown option or an\n"
        "invalid value; 130 interrupted."
    )


def _fail(message: str, status: int) -> int:
    rank = os.environ.get("LOCAL_RANK", "0")  # with several devices, each process prints its own errors
    text = f"selfprompt{'' if rank == '0' else f' (process {rank})'}: {printable(message)}"
    print(wrapped(text, sys.stderr), file=sys.stderr)
    return status


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as a line of the command."""
    print(wrapped(f"selfprompt: warning: {printable(str(message))}", sys.stderr), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
