"""`tune`: from labelled images to a trained classifier in a folder."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from selfprompt.data.dataset import SPLITS
from selfprompt.data.readers.read import is_task
from selfprompt.inference.artifact import CONFIG
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.registry import build_method, find, make_options
from selfprompt.metrics import Metrics
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import Recipe, load_recipe
from selfprompt.training.distributed import make_fabric
from selfprompt.training.loop import CHECKPOINT, FitResult
from selfprompt.training.steps import (
    LogReporter,
    Reporter,
    RunData,
    choose_images,
    read_images,
    record,
    train,
    with_statistics,
    zero_shot,
)
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.locks import folder_claimed

RESULT, RECIPE = "result.json", "recipe.yaml"


@torch.random.fork_rng(devices=[])  # layers draw a start of their own before ours; the caller's random state stays
def tune(
    data: Any,
    *,
    method: str = "sep",
    backbone: str | Backbone | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    resume: bool = False,
    progress: bool = False,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> Classifier:
    """Adapt a frozen backbone to labelled images.

    Args:
        data: A folder of class folders, a folder with train/ (val/) test/, a CSV or Parquet manifest, or a torchvision
            or Hugging Face data set; or a ready ``Dataset``, which is taken as it is.
        method: A method or recipe: "sep", "spt-deep", "coop", ...; the recipe's values are the defaults.
        backbone: A name (see ``list_backbones``) or a loaded backbone; None is the recipe's.
        out: Folder for the artifact, the result and what resuming needs, for one run at a time; None keeps everything
            in memory.
        options: The method's own options, "text_prompts" say.
        recipe: A recipe of one's own instead of ``method``.
        resume: Go on with the interrupted run in ``out``.
        progress: Show a bar while training, in a terminal.
        reporter: Is told what happens.
        overrides: Any other value of the recipe: shots, epochs, lr, seed, classes, ...

    Returns:
        The tuned classifier, evaluated on the test images; ``results`` has the numbers.

    Raises:
        ValueError: If an argument, the data or the backbone's name is wrong, or another run writes into ``out``.
        RuntimeError: If training diverges or a file cannot be written.
    """
    reporter = reporter or LogReporter()
    recipe = (recipe or load_recipe(method)).changed({**overrides, **({"options": options} if options else {})})
    if backbone is not None:
        recipe = recipe.changed({"backbone": backbone if isinstance(backbone, str) else backbone.name})
    folder = None if out is None else Path(out)
    _check_folder(folder, resume)
    make_options(find(recipe.method), recipe.options)  # wrong options and missing images are told before work is done
    dataset = choose_images(data, recipe)
    fabric = make_fabric(recipe.train)
    fabric.launch()
    if not fabric.is_global_zero:
        reporter, progress = LogReporter(), False
    start = time.monotonic()
    with _kept_to_this_run(folder, fabric):
        if fabric.is_global_zero:
            _check_folder(folder, resume)  # again: another run may have ended there meanwhile
        found = backbone if isinstance(backbone, Backbone) else _load_backbone(recipe.backbone, reporter)
        found.check_finite()
        found = with_statistics(found, recipe.statistics)
        if folder is not None and fabric.is_global_zero:
            write_atomically(folder / RECIPE, recipe.to_yaml().encode())  # also shows that the folder can be written to
        run_data = read_images(dataset, recipe, data_key(data), reporter)
        names, check = run_data.dataset.classes, not run_data.dataset.ids
        built = build_method(recipe.method, found, names, seed=recipe.seed, check=check, **recipe.options)
        built.to(fabric.device)
        classifier = Classifier(built, found.preprocess, recipe.eval_batch_size, recipe.flat())
        baseline = zero_shot(classifier, run_data, reporter)
        result = train(classifier, run_data, recipe, fabric, folder, reporter, resume=resume, progress=progress)
        classifier.results = measure(classifier, run_data, baseline, result, time.monotonic() - start, reporter)
        classifier.results = {**classifier.results, "data": data_place(data)}
        if folder is not None and fabric.is_global_zero:
            save_run(classifier, folder)
    return classifier


@contextmanager
def _kept_to_this_run(folder: Path | None, fabric: Any) -> Iterator[None]:
    """Keep others out of the output folder; the leading process holds it, and the others of the run hear of it.

    Raises:
        ValueError: If another run writes there, in all processes of this one.
    """
    if folder is None:
        yield
        return
    with folder_claimed(folder) if fabric.is_global_zero else nullcontext(True) as mine:
        if not fabric.broadcast(mine):
            raise ValueError(
                f"{folder} is being written by another run. Wait until that has ended, or choose another folder."
            )
        yield


def _check_folder(folder: Path | None, resume: bool) -> None:
    """Raise ValueError where a run would overwrite another one."""
    if folder is None:
        if resume:
            raise ValueError("resume needs out, the folder of the interrupted run.")
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another name for the output folder.")
    if (folder / RESULT).exists():
        raise ValueError(f"{folder} holds a finished run. Choose another folder, or delete it first.")
    if (folder / CHECKPOINT).exists():
        if not resume:
            raise ValueError(
                f"{folder} holds an unfinished run. Go on with it (--resume), delete it, or choose another folder."
            )
    elif (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds a saved classifier. Choose another folder, or delete it first.")


def data_key(data: Any) -> str:
    """A hash that tells whether a path is the one a classifier was tuned on; empty for objects."""
    if not isinstance(data, (str, Path)):
        return ""
    return hashlib.sha256(os.fsencode(Path(data).resolve())).hexdigest()


def data_place(data: Any) -> str:
    """Where the images are, for the result on this machine (an artifact does not tell it); empty for objects."""
    if is_task(data):
        return str(data)
    return str(Path(data).resolve()) if isinstance(data, (str, Path)) else ""


def _load_backbone(name: str, reporter: Reporter) -> Backbone:
    with reporter.stage(f"loading {name}"):
        backbone = load_backbone(name, say=reporter.message)
    if backbone.note:
        reporter.message(backbone.note)
    return backbone


def measure(
    classifier: Classifier,
    data: RunData,
    baseline: Metrics | None,
    result: FitResult | None,
    seconds: float,
    reporter: Reporter,
) -> dict[str, Any]:
    """Evaluate on the test images; returns the record of the run."""
    dataset, note = data.dataset, classifier.method.backbone.note
    tuned = None
    if dataset.test:
        with reporter.stage("evaluating on the test images") as progress:
            tuned = classifier.evaluate(dataset.test, data.store, data.features, progress=progress)
    return {
        **record(classifier, dataset, result),
        "tuned": tuned and tuned.to_json(),
        "zero_shot": baseline and baseline.to_json(),
        "images": {split: len(dataset.select(split)) for split in SPLITS},
        "data_key": data.key,
        "seconds": seconds,
        "backbone_note": note,
        "notes": [*dataset.notes, *([note] if note else [])],
    }


def save_run(classifier: Classifier, folder: Path) -> None:
    """Write the artifact, then the result that says the run is done; the checkpoint is not needed any more."""
    classifier.save(folder)
    write_json(folder / RESULT, classifier.results)
    (folder / CHECKPOINT).unlink(missing_ok=True)
