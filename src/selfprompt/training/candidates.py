"""The candidates that ``auto`` compares: methods, and the views of the images that they learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfprompt.recipes.recipe import FREE_WITH_AUTO, Recipe, load_recipe
from selfprompt.training.folder_recipe import folder_recipe, shortened, takes_views

WITH_TEXT = ("zero-shot", "simpleshot", "ridge", "logistic", "ss-text", "gda", "clip-lora", "sep")
WITHOUT_TEXT = ("simpleshot", "ridge", "logistic", "vit-lora", "spt-deep")
ONE_SHOT = ("ss-text", "ridge")
"""The methods for data that cannot be cross-validated: with a text tower, and without."""
COMPARED_STEPS = (300, 240)
"""Optimiser steps for comparing a method that is trained, on a backbone without a text tower and on a CLIP, where the
class texts are a start (objects of the embedded suite, 16 images a class: vit-lora has 65.6 % with 150 steps and 70.8 %
with 300)."""
FINAL_STEPS = (1200, 300)
"""At most so many steps for the training of the chosen method (vit-lora on the objects: 72.9 % with 1,200)."""
CLIP_BATCH = 16
"""At most so many images in a batch on a CLIP: smaller batches learn more in the same time (CLIP-LoRA on the animals:
83.9 % with 150 steps of 32 images, 86.2 % with 300 of 16; 87.1 % with 300 of 32 takes twice the time)."""
VIEWS: Mapping[str, Mapping[str, Any]] = {
    "mirror": {"crop": 1.0, "flip": True},
    "mild": {"crop": 0.5, "flip": True},
    "published": {"crop": 0.08, "flip": True},
}
"""Random views by name: mirror images, crops of at least half of the area, and the crops of most papers."""
RANDOM_VIEWS = 4
"""Random views of each image that a head learns from, besides the image as it is."""


@dataclass(frozen=True)
class Candidate:
    """A row of the comparison.

    Attributes:
        name: The method or recipe, then how images are resized if not as in pretraining, and the views if random.
        recipe: How to train it on all training images.
    """

    name: str
    recipe: Recipe


def make_candidate(base: Recipe, name: str, images: int) -> Candidate:
    """Return a method or recipe as a candidate for so many training images; it sees each image as it is.

    Args:
        base: Gives backbone, data options, seed and device.
        name: A method or a recipe of the package.
        images: Number of training images.
    """
    recipe = folder_recipe(load_recipe(name), images)
    free = {key: getattr(base.train, key) for key in FREE_WITH_AUTO}
    recipe = replace(
        recipe,
        backbone=base.backbone,
        image_size=base.image_size,
        statistics=base.statistics,
        seed=base.seed,
        eval_batch_size=base.eval_batch_size,
        calibrate=base.calibrate,
        data=base.data,
        train=replace(recipe.train, **free),
    )
    return Candidate(name, recipe)


def for_comparison(recipe: Recipe, images: int, *, with_text: bool) -> Recipe:
    """Return the recipe with the number of steps for comparing it, so that more candidates fit into the budget."""
    return shortened(_in_batches(recipe, with_text), images, COMPARED_STEPS[with_text])


def for_all_images(recipe: Recipe, images: int, *, with_text: bool) -> Recipe:
    """Return the recipe of the chosen candidate for the training on all images, which need not be as short."""
    return shortened(_in_batches(recipe, with_text), images, FINAL_STEPS[with_text])


def _in_batches(recipe: Recipe, with_text: bool) -> Recipe:
    """Return the recipe of a method on a CLIP with smaller batches."""
    most = min(recipe.train.batch_size, CLIP_BATCH) if with_text else recipe.train.batch_size
    return recipe.changed({"batch_size": most, "accumulate": min(recipe.train.accumulate, most)})


def with_views(candidate: Candidate, views: str) -> Candidate:
    """Return the candidate with random views of this name; a head learns from four of each image."""
    changes: dict[str, Any] = dict(VIEWS[views])
    if takes_views(candidate.recipe):
        changes |= {"views": RANDOM_VIEWS, "options": {"views": RANDOM_VIEWS}}
    return Candidate(f"{candidate.name}, {views}", candidate.recipe.changed(changes))


def with_resize(candidate: Candidate, resize: str) -> Candidate:
    """Return the candidate with another way to make a square of an image, "crop", "pad" or "squash"."""
    return Candidate(f"{candidate.name}, {resize}", candidate.recipe.changed({"resize": resize}))


def default_names(with_text: bool) -> Sequence[str]:
    """Return the usual candidates for a backbone with a text tower or without."""
    return WITH_TEXT if with_text else WITHOUT_TEXT
