"""The identity of a run: what it must share with the checkpoint that it resumes from, as plain JSON values."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfprompt.data.class_description import description_record
from selfprompt.data.dataset import ArchivedFile, Dataset, Item, Source
from selfprompt.recipes.options import LATER_OPTIONS, TrainOptions
from selfprompt.recipes.recipe import Recipe
from selfprompt.recipes.renamed import with_former_names

if TYPE_CHECKING:
    from selfprompt.methods.base import Method

CHANGEABLE = ("devices", "device", "float32", "workers", "checkpoint_every", "keep_every", "log_to")
"""Options that a resumed run may change: they alter the result by rounding at most."""


def run_identity(method: "Method", dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Return method, options, backbone, classes, images and resizing of a run, wherever the images are stored now."""
    options, resize = with_former_names(recipe.method, asdict(method.options)), recipe.data.resize
    return {
        "method": recipe.method,
        "options": {name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
        "backbone": method.backbone.fingerprint,
        "classes": list(method.classes),
        "images": image_identities(dataset.train),
        **({} if resize == LATER_OPTIONS["resize"] else {"resize": resize}),
        **description_record(method.descriptions),
    }


def checkpoint_identity(
    method: "Method", steps: int, options: TrainOptions, seed: int, run: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Add what training decides to the identity of a run.

    Args:
        method: Gives names and shapes of the trainable parameters.
        steps: Optimiser steps per epoch.
        options: All but the changeable ones count; later options at their default are left out.
        seed: Seed of the run.
        run: What ``run_identity`` returned, or other JSON values.
    """
    fixed = {name: value for name, value in asdict(options).items() if name not in CHANGEABLE}
    identity = {
        **(run or {}),
        "train": {name: value for name, value in fixed.items() if (name, value) not in LATER_OPTIONS.items()},
        "seed": seed,
        "steps_per_epoch": steps,
        "tensors": {name: list(tensor.shape) for name, tensor in method.trainable().items()},
    }
    result: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return result


def image_identities(items: Sequence[Item]) -> list[str]:
    """Return relative path, bytes and label of each image; moving all images together does not change them."""
    sources = [str(item.source) for item in items]
    folder = os.path.commonprefix(sources).rpartition(os.sep)[0]  # noqa: RUF071 (a source need not be a path)
    sizes = [_file_size(item.source) for item in items]
    return [
        f"{source.removeprefix(folder)}:{size}:{item.label}"
        for source, size, item in zip(sources, sizes, items, strict=True)
    ]


def _file_size(source: Source) -> int:
    """Return the bytes of an image's file; 0 where the image is not a file."""
    if isinstance(source, ArchivedFile):
        return source.size
    return source.stat().st_size if isinstance(source, Path) else 0
