"""``selfprompt methods`` and ``selfprompt backbones``: what there is to choose from."""

import inspect
from argparse import SUPPRESS
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from selfprompt.cli.console import make_console
from selfprompt.cli.usage import UsageError, usage
from selfprompt.methods import list_methods
from selfprompt.recipes.recipe import load_recipe, recipe_names


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the commands' arguments."""
    shown = "show the options of this method or recipe" if parser.prog.endswith("methods") else "a part of the name"
    parser.add_argument("name", type=str | None, nargs="?", help=shown)


def methods(options: Namespace) -> int:
    """List the methods, or the options of one."""
    if options.name:
        return _method(options.name)
    recipes = {name: load_recipe(name).method for name in recipe_names()}
    shown = Table(title="methods", title_justify="left")
    for column in ("method", "what it is", "recipes"):
        shown.add_column(column)
    for name, text in list_methods().items():
        own = [recipe for recipe, method in recipes.items() if method == name]
        shown.add_row(name, text, ", ".join(own))
    make_console().print(shown)
    print("Options of one: selfprompt methods NAME")
    print("Train:          selfprompt train PHOTOS --method RECIPE --out FOLDER")
    return 0


def _method(name: str) -> int:
    with usage():
        recipe = load_recipe(name)
    from selfprompt.methods.registry import find

    with usage():
        method = find(recipe.method)
    line = f"selfprompt train PHOTOS --out FOLDER --method {name} --options.NAME VALUE"
    parser = ArgumentParser(prog="", usage=line, add_help=False)
    parser.add_class_arguments(method.Options, "options")
    parser.set_defaults({f"options.{option}": value for option, value in recipe.options.items()})
    for action in parser._actions:
        if action.dest == "options":  # jsonargparse's own: a file of options
            action.help = SUPPRESS
    print(f"{inspect.getdoc(method) or ''}\n\n{parser.format_help()}", end="")
    return 0


def backbones(options: Namespace) -> int:
    """List forms of names, and recommended models."""
    from selfprompt.models.loading.by_name import list_backbones

    rows = [row for row in list_backbones() if not options.name or options.name in row[0]]
    if not rows:
        raise UsageError(f"No listed backbone has {options.name!r} in its name; selfprompt backbones lists all forms.")
    shown = Table(title="backbones", title_justify="left")
    shown.add_column("name", no_wrap=True)
    shown.add_column("what it is")
    for row in rows:
        shown.add_row(*row)
    make_console().print(shown)
    return 0
