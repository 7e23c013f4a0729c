"""``selfprompt serve``: classifies images by HTTP, and shows a page for a browser."""

import os
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, make_console
from selfprompt.cli.saved_classifier import (
    CLASSES_HELP,
    add_classifier_argument,
    add_loading_options,
    load_saved_classifier,
    parse_classes,
)
from selfprompt.cli.usage import UsageError, check_at_least, usage
from selfprompt.inference.predictions import Request
from selfprompt.serving.limits import Limits
from selfprompt.utils.cores import cores
from selfprompt.utils.wording import plural, printable

if TYPE_CHECKING:
    from selfprompt.inference.answers import Model

TOKEN = "SELFPROMPT_TOKEN"
PACKAGES = ("starlette", "uvicorn", "python_multipart")
MAX_PORT = 65535
MAX_DECODERS = 4
"""Largest number of threads that decode images."""
FOR_SAVED = {
    **{"classes": None, "backbone": None, "trust": False},
    **{"device": "auto", "precision": "32-true", "float32": "auto"},
}
"""Options of saved classifiers that exported ones do not have, with their defaults."""


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        model: The classifier.
        note: A sentence that users must read; "" for none.
        sample_wise: Whether a prediction depends on its image alone.
    """

    model: "Model[Any]"
    note: str
    sample_wise: bool


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    add_classifier_argument(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 for any free one")
    parser.add_argument(
        "--token",
        type=str | None,
        help=f"what clients must know; other users of this machine cannot see it in the environment variable {TOKEN}",
    )
    parser.add_argument(
        "--allow_host", type=str | None, help="names of this server besides localhost and addresses: a.org,b.org"
    )
    parser.add_argument("--classes", type=str | None, help=CLASSES_HELP)
    parser.add_argument(
        "--unknown",
        type=float | None,
        help="answer 'unknown' for images unlike the trained classes, unless a request says otherwise; at most this "
        "share of images of these classes, such as 0.05, is refused",
    )
    parser.add_argument("--max_batch", type=int, default=32, help="most images that the model gets at a time")
    parser.add_argument(
        "--max_wait", type=float, default=5.0, help="milliseconds that a batch waits for images of other requests"
    )
    parser.add_class_arguments(Limits)
    add_loading_options(parser)
    parser.add_argument("--quiet", action="store_true", help="print the address, warnings and errors only")


def serve(options: Namespace) -> int:
    """Run the command until SIGINT or SIGTERM."""
    check_at_least(options, 1, "max_batch")
    check_at_least(options, 0, "max_wait", "port")
    names = [field.name for field in fields(Limits)]
    with usage("unknown", *names):
        default = Request(unknown=options.unknown)
        limits = Limits(**{name: options[name] for name in names})
    token = find_token(options)
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise RuntimeError(f"selfprompt serve needs {', '.join(missing)}. Install selfprompt[serve].")
    with listen(options) as listening:  # first: a port in use must not cost the time of loading
        output = Output(make_console(stderr=True), quiet=options.quiet)
        run(options, listening, output, default, limits, token)
    return 0


def find_token(options: Namespace) -> str | None:
    """Return the token of the option or the environment.

    Raises:
        UsageError: If it cannot be sent in a header.
    """
    token, source = options.token, "--token"
    if token is None and TOKEN in os.environ:
        token, source = os.environ[TOKEN], TOKEN
    if token is not None and not (token.isascii() and token.isprintable() and token.strip(" ") == token != ""):
        raise UsageError(f"{source} must be ASCII letters, digits and signs without spaces at the ends.")
    return str(token) if token is not None else None


def listen(options: Namespace) -> socket.socket:
    """Return the listening socket.

    Raises:
        UsageError: If it cannot be opened.
    """
    from selfprompt.serving.server import open_socket

    if options.port > MAX_PORT:
        raise UsageError(f"--port must be at most {MAX_PORT}, got {options.port}.")
    try:
        return open_socket(options.host, options.port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"Cannot listen at --host {options.host} --port {options.port}: {reason}. Choose others; --port 0 finds a "
            "free one."
        ) from None


def run(
    options: Namespace, listening: socket.socket, output: Output, default: Request, limits: Limits, token: str | None
) -> None:
    """Load the classifier and serve it."""
    from selfprompt.serving.app import About, make_app
    from selfprompt.serving.predictor import Predictor
    from selfprompt.serving.server import address, is_local, make_server, run_server

    errors = Output(output.console)
    served = load_served(options, output)
    for remark in served.model.remarks(default):
        output.message(f"Note: {remark}")
    if token is None and not is_local(listening):
        errors.message("Warning: everyone who reaches this address can use the classifier; --token asks for a token.")
    warnings.filterwarnings("ignore", module=r"PIL\b")  # on what was uploaded: the answer has the reason
    predictor = Predictor(
        served.model,
        max_batch=batch_limit(served.sample_wise, options.max_batch, output),
        max_wait=options.max_wait / 1000,
        max_pixels=limits.max_pixels,
        decoders=min(MAX_DECODERS, cores()),
    )
    about = About(Path(options.classifier).resolve().name, served.note, default)
    hosts = {name.strip().lower() for name in (options.allow_host or "").split(",")} - {""} | {options.host.lower()}
    app = make_app(predictor, about, limits, hosts=hosts, token=token, say=errors.message)
    line = (
        f"Serving {about.title} ({plural(len(served.model.classes), 'class')}) at {address(listening)}; Ctrl-C stops."
    )
    try:
        run_server(make_server(app, limits, lambda: print(printable(line), flush=True)), listening)
    finally:
        predictor.close()


def load_served(options: Namespace, output: Output) -> Served:
    """Load a saved classifier, or an exported one, which needs no torch.

    Raises:
        UsageError: If an option does not go with an exported classifier.
        ValueError: If it cannot be loaded.
    """
    from selfprompt.runtime.folder import RECORD

    if not (Path(options.classifier) / RECORD).is_file():
        classifier = load_saved_classifier(options, output)
        if options.classes is not None:
            with output.stage("encoding the class texts"):
                classifier = classifier.with_classes(parse_classes(options.classes))
        method = classifier.method
        return Served(classifier.model(), method.backbone.note, method.traits.batch_independent)
    for name, default in FOR_SAVED.items():
        if options[name] != default:
            raise UsageError(f"--{name} does not go with {options.classifier}, which is an exported classifier.")
    from selfprompt.runtime import load

    with output.stage("loading"):
        exported = load(options.classifier)
    return Served(exported.model(), exported.record.note, exported.record.sample_wise)


def batch_limit(sample_wise: bool, asked: int, output: Output) -> int:
    """Return how many images the model may get at a time: 1 if it would mix images of different requests."""
    if not sample_wise:
        output.message("Note: its predictions depend on the other images of a batch, so each image is predicted alone.")
    return asked if sample_wise else 1
