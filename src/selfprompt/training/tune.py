"""`tune`: from labelled images to a trained classifier in a folder."""

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
from selfprompt.inference.evaluation import data_key
from selfprompt.metrics import Metrics
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import Recipe, check_overrides, load_recipe
from selfprompt.training.auto import check_options, resolve_recipe
from selfprompt.training.calibrate import calibrate
from selfprompt.training.distributed import make_fabric
from selfprompt.training.loop import CHECKPOINT
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.steps import (
    RunData,
    build_classifier,
    choose_images,
    evaluate_zero_shot,
    read_images,
    run_record,
    train,
    with_preprocessing,
)
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.locks import lock_folder

RESULT, RECIPE = "result.json", "recipe.yaml"


@torch.random.fork_rng(devices=[])  # layers draw their own initial values; the caller's random state stays
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
        data: A folder of class folders, a folder with train/ (val/) test/, a CSV or Parquet manifest, a torchvision or
            Hugging Face data set, a list of (image, label), or a ``Dataset``, which is used as it is.
        method: Name of a method or recipe: "sep", "spt-deep", "coop", ...; the recipe's values are the defaults.
        backbone: A name (see ``list_backbones``) or a loaded backbone; None uses the recipe's.
        out: Folder for the artifact, the result and the checkpoint, for one run at a time; None writes nothing.
        options: Options of the method, such as "text_prompts".
        recipe: A recipe to use instead of ``method``.
        resume: Whether to resume the interrupted run in ``out``.
        progress: Whether to show a progress bar while training, in a terminal.
        reporter: Receives the progress of the run; None writes it to the log.
        overrides: Any other value of the recipe: shots, epochs, lr, seed, classes, ...

    Returns:
        The trained classifier, evaluated on the test images; ``results`` has the numbers.

    Raises:
        ValueError: If an argument, the data or the backbone's name is wrong, or another run writes to ``out``.
        RuntimeError: If training diverges or a file cannot be written.
    """
    reporter = reporter or LogReporter()
    recipe = _merged_recipe(recipe or load_recipe(method), backbone, options, overrides)
    folder = None if out is None else Path(out)
    _check_folder(folder, resume)
    check_options(recipe)  # wrong options and missing images fail before any costly step
    dataset = choose_images(data, recipe)
    fabric = make_fabric(recipe.train)
    fabric.launch()
    if not fabric.is_global_zero:
        reporter, progress = LogReporter(), False
    start = time.monotonic()
    with _folder_held(folder, fabric, resume):
        model = _prepared_backbone(backbone, recipe, reporter)
        if folder is not None and fabric.is_global_zero:
            write_atomically(folder / RECIPE, recipe.to_yaml().encode())  # fails early if the folder is read-only
        images = read_images(dataset, recipe, data_key(data), reporter)
        recipe, selection = resolve_recipe(recipe, model, images, fabric, folder, reporter)
        classes, check = images.dataset.described_classes, not images.dataset.ids
        classifier = build_classifier(recipe, model, classes, fabric.device, check=check)
        baseline = evaluate_zero_shot(classifier, images, reporter)
        result = train(classifier, images, recipe, fabric, folder, reporter, resume=resume, progress=progress)
        classifier.calibration = calibrate(classifier, images, recipe, reporter)
        record = run_record(classifier, images.dataset, result)
        tuned = _evaluate_tuned(classifier, images, reporter)
        seconds, path = time.monotonic() - start, data_path(data)
        measured = _results(classifier, images, tuned, baseline)
        classifier.results = record | selection | measured | {"seconds": seconds, "data": path}
        if folder is not None and fabric.is_global_zero:
            save_run(classifier, folder)
    return classifier


def _merged_recipe(
    recipe: Recipe, backbone: str | Backbone | None, options: Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> Recipe:
    """Return the recipe with the caller's values."""
    check_overrides(recipe.method, overrides)
    recipe = recipe.changed({**overrides, **({"options": options} if options else {})})
    if backbone is None:
        return recipe
    return recipe.changed({"backbone": backbone if isinstance(backbone, str) else backbone.name})


@contextmanager
def _folder_held(folder: Path | None, fabric: Any, resume: bool) -> Iterator[None]:
    """Keep other runs out of the output folder; the first process holds the lock for all of this run.

    Raises:
        ValueError: If another run writes to the folder, in every process of this one.
    """
    if folder is None:
        yield
        return
    with lock_folder(folder) if fabric.is_global_zero else nullcontext(True) as is_ours:
        if not fabric.broadcast(is_ours):
            raise ValueError(
                f"{folder} is being written by another run. Wait until it has ended, or choose another folder."
            )
        if fabric.is_global_zero:
            _check_folder(folder, resume)  # again: another run may have finished there meanwhile
        yield


def _check_folder(folder: Path | None, resume: bool) -> None:
    """Raise ValueError if this run would overwrite another one."""
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
                f"{folder} holds an unfinished run. Resume it with --resume, delete it, or choose another folder."
            )
    elif (folder / CONFIG).exists():
        raise ValueError(f"{folder} holds a saved classifier. Choose another folder, or delete it first.")


def data_path(data: Any) -> str:
    """Return where the images are, for the result on this machine (an artifact omits it); "" for objects."""
    if is_task(data):
        return str(data)
    return str(Path(data).resolve()) if isinstance(data, (str, Path)) else ""


def _prepared_backbone(given: str | Backbone | None, recipe: Recipe, reporter: Reporter) -> Backbone:
    """Load the recipe's backbone unless a loaded one was given; check its weights and set the image statistics."""
    backbone = given if isinstance(given, Backbone) else _load_backbone(recipe.backbone, reporter)
    backbone.check_finite()
    return with_preprocessing(backbone, recipe)


def _load_backbone(name: str, reporter: Reporter) -> Backbone:
    with reporter.stage(f"loading {name}"):
        backbone = load_backbone(name, say=reporter.message)
    if backbone.note:
        reporter.message(backbone.note)
    return backbone


def _evaluate_tuned(classifier: Classifier, data: RunData, reporter: Reporter) -> Metrics | None:
    """Evaluate the trained classifier on the test images; None without these."""
    test = data.dataset.test
    if not test:
        return None
    with reporter.stage("evaluating on the test images") as progress:
        return classifier.evaluate(test, data.store, data.features, progress=progress)


def _results(classifier: Classifier, data: RunData, tuned: Metrics | None, baseline: Metrics | None) -> dict[str, Any]:
    """Return what `tune` records besides ``run_record``."""
    dataset, note = data.dataset, classifier.method.backbone.note
    return {
        "tuned": tuned and tuned.to_json(),
        "zero_shot": baseline and baseline.to_json(),
        "images": {split: len(dataset.select(split)) for split in SPLITS},
        "data_key": data.key,
        "backbone_note": note,
        "notes": [*dataset.notes, *([note] if note else [])],
    }


def save_run(classifier: Classifier, folder: Path) -> None:
    """Write the artifact, then the result, which marks the run as finished; then delete the checkpoint."""
    classifier.save(folder)
    write_json(folder / RESULT, classifier.results)
    (folder / CHECKPOINT).unlink(missing_ok=True)
