"""``selfprompt push``: publishes a saved classifier on the Hugging Face hub."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.prompt import Prompt

from selfprompt.cli.console import Output, make_console
from selfprompt.cli.usage import UsageError

LICENSE_HELP = "the classifier's licence, as the hub writes it: apache-2.0, cc-by-4.0, other, ..."
DATA_HELP = "what the training images are, where they are from, and under which terms"


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("classifier", type=str, help="output folder of `selfprompt train`")
    parser.add_argument("repository", type=str, help="owner/name on the hub; it is made if it does not exist")
    parser.add_argument("--license", type=str | None, help=f"{LICENSE_HELP} (asked for if left out)")
    parser.add_argument("--data", type=str | None, help=f"{DATA_HELP} (asked for if left out)")
    parser.add_argument("--private", action="store_true", help="make a new repository that only its owners see")


def push(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.inference.hub import push

    output = Output(make_console(stderr=True))
    answers = {name: _given_or_asked(options, name, text) for name, text in _QUESTIONS.items()}
    with output.stage("uploading"):
        commit = push(options.classifier, options.repository, private=options.private, say=output.message, **answers)
    output.message(f'Anyone who can see it loads it with selfprompt.load("{options.repository}").')
    print(commit)
    return 0


_QUESTIONS = {"license": LICENSE_HELP, "data": DATA_HELP}


def _given_or_asked(options: Namespace, name: str, question: str) -> str:
    """Return the value of an option; without one, ask at the terminal.

    Raises:
        UsageError: If there is no terminal.
    """
    value = getattr(options, name)
    if value is None and not sys.stdin.isatty():
        raise UsageError(f"--{name} is needed: {question}.")
    return str(Prompt.ask(f"{name} ({question})") if value is None else value)
