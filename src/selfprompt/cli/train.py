"""``selfprompt train``: a folder of photos in, a tuned classifier out."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from selfprompt.cli.console import Output, table
from selfprompt.cli.parsing import Parser
from selfprompt.cli.usage import UsageError, usage
from selfprompt.methods import option_texts
from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.recipe import Recipe, load_recipe, read_recipe
from selfprompt.recipes.renamed import RECIPE_KEYS
from selfprompt.reports.accuracy import ACCURACY_COLUMNS, accuracy_rows

FIRST_PAGE = ("help", "help_all", "data", "out", "method", "backbone", "shots", "holdout", "seed", "resume", "config")
"""What --help shows; --help-all shows the rest, too."""


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments; the recipe that ``given`` names supplies their defaults."""
    recipe = base_recipe(given)
    parser.former_names |= RECIPE_KEYS
    parser.add_argument("--help_all", action="help", help="show every option, the method's own among them, and exit")
    parser.add_argument(
        "data",
        type=str | None,
        nargs="?",
        help="folder of class folders, folder with train/ and test/, or .csv/.parquet",
    )
    parser.add_argument("--out", type=str | None, help="folder for the classifier and its results")
    parser.add_argument("--method", type=str, help="method or shipped recipe (selfprompt methods)")
    parser.add_argument("--config", type=str | None, help="recipe file (.yaml); other options override it")
    parser.add_argument("--backbone", type=str, help="frozen model (selfprompt backbones)")
    parser.add_argument("--statistics", type=Literal["backbone", "imagenet"], help="mean and std of the images")
    parser.add_argument("--seed", type=int, help="seed of every random choice")
    parser.add_argument("--eval_batch_size", type=int, help="images a batch in evaluation")
    parser.add_argument(
        "--trust", action="store_true", help="let the code run that the recipe file names as its method"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the interrupted run in --out")
    parser.add_argument("--print_config", action="store_true", help="print the recipe of this run and stop")
    parser.add_argument("--quiet", action="store_true", help="print results only")
    parser.add_class_arguments(DataOptions)
    parser.add_class_arguments(TrainOptions)
    add_method_options(parser, recipe)
    defaults = {**recipe.flat(), "method": early_arguments(given).method or recipe.method}
    del defaults["options"]
    parser.set_defaults(defaults)
    if "--help_all" not in given:
        for action in parser._actions:
            if action.dest not in FIRST_PAGE:
                action.help = argparse.SUPPRESS


def add_method_options(parser: ArgumentParser, recipe: Recipe) -> None:
    """Declare the method's own options: a shipped method's recipe lists them all; of one's own any name is taken."""
    if not recipe.options:
        parser.add_argument("--options", type=dict[str, Any], default={}, help="the method's own options, by name")
    group, texts = parser.add_argument_group(f"Options of {recipe.method}"), option_texts(recipe.method)
    for name, value in recipe.options.items():
        kind = {list: list[Any], type(None): Any}.get(type(value), type(value))
        text = texts.get(name, "").replace("%", "%%")
        group.add_argument(f"--options.{name}", type=kind, default=value, help=text)


def early_arguments(given: Sequence[str]) -> argparse.Namespace:
    """The values of --method, --config and --trust, before anything else is known."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--method")
    early.add_argument("--config")
    early.add_argument("--trust", action="store_true")
    try:
        arguments, _ = early.parse_known_args(list(given))
    except argparse.ArgumentError as error:
        raise ValueError(f"{error.argument_name} needs a value.") from error
    return arguments


def base_recipe(given: Sequence[str]) -> Recipe:
    """The recipe that --method and --config name together; a file's values stand over the method's own."""
    early = early_arguments(given)
    if early.config is None:
        return load_recipe(early.method or Recipe.method, trust=early.trust)
    return read_recipe(Path(early.config), early.method, trust=early.trust)


def final_recipe(options: Namespace, base: Recipe) -> Recipe:
    """The base recipe with what the command line changed."""
    before = base.flat()
    keys = [f.name for f in (*fields(DataOptions), *fields(TrainOptions))]
    keys += ["backbone", "statistics", "seed", "eval_batch_size"]
    changes = {key: getattr(options, key) for key in keys if getattr(options, key) != before[key]}
    own = options.options
    return base.changed({**changes, "options": own if isinstance(own, dict) else vars(own)})


def train(options: Namespace) -> int:
    """Run the command."""
    given = [f"--method={options.method}", *([f"--config={options.config}"] if options.config else [])]
    given += ["--trust"] if options.trust else []
    with usage():
        recipe = final_recipe(options, base_recipe(given))
    if options.print_config:
        print(recipe.to_yaml(), end="")
        return 0
    if options.data is None:
        raise UsageError(
            "Images are needed: selfprompt train PHOTOS --out OUT, where PHOTOS has a folder for each class."
        )
    if options.out is None:
        raise UsageError("--out is needed: the folder that the classifier is saved to.")
    from selfprompt.methods.registry import find, make_options
    from selfprompt.training.distributed import check_devices
    from selfprompt.training.tune import tune

    with usage():
        make_options(find(recipe.method), recipe.options)
        check_devices(recipe.train)
    output = Output(quiet=options.quiet)
    classifier = tune(
        options.data,
        recipe=recipe,
        out=options.out,
        resume=options.resume,
        progress=not options.quiet,
        reporter=output,
    )
    from torch import distributed

    if distributed.is_initialized() and distributed.get_rank() > 0:
        return 0  # the first process tells
    results = classifier.results
    rows = accuracy_rows(results)
    if rows:
        output.console.print(table(f"{recipe.method} on {recipe.backbone}", ACCURACY_COLUMNS, rows))
    else:
        output.message("There are no test images, so the accuracy is not known.")
    if results["backbone_note"]:
        output.console.print_text(f"Note: {results['backbone_note']}")
    output.message(
        f"Saved to {options.out} ({results['seconds']:.0f} s). Use it: selfprompt predict {options.out} IMAGES..."
    )
    return 0
