"""``selfprompt train``: tunes a backbone on labelled images and saves the classifier."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from selfprompt.cli.console import Output, table
from selfprompt.cli.parsing import Parser
from selfprompt.cli.result_report import REPORT, write_training_report
from selfprompt.cli.usage import UsageError, usage
from selfprompt.methods import option_texts
from selfprompt.recipes.options import AutoOptions, DataOptions, TrainOptions
from selfprompt.recipes.recipe import AUTO, FIELDS, Recipe, check_overrides, load_recipe, read_recipe, shipped_recipe
from selfprompt.recipes.renamed import RECIPE_KEYS, RENAMED
from selfprompt.reports.accuracy import (
    ACCURACY_COLUMNS,
    SELECTION_COLUMNS,
    accuracy_rows,
    calibration_sentences,
    estimate_sentence,
    floor_sentences,
    selection_rows,
)

FIRST_PAGE = {"help", "help_all", "data", "out", "method", "backbone", "shots", "holdout", "seed", "resume", "config"}
FIRST_PAGE |= {"html"}
"""Arguments that --help shows; --help-all shows the rest too."""
RECIPE_FIELDS = [name for names in FIELDS.values() for name in names if name not in ("method", "options")]


def add_arguments(parser: Parser, given: Sequence[str]) -> None:
    """Declare the command's arguments; their defaults come from the recipe that ``given`` names."""
    recipe = base_recipe(given)
    parser.former_names |= RECIPE_KEYS
    parser.add_argument("--help_all", action="help", help="show every option, with those of the method, and exit")
    parser.add_argument(
        "data",
        type=str | None,
        nargs="?",
        help="folder with a folder per class, folder with train/ and test/, or a .csv or .parquet file",
    )
    parser.add_argument("--out", type=str | None, help="output folder for the classifier and its results")
    parser.add_argument("--method", type=str, help="name of a method or recipe (see selfprompt methods)")
    parser.add_argument("--config", type=str | None, help="recipe file (.yaml); other options override it")
    parser.add_argument("--backbone", type=str, help="name of the frozen model (see selfprompt backbones)")
    parser.add_argument(
        "--image_size",
        type=int | None,
        help="height and width of the backbone's images in pixels, a multiple of its patch size; default: its own",
    )
    parser.add_argument(
        "--statistics", type=Literal["backbone", "imagenet"], help="mean and std for normalising images"
    )
    parser.add_argument(
        "--budget",
        type=str | None,
        help="with --method auto: time to compare methods, such as 10min; default: 85s on a CLIP, else 5min",
    )
    parser.add_argument("--seed", type=int, help="seed of every random choice")
    parser.add_argument("--eval_batch_size", type=int, help="images per batch in evaluation")
    parser.add_argument(
        "--calibrate",
        type=Literal["auto", "always", "never"],
        help="calibrate the classifier, for predict --unknown and --coverage: auto does so where it is cheap, with "
        "heads or with validation images; always trains five times more",
    )
    parser.add_argument("--trust", action="store_true", help="allow the recipe file to import its method from a module")
    parser.add_argument("--resume", action="store_true", help="resume the interrupted run in --out")
    parser.add_argument("--html", action="store_true", help=f"write a page of the result to OUT/{REPORT}")
    parser.add_argument(
        "--published",
        action="store_true",
        help="keep the published values of the method, instead of fitting them to the number of images",
    )
    parser.add_argument("--print_config", action="store_true", help="print the recipe of this run and exit")
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


def add_method_options(parser: Parser, recipe: Recipe) -> None:
    """Declare the options of the recipe's method."""
    if recipe.method == AUTO:
        parser.add_class_arguments(AutoOptions, "options")
        return
    options = method_options(recipe)
    if not options:
        parser.add_argument("--options", type=dict[str, Any], default={}, help="options of the method, by name")
    group, texts = parser.add_argument_group(f"Options of {recipe.method}"), option_texts(recipe.method)
    for name, value in options.items():
        kind = {list: list[Any], tuple: list[Any], type(None): Any}.get(type(value), type(value))
        default = list(value) if isinstance(value, tuple) else value
        text = texts.get(name, "").replace("%", "%%")
        group.add_argument(f"--options.{name}", type=kind, default=default, help=text)
    renamed = RENAMED.get(recipe.method, {})
    parser.former_names |= {f"options.{former}": f"options.{present}" for former, present in renamed.items()}


def method_options(recipe: Recipe) -> Mapping[str, Any]:
    """Return all options of the recipe's method with their values in the recipe, or else their defaults.

    Imports a method only if no recipe of the package lists its options; one that cannot be imported has none yet.
    """
    if shipped_recipe(recipe.method):
        return recipe.options
    from selfprompt.methods.registry import find_method

    try:
        declared: tuple[Field[Any], ...] = fields(find_method(recipe.method).Options)
    except ValueError:
        return recipe.options
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory() for field in declared
    }
    return {**{name: value for name, value in defaults.items() if value is not MISSING}, **recipe.options}


