"""``selfprompt methods``: lists the methods, and the options of one."""

import inspect
from argparse import SUPPRESS
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from selfprompt.cli.console import make_console
from selfprompt.cli.usage import usage
from selfprompt.methods import list_methods
from selfprompt.recipes.options import AutoOptions
from selfprompt.recipes.recipe import AUTO, Recipe, load_recipe, recipe_names


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", type=str | None, nargs="?", help="method or recipe whose options to show")


def methods(options: Namespace) -> int:
    """List the methods, or the options of one."""
    if options.name:
        return _show_options(options.name)
    recipes = {name: load_recipe(name).method for name in recipe_names()}
    listed = Table(title="methods", title_justify="left")
    for column in ("method", "description", "recipes"):
        listed.add_column(column)
    for name, text in list_methods().items():
        listed.add_row(name, text, ", ".join(recipe for recipe, method in recipes.items() if method == name))
    make_console().print(listed)
    make_console().print_text("Options of one: selfprompt methods NAME")
    make_console().print_text("Train one:      selfprompt train PHOTOS --method NAME --out FOLDER")
    make_console().print_text("Compare them:   selfprompt train PHOTOS --method auto --out FOLDER")
    return 0


def _show_options(name: str) -> int:
    with usage():
        recipe = load_recipe(name)
    text, options = _documentation(recipe)
    line = f"selfprompt train PHOTOS --out FOLDER --method {name} --options.NAME VALUE"
    parser = ArgumentParser(prog="", usage=line, add_help=False)
    parser.add_class_arguments(options, "options")
    parser.set_defaults({f"options.{option}": value for option, value in recipe.options.items()})
    for action in parser._actions:
        if action.dest == "options":  # jsonargparse's own: a file of options
            action.help = SUPPRESS
    print(f"{text}\n\n{parser.format_help()}", end="")
    return 0


def _documentation(recipe: Recipe) -> tuple[str, type]:
    """Return what the recipe's method does, and the class of its options."""
    if recipe.method == AUTO:
        return "Compares methods by cross-validation on the training images and trains the best one.", AutoOptions
    from selfprompt.methods.registry import find_method

    with usage():
        method = find_method(recipe.method)
    return inspect.getdoc(method) or "", method.Options
