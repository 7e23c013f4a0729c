"""``selfprompt data``: lists, shows and checks data sets, and downloads published ones."""

from collections.abc import Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.markup import escape
from rich.table import Table

from selfprompt.cli.console import make_console
from selfprompt.cli.usage import UsageError, check_at_least, usage
from selfprompt.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from selfprompt.data.suites.task import SuiteTask

ACTIONS = {
    "list": "list the suites and their tasks",
    "show": "write a picture with images of each class of a task",
    "check": "check your own images, or a folder of published data sets",
    "manifest": "write a manifest of images whose labels are in file names or in a table",
    "get": "download a published data set",
}


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the arguments of the action that ``given`` starts with."""
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", type=str, help=f"{actions} (details: selfprompt data ACTION --help)")
    action = next(iter(given), "")
    if not action:
        raise ValueError(f"An action is needed: selfprompt data {', '.join(ACTIONS)}.")
    if action.startswith("-"):
        return
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS, str)
        raise ValueError(f"unknown action {action!r}.{hint} Actions: {', '.join(ACTIONS)}.")
    parser.description = ACTIONS[action]
    if action == "list":
        parser.add_argument("name", type=str | None, nargs="?", help="list only this suite")
    elif action == "show":
        parser.add_argument("name", type=str, help="task, such as embedded/animals")
        parser.add_argument("--out", type=str | None, help="output file (.png); default: the name of the task")
        parser.add_argument("--root", type=str | None, help="folder of the data, for published suites")
        parser.add_argument("--rows", type=int, default=40, help="maximum number of classes, spread evenly over all")
    else:
        _module(action).add_arguments(parser, given[1:])


def data(options: Namespace) -> int:
    """Run the command."""
    if options.action == "list":
        return list_suites(options)
    if options.action == "show":
        return show(options)
    status: int = getattr(_module(options.action), options.action)(options)
    return status


def list_suites(options: Namespace) -> int:
    """Print a table per suite."""
    from selfprompt.data.suites import SUITES, list_tasks

    with usage():
        tasks = {suite: list_tasks(suite) for suite in ([options.name] if options.name else SUITES)}
    for suite, names in tasks.items():
        ships = suite == "embedded"
        title = "in the package" if ships else "needs a data folder: selfprompt data check, selfprompt data get"
        listed = Table(title=f"{suite} ({title})", title_justify="left")
        for column in ("task", "classes", "train / val / test", "shifted domains (images)", "licence or terms"):
            listed.add_column(column, justify="right" if column in ("classes", "train / val / test") else "left")
        for name in names:
            listed.add_row(*map(escape, shipped_row(name) if ships else published_row(suite, name)))
        make_console().print(listed)
    make_console().print_text("Show one:     selfprompt data show embedded/animals")
    make_console().print_text(
        "Train on one: selfprompt train embedded/animals --method sep --backbone embedded/clip --out FOLDER"
    )
    return 0


def shipped_row(name: str) -> list[str]:
    """Return the table row of a task of the package, read from its files."""
    from selfprompt.data.suites import load_task
    from selfprompt.data.suites.embedded import list_licences

    task = load_task(f"embedded/{name}")
    counts = [len(task.dataset.select(split)) for split in ("train", "val", "test")]
    domains = ", ".join(f"{domain} ({len(dataset.test)})" for domain, dataset in task.domains.items())
    return [
        f"embedded/{name}",
        str(len(task.dataset.classes)),
        _counts(counts),
        domains,
        ", ".join(list_licences(name)),
    ]


def published_row(suite: str, name: str) -> list[str]:
    """Return the table row of a published task, from its specification."""
    from selfprompt.data.suites.sources import SOURCES
    from selfprompt.data.suites.specs import SPECS

    spec, source = SPECS[f"{suite}/{name}"], SOURCES.get(f"{suite}/{name}")
    domains = import_module(f"selfprompt.data.suites.{suite}").DOMAINS if name == "imagenet" else ()
    terms = source.terms if source else ""
    return [spec.key, str(spec.classes), _counts(spec.counts), ", ".join(domains), terms]


def show(options: Namespace) -> int:
    """Write the picture of a task."""
    from selfprompt.data.suites import check_task, load_task
    from selfprompt.data.suites.contact_sheet import draw_contact_sheet
    from selfprompt.utils.files import write_atomically

    check_at_least(options, 1, "rows")
    path = Path(options.out or f"{options.name.replace('/', '-')}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out must end in .png, got {path}.")
    with usage():
        check_task(options.name)
    task = load_task(options.name, options.root)
    picture = BytesIO()
    draw_contact_sheet(task, options.rows).save(picture, format="png")
    write_atomically(path, picture.getvalue())
    for line in describe_task(task):
        make_console().print_text(line)
    make_console().print_text(f"Picture: {path.resolve()}")
    return 0


def describe_task(task: "SuiteTask") -> list[str]:
    """Return lines that describe a task."""
    counts = ", ".join(f"{images} {split}" for split, images, *_ in task.dataset.summary())
    domains = ", ".join(f"{name} ({len(shifted.classes)} classes)" for name, shifted in task.domains.items())
    lines = [f"{task.suite}/{task.name}: {len(task.dataset.classes)} classes; images: {counts}."]
    lines += [f"Shifted domains: {domains}."] if domains else []
    lines += [f"Template: {task.template}", *task.dataset.notes]
    return lines if task.source in lines or not task.source else [*lines, task.source]


def _counts(counts: Sequence[int]) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def _module(action: str) -> Any:
    return import_module(f"selfprompt.cli.data_{action}")
