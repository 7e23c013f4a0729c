"""Fits a published recipe to a user's images: published values suit the data sets of their papers."""

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from selfprompt.methods.registry import find_method
from selfprompt.recipes.recipe import Recipe

STEPS = 300
"""Least number of optimiser steps."""
PLAIN_VIEWS: dict[str, Any] = {"augment": "none", "crop": None, "flip": None}
"""Training options for seeing each image as it is."""


def folder_recipe(recipe: Recipe, images: int, given: Collection[str] = ()) -> Recipe:
    """Return the recipe for so many training images.

    - A batch has at most a quarter of the images, and an incomplete batch is not dropped.
    - There are at least 300 steps: 50 epochs of 40 images would be a hundred.
    - Each image is seen as it is. Random crops and mirror images suit photographs of objects, but not digits or text.

    Args:
        recipe: A recipe of the package; its method is not ``auto``.
        images: Number of training images, at least 1.
        given: Keys of the recipe that the user has set, "options.NAME" for options; their values stay.
    """
    train = recipe.train
    parts = train.accumulate if "accumulate" in given else 1
    batch = train.batch_size if "batch_size" in given else max(parts, min(train.batch_size, images // 4))
    epochs = max(train.epochs, _epochs_of(STEPS, images, batch))
    changes: dict[str, Any] = {"batch_size": batch, "epochs": epochs, "drop_last": False}
    changes["accumulate"] = min(train.accumulate, batch)
    if not {*PLAIN_VIEWS, "views"} & set(given):
        changes |= PLAIN_VIEWS
        if takes_views(recipe) and "options.views" not in given:
            changes["options"] = {"views": 0}
    return recipe.changed({key: value for key, value in changes.items() if key not in given})


def shortened(recipe: Recipe, images: int, steps: int) -> Recipe:
    """Return the recipe with no more epochs than this number of optimiser steps takes for so many training images."""
    return with_epochs(recipe, min(recipe.train.epochs, _epochs_of(steps, images, recipe.train.batch_size)))


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with another number of epochs, and the same share of them for the warm-up."""
    return recipe.changed(
        {"epochs": epochs, "warmup_epochs": recipe.train.warmup_epochs * epochs // recipe.train.epochs}
    )


def _epochs_of(steps: int, images: int, batch_size: int) -> int:
    return math.ceil(steps / math.ceil(images / batch_size))


def takes_views(recipe: Recipe) -> bool:
    """Return whether the recipe's method has the option ``views``: a head that learns from random views."""
    return "views" in (field.name for field in fields(find_method(recipe.method).Options))
