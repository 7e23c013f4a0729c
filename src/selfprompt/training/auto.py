"""``auto``: chooses the method for a data set by cross-validation on its training images alone."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from selfprompt.methods.checks import can_edit
from selfprompt.methods.registry import find_method, make_options
from selfprompt.methods.traits import Traits
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.options import AutoOptions
from selfprompt.recipes.recipe import AUTO, SUFFIXES, Recipe, load_recipe
from selfprompt.training.candidates import (
    ONE_SHOT,
    VIEWS,
    default_names,
    for_all_images,
    for_comparison,
    make_candidate,
)
from selfprompt.training.comparison import Comparison
from selfprompt.training.crossfit import cross_fit, make_splits
from selfprompt.training.reporter import Reporter
from selfprompt.training.selection import corrected_estimate
from selfprompt.training.selection_results import (
    comparison_identity,
    read_results,
    shares_of,
    table_rows,
    write_results,
)
from selfprompt.training.steps import RunData
from selfprompt.utils.validation import check_types
from selfprompt.utils.wording import listing


@dataclass(frozen=True)
class Choice:
    """What to train on all training images.

    Attributes:
        recipe: The recipe of the chosen candidate, or the given one.
        record: The record of the comparison as JSON values; empty if there was none.
        logits: Cross-fitted logits of the training images, (N, C), NaN for an image in no fold, of a method that is
            trained in the units of ``cross_fit_training``; None if not known.
        rate_known: Whether the recipe has a learning rate that was searched for these images.
    """

    recipe: Recipe
    record: dict[str, Any]
    logits: Tensor | None = None
    rate_known: bool = False


def check_options(recipe: Recipe) -> None:
    """Raise ValueError if the recipe has wrong options for its method; loads nothing."""
    if recipe.method == AUTO:
        auto_options(recipe)
    else:
        make_options(find_method(recipe.method), recipe.options)


def auto_options(recipe: Recipe) -> AutoOptions:
    """Return the options of ``auto``; the candidates and views must be known."""
    check_types(AutoOptions, recipe.options)
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.options.items()}
    options = AutoOptions(**values)
    for name in options.candidates:
        if name == AUTO:
            raise ValueError("auto cannot be a candidate of itself.")
        if ":" in name or name.endswith(SUFFIXES):  # a recipe file from elsewhere must not import code by this way
            raise ValueError(f"candidates must be methods or recipes of the package, got {name!r}.")
        load_recipe(name)
    for name in options.views:
        if name not in VIEWS:
            raise ValueError(f"views must be of {', '.join(VIEWS)}; got {name!r}.")
    return options


def resolve_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> Choice:
    """Return the recipe with ``auto`` replaced by the chosen method."""
    if recipe.method != AUTO:
        return Choice(recipe, {})
    return select_recipe(recipe, backbone, data, fabric, folder, reporter)


def select_recipe(
    recipe: Recipe, backbone: Backbone, data: RunData, fabric: Any, folder: Path | None, reporter: Reporter
) -> Choice:
    """Compare candidates by cross-validation, and choose the simplest one within one standard error of the best.

    First come the methods that need only features; then, for the best of these, another way to make a square of an
    image, and random views; then the methods that are trained, with the resizing and the views that were best.

    Args:
        recipe: Its method is ``auto``; its data options and seed hold for every candidate.
        backbone: The frozen backbone.
        data: The images; only the training images are used.
        fabric: A launched Fabric with one process.
        folder: Folder for the results so far, which a resumed run reads; None writes nothing.
        reporter: Receives one message per candidate.

    Raises:
        ValueError: With several processes, or if no candidate fits into the budget.
    """
    if fabric.world_size > 1:
        raise ValueError("auto compares candidates on one device; use --devices 1, or name a method.")
    options, with_text = auto_options(recipe), backbone.text is not None
    images = len(data.dataset.train)
    names = _candidate_names(options, backbone)
    try:
        splits = make_splits(data.dataset, folds=options.folds, repeats=options.repeats, seed=recipe.seed)
    except ValueError as error:
        name = options.candidates[0] if options.candidates else ONE_SHOT[not with_text]
        reporter.message(f"{error} Nothing can be compared, so the method is {name}.")
        return Choice(make_candidate(recipe, name, images).recipe, {"selection": {"chosen": name, "candidates": []}})
    start = time.monotonic()
    identity = comparison_identity(recipe, names, backbone, data.dataset)
    keep = partial(write_results, folder, identity)
    known = read_results(folder, identity)
    seconds = options.seconds(with_text=with_text)
    comparison = Comparison(backbone, data, splits, fabric, seconds, reporter, known, keep)
    chosen = comparison.run([make_candidate(recipe, name, images) for name in names], options.views)
    results = comparison.results
    if chosen is None:
        raise ValueError(f"No candidate fits into the budget of {seconds:g} s; give more time, or name a method.")
    compared = [result for result in results if result.shares is not None]
    estimate = corrected_estimate(shares_of(compared), [r.cost for r in compared], seed=recipe.seed)
    reporter.message(f"chose {chosen.name} of {len(compared)} candidates in {time.monotonic() - start:.0f} s")
    if comparison.skipped:
        minutes = math.ceil((sum(r.seconds for r in results) + sum(comparison.skipped.values())) / 60)
        reporter.message(f"a budget of about {minutes}min compares {listing(list(comparison.skipped))} as well")
    record = {"chosen": chosen.name, "candidates": table_rows(results), "estimate": asdict(estimate)}
    best = next(result for result in compared if result.name == chosen.name)
    trained = chosen.recipe if best.lr is None else chosen.recipe.changed({"lr": best.lr})
    logits = best.logits
    if logits is None:  # the comparison was resumed
        with reporter.stage(f"cross-validating {chosen.name}") as progress:
            compared_recipe = for_comparison(trained, images, with_text=with_text)
            logits = cross_fit(compared_recipe, backbone, data, splits[0], fabric, progress)
    final = for_all_images(trained, images, with_text=with_text)
    return Choice(final, {"selection": record}, logits, rate_known=best.lr is not None)


def _candidate_names(options: AutoOptions, backbone: Backbone) -> Sequence[str]:
    """Return the names of the candidates, without those that edit an image side of which only features are known.

    Raises:
        ValueError: If none is left, or new class names are wanted and no candidate takes them.
    """
    names = options.candidates or default_names(backbone.text is not None)
    traits = {name: _traits_of(load_recipe(name)) for name in names}
    names = [name for name in names if can_edit(traits[name], backbone)]
    if not names:
        raise ValueError(
            f"Of {backbone.name} only the image features are known, and all candidates edit its image side; add a "
            "method that reads features, such as ridge."
        )
    if not options.new_classes:
        return names
    able = [name for name in names if traits[name].open_vocabulary]
    if backbone.text is None or not able:
        raise ValueError(
            f"new_classes needs a CLIP and a candidate that reads class names; {backbone.name} with "
            f"{', '.join(names)} has none."
        )
    return able


def _traits_of(recipe: Recipe) -> Traits:
    method = find_method(recipe.method)
    return method.traits_for(make_options(method, recipe.options))