def early_arguments(given: Sequence[str]) -> argparse.Namespace:
    """Parse --method, --config and --trust, on which the other options depend."""
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
    """Load the recipe of --method, overridden by the recipe file of --config."""
    early = early_arguments(given)
    if early.config is None:
        return load_recipe(early.method or AUTO, trust=early.trust)
    return read_recipe(Path(early.config), early.method, trust=early.trust)


def final_recipe(options: Namespace, base: Recipe) -> Recipe:
    """Return the base recipe with the changes of the command line, and with every option of its method."""
    changes = recipe_changes(options, base)
    check_overrides(base.method, changes)
    return base.changed({**changes, "options": {**declared_options(options), **changes.get("options", {})}})


def recipe_changes(options: Namespace, base: Recipe) -> dict[str, Any]:
    """Return the values of the command line by the keys of the recipe: those that differ from it, and those named."""
    before, named = base.flat(), {word.partition("=")[0].removeprefix("--") for word in options.given}
    changes = {
        key: getattr(options, key) for key in RECIPE_FIELDS if key in named or getattr(options, key) != before[key]
    }
    shown = method_options(base) if base.method != AUTO else {}
    chosen = {
        name: value
        for name, value in declared_options(options).items()
        if f"options.{name}" in named or name not in shown or list_of(value) != list_of(shown[name])
    }
    if options.budget is not None:
        if base.method != AUTO:
            raise ValueError(f"budget needs the method auto, got {base.method}.")
        chosen["budget"] = options.budget
    return {**changes, "options": chosen} if chosen else changes


def declared_options(options: Namespace) -> dict[str, Any]:
    """Return the method's options by name."""
    return options.options if isinstance(options.options, dict) else vars(options.options)


def list_of(value: Any) -> Any:
    """Return a tuple as the list that the command line has for it."""
    return list(value) if isinstance(value, tuple) else value


def train(options: Namespace) -> int:
    """Run the command."""
    recipe = checked_recipe(options)
    if options.print_config:
        print(recipe.to_yaml(), end="")
        return 0
    if options.data is None:
        raise UsageError(
            "Images are needed: selfprompt train PHOTOS --out OUT, where PHOTOS has a folder for each class."
        )
    if options.out is None:
        raise UsageError("--out is needed: the folder to save the classifier to.")
    check_run(recipe)
    from selfprompt.training.tune import tune

    output = Output(quiet=options.quiet)
    as_published = options.published or options.config is not None
    base = base_recipe([f"--method={options.method}"]) if not as_published else recipe
    classifier = tune(
        options.data,
        method=options.method,
        recipe=recipe if as_published else None,
        out=options.out,
        resume=options.resume,
        progress=not options.quiet,
        reporter=output,
        **({} if as_published else recipe_changes(options, base)),
    )
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_rank() == 0:
        print_results(classifier.results, recipe, options.out, output)
        if options.html:
            write_training_report(classifier, options, output)
    return 0


def checked_recipe(options: Namespace) -> Recipe:
    """Return the recipe of the command line.

    Raises:
        UsageError: If a value is not valid.
    """
    given = [f"--method={options.method}", *([f"--config={options.config}"] if options.config else [])]
    given += ["--trust"] if options.trust else []
    with usage(*RECIPE_FIELDS, "budget"):
        return final_recipe(options, base_recipe(given))


def check_run(recipe: Recipe) -> None:
    """Check the options of the method and the devices before anything is loaded.

    Raises:
        UsageError: If one is not valid.
    """
    from selfprompt.training.auto import check_options
    from selfprompt.training.distributed import check_devices

    with usage(*recipe.options, group="options."):
        check_options(recipe)
    with usage("precision", "device", "devices"):
        check_devices(recipe.train)


def print_results(results: Mapping[str, Any], recipe: Recipe, out: str, output: Output) -> None:
    """Print the accuracy and where the classifier is."""
    rows = accuracy_rows(results)
    selection = results.get("selection", {})
    if selection.get("candidates"):
        title = "cross-validated on the training images"
        output.console.print(table(title, SELECTION_COLUMNS, selection_rows(selection)))
    if rows:
        output.console.print(table(f"{recipe.method} on {recipe.backbone}", ACCURACY_COLUMNS, rows))
        for sentence in (*floor_sentences(results), *calibration_sentences(results["tuned"])):
            output.console.print_text(sentence)
    elif "estimate" in selection:
        output.console.print_text(estimate_sentence(selection["estimate"]))
    else:
        output.message("The accuracy is unknown: there are no test images.")
    for warning in results["warnings"]:
        output.console.print_text(f"Warning: {warning}")
    if results["backbone_note"]:
        output.console.print_text(f"Note: {results['backbone_note']}")
    output.message(f"Saved to {out} ({results['seconds']:.0f} s). Use it: selfprompt predict {out} IMAGES...")
