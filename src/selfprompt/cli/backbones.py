"""``selfprompt backbones``: lists the names of frozen models, and what works with them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table
from rich.text import Text

from selfprompt.cli.console import Output, make_console, table
from selfprompt.cli.usage import UsageError

if TYPE_CHECKING:
    from selfprompt.models.loading.coverage import Support

MOST = 12
"""Rows of published models of one library that a list has at most."""
KINDS = {"heads": (False, False), "text": (False, True), "image prompts": (True, False), "both": (True, True)}
"""Kinds of methods: whether they need the blocks of the image side, and a text side."""


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "word", type=str | None, nargs="?", help="list all names that contain this text, published models included"
    )
    parser.add_argument(
        "--coverage", action="store_true", help="build every architecture without weights and list what works with it"
    )


def backbones(options: Namespace) -> int:
    """List names, or what works with every architecture."""
    if options.coverage:
        return _list_coverage(options.word or "")
    if options.word:
        return _list_found(options.word)
    from selfprompt.models.loading.names import FORMS, RECOMMENDED

    console = make_console()
    for title, rows in (("forms of names", FORMS), ("recommended", RECOMMENDED)):
        console.print(_names(title, ("name", "description"), rows))
    console.print_text("Search all names:           selfprompt backbones WORD, such as dinov2, siglip or vit_small")
    console.print_text("What works with each model: selfprompt backbones --coverage")
    return 0


def _list_found(word: str) -> int:
    """List the names that contain a word, with the kinds of methods that work."""
    from selfprompt.models.loading.catalogue import search
    from selfprompt.models.loading.coverage import support_of

    output = Output()
    found = {kind: entries for kind, entries in search(word).items() if entries}
    if not found:
        raise UsageError(f"No name of a backbone contains {word!r}. List the forms: selfprompt backbones.")
    shown = {kind: entries[:MOST] for kind, entries in found.items()}
    models = list(dict.fromkeys(entry.model for entries in shown.values() for entry in entries if entry.model))
    with output.stage("building the models without weights") as progress:
        works = {}
        for number, model in enumerate(models):
            progress(number, len(models))
            works[model] = _works(support_of(model))
    for kind, entries in shown.items():
        columns = ("name", "description", "works with") if kind != "forms" else ("name", "description")
        rows = [(entry.name, entry.description, works.get(entry.model, "")) for entry in entries]
        output.console.print(_names(kind, columns, [row[: len(columns)] for row in rows]))
        if len(found[kind]) > MOST:
            output.message(f"... and {len(found[kind]) - MOST} more of {kind}: give a longer word")
    _explain(output)
    return 0


def _list_coverage(word: str) -> int:
    """List what works with each architecture, and the totals."""
    from selfprompt.models.loading.coverage import architectures, support_of

    output = Output()
    weights = {model: count for model, count in architectures().items() if word.casefold() in model.casefold()}
    if not weights:
        raise UsageError(f"No architecture has {word!r} in its name. List all: selfprompt backbones --coverage.")
    supports = {}
    with output.stage("building the architectures without weights") as progress:
        for number, model in enumerate(weights):
            progress(number, len(weights))
            supports[model] = support_of(model)
    rows = [
        (model, str(weights[model]), *("yes" if _works_with(support, kind) else "" for kind in KINDS))
        for model, support in supports.items()
    ]
    output.console.print(table("coverage", ("architecture", "weights", *KINDS), rows))
    output.console.print(table("totals", ("", *KINDS), _totals(supports, weights)))
    for line in _refusals(supports):
        output.message(line)
    _explain(output)
    return 0


def _totals(supports: Mapping[str, "Support"], weights: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return, for each library, how many architectures and pretrained weights each kind of method works with."""
    rows = []
    for library in dict.fromkeys(model.partition("/")[0] for model in supports):
        models = [model for model in supports if model.startswith(f"{library}/")]
        able = [[model for model in models if _works_with(supports[model], kind)] for kind in KINDS]
        rows.append((f"{library}: architectures", *(f"{len(some)} of {len(models)}" for some in able)))
        total = sum(weights[model] for model in models)
        rows.append((f"{library}: weights", *(f"{sum(weights[m] for m in some)} of {total}" for some in able)))
    return rows


def _refusals(supports: Mapping[str, "Support"]) -> list[str]:
    """Return a line for each reason why architectures do not load."""
    reasons: dict[str, list[str]] = {}
    for model, support in supports.items():
        if support.refusal:
            reason = support.refusal.removeprefix(f"{model} ").removeprefix("is not supported: ")
            reasons.setdefault(reason, []).append(model)
    return [f"{', '.join(models)}: {reason}" for reason, models in reasons.items()]


def _works_with(support: "Support", kind: str) -> bool:
    blocks, text = KINDS[kind]
    return not support.refusal and support.blocks >= blocks and support.text >= text


def _works(support: "Support") -> str:
    """Return the kinds of methods that work."""
    return ", ".join(kind for kind in KINDS if _works_with(support, kind)) or "nothing yet"


def _explain(output: Output) -> None:
    """Print which methods are of which kind, from their traits."""
    from selfprompt.methods import method_names
    from selfprompt.methods.registry import find_method

    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for name in method_names():
        method = find_method(name)
        traits = method.traits_for(method.Options())
        needs = ("image" in traits.edits, traits.needs_text)
        kinds[next(kind for kind, needed in KINDS.items() if needed == needs)].append(name)
    for kind, names in kinds.items():
        output.message(f"{kind}: {', '.join(names)}")


def _names(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column, what is typed, is never broken."""
    listed = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        listed.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        listed.add_row(*map(Text, row))
    return listed
