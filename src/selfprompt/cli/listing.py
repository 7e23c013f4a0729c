"""``selfprompt methods`` and ``selfprompt backbones``: what there is to choose from."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from selfprompt.methods import list_methods
from selfprompt.recipe import load_recipe, recipe_names


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the commands' arguments."""
    parser.add_argument("name", type=str | None, nargs="?", help="show the options of this method")


def methods(options: Namespace) -> int:
    """List the methods, or the options of one."""
    console = Console(highlight=False)
    if options.name:
        return _method(options.name, console)
    recipes = {name: load_recipe(name).method for name in recipe_names()}
    shown = Table(title="methods", title_justify="left")
    for column in ("method", "what it is", "recipes"):
        shown.add_column(column)
    for name, text in list_methods().items():
        own = [recipe for recipe, method in recipes.items() if method == name]
        shown.add_row(name, text, ", ".join(own))
    console.print(shown)
    console.print(
        "Options of one: selfprompt methods NAME. Train: selfprompt train PHOTOS --method RECIPE --out FOLDER"
    )
    return 0


def _method(name: str, console: Console) -> int:
    from selfprompt.methods.base import find

    method = find(load_recipe(name).method)
    parser = ArgumentParser(prog="", usage="selfprompt train ... --options.NAME VALUE", add_help=False)
    parser.add_class_arguments(method.Options, "options")
    console.print(f"{(method.__doc__ or '').strip()}\n", markup=False)
    console.print(parser.format_help(), markup=False)
    return 0


def backbones(options: Namespace) -> int:
    """List forms of names, and recommended models."""
    from selfprompt.towers.load import list_backbones

    shown = Table(title="backbones", title_justify="left")
    shown.add_column("name", overflow="fold")
    shown.add_column("what it is")
    for name, text in list_backbones():
        if not options.name or options.name in name:
            shown.add_row(name, text)
    Console(highlight=False).print(shown)
    return 0
