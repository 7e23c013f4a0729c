"""The steps of a run, shared by `tune` and benchmark cells: select images, read them, train, record."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from selfprompt.data.class_description import Described, description_record
from selfprompt.data.dataset import Dataset
from selfprompt.data.fewshot import draw_few_shot, select_base_new
from selfprompt.data.loading.check_images import check_dataset
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.store import parse_bytes
from selfprompt.data.loading.transforms import train_transform
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.artifact import library_versions
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import AUTO, Recipe
from selfprompt.training.identity import run_identity
from selfprompt.training.logs import RunLog
from selfprompt.training.loop import CHECKPOINT, FitResult, fit
from selfprompt.training.reporter import Reporter
from selfprompt.utils.matmul import matmul_path
from selfprompt.utils.wording import plural

IMAGENET_STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Mean and standard deviation per channel."""
RESIZE_MODES = {"crop": "shortest", "pad": "pad", "squash": "squash"}
"""Modes of a backbone's preprocessing by the recipe's ``resize``."""
RESUMING, STARTING = "resuming from the last checkpoint", "no checkpoint yet: starting from epoch 1"


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        dataset: The selected images of each split.
        store: Cache of their pixels.
        features: Cache of their frozen features.
        key: Hash of the path of the data; empty for objects.
    """

    dataset: Dataset
    store: ImageStore
    features: FeatureStore
    key: str


def choose_images(data: Any, recipe: Recipe) -> Dataset:
    """List the images, draw the shots over all classes and select base or new classes; opens no image file.

    A ready ``Dataset`` keeps its splits and class names: nothing is held out of it for testing.

    Raises:
        ValueError: If there are no training images, or no validation images where the recipe needs them.
    """
    dataset, options = _listed(data, recipe), recipe.data
    if not dataset.train:
        raise ValueError(f"{dataset.name} has no training images.")
    if recipe.train.select == "best-val" and not dataset.val:
        raise ValueError(
            f"select 'best-val' needs validation images, and {dataset.name} has none: "
            "add a val folder (or split val in a manifest), or use select 'last'."
        )
    notes = list(dataset.notes)
    if not (options.holdout or dataset.test or isinstance(data, Dataset) or recipe.method == AUTO):
        notes.append("All images are used for training (holdout 0): the accuracy on other images is unknown.")
    train, val = draw_few_shot(dataset.train, dataset.val, options.shots, recipe.seed)
    if options.shots:
        notes.append(f"Drew up to {options.shots} training images per class (seed {recipe.seed}): {len(train)} in all.")
        drawn = Counter(item.label for item in train)
        short = sum(0 < drawn[label] < options.shots for label in range(len(dataset.classes)))
        if short:
            notes.append(f"Fewer than {options.shots} training images in {short} of {len(dataset.classes)} classes.")
    return select_base_new(replace(dataset, train=train, val=val, notes=tuple(notes)), options.classes)


def _listed(data: Any, recipe: Recipe) -> Dataset:
    """Return the data as a ``Dataset``, which they may be already."""
    if isinstance(data, Dataset):
        return data
    options = recipe.data
    return read_dataset(
        data,
        classes=None if options.class_names is None else Path(options.class_names),
        holdout=options.holdout,
        seed=recipe.seed,
        on_empty=options.on_empty_class,
        on_bad=options.on_bad_image,
    )


def read_images(dataset: Dataset, recipe: Recipe, key: str, reporter: Reporter) -> RunData:
    """Decode every image once; report choices and unreadable images."""
    store = ImageStore(recipe.data.memory)
    features = FeatureStore(recipe.data.memory, recipe.data.feature_cache)
    with reporter.stage("reading images") as progress:
        dataset, bad = check_dataset(
            dataset,
            store,
            on_bad=recipe.data.on_bad_image,
            droppable=exhausted_classes(dataset, recipe),
            progress=progress,
        )
    for note in dataset.notes:
        reporter.message(note)
    for image in bad:
        reporter.message(f"  {image}")
    return RunData(dataset, store, features, key)


def exhausted_classes(dataset: Dataset, recipe: Recipe) -> set[int]:
    """Return the classes all of whose images were drawn: they may be dropped if none of these can be read."""
    if recipe.data.on_empty_class == "fail":
        return set()
    drawn, shots = Counter(item.label for item in dataset.train), recipe.data.shots
    return {label for label, count in drawn.items() if not shots or count < shots}


def with_preprocessing(backbone: Backbone, recipe: Recipe) -> Backbone:
    """Return the backbone with the image statistics and the resizing that the recipe asks for."""
    changes: dict[str, Any] = dict(IMAGENET_STATISTICS) if recipe.statistics == "imagenet" else {}
    resize = recipe.data.resize
    if isinstance(resize, int):
        changes |= {"mode": "shortest", "resize": resize}
    elif resize != "backbone":
        changes |= {"mode": RESIZE_MODES[resize], "resize": None}
    return backbone.with_preprocess(replace(backbone.preprocess, **changes))


def build_classifier(
    recipe: Recipe, backbone: Backbone, classes: Sequence[Described], device: torch.device, *, check: bool
) -> Classifier:
    """Build the recipe's method on a device, ready to be trained.

    Args:
        recipe: Names the method, its options, and how images are resized.
        backbone: The frozen backbone.
        classes: Names or descriptions of the classes, in the order of the logits.
        device: Where to compute.
        check: Whether to reject repeated names.
    """
    backbone = with_preprocessing(backbone, recipe)
    method = build_method(recipe.method, backbone, classes, seed=recipe.seed, check=check, **recipe.options)
    method.to(device)
    return Classifier(method, backbone.preprocess, recipe.eval_batch_size, recipe.flat(), float32=recipe.train.float32)


def train(
    classifier: Classifier,
    data: RunData,
    recipe: Recipe,
    fabric: Any,
    folder: Path | None,
    reporter: Reporter,
    *,
    resume: bool,
    progress: bool,
    logs: RunLog | None = None,
) -> FitResult | None:
    """Prepare the classifier's method and train it in place.

    Args:
        classifier: Its method is trained.
        data: The images of the run.
        recipe: How to train.
        fabric: A launched Fabric.
        folder: Folder for the checkpoint and the logs; None writes nothing.
        reporter: Receives messages and stages.
        resume: Whether to resume from the checkpoint in the folder, if there is one.
        progress: Whether to show a progress bar, in a terminal.
        logs: Where to log the epochs; None logs to the folder only.

    Returns:
        The outcome; None if the method needs no epochs.
    """
    method, dataset = classifier.method, data.dataset
    if not method.trainable() and type(method).prepare is Method.prepare:
        reporter.message(f"{method.name} has nothing to train.")
        return None
    method.text_cache_bytes = parse_bytes(recipe.data.memory)
    batches = train_batches(classifier, data, recipe, fabric)
    val = classifier.batches(dataset.val, data.store, data.features) if dataset.val else None
    resuming = resume and folder is not None and (folder / CHECKPOINT).exists()
    if resume:
        reporter.message(RESUMING if resuming else STARTING)
    if not resuming or method.traits.repeat_prepare:  # else the checkpoint holds all that prepare sets
        prepare(method, batches, val, recipe.seed, reporter)
    if method.traits.closed_form or not method.trainable():
        reporter.message(f"{method.name} is ready: it needs no epochs.")
        return None
    size = f"{trainable_count(method):,} trainable parameters, {plural(len(dataset.train), 'image')}"
    reporter.message(f"training {method.name}: {size}, {plural(recipe.train.epochs, 'epoch')}")
    return fit(
        method,
        batches,
        val,
        recipe.train,
        seed=recipe.seed,
        run_dir=folder,
        resume=resume,
        identity=run_identity(method, dataset, recipe),
        progress=progress,
        fabric=fabric,
        log=reporter.message,
        logs=logs,
    )


def trainable_count(method: Method) -> int:
    """Return the number of trainable parameters, counting every element."""
    return sum(parameter.numel() for parameter in method.trainable().values())


def train_batches(classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any) -> Batches:
    """Return this process's share of the training batches."""
    options = recipe.train
    return Batches(
        data.dataset.train,
        data.store,
        train_transform(classifier.preprocess, options.augment, crop=options.crop, flip=options.flip),
        options.batch_size,
        shuffle=True,
        seed=recipe.seed,
        drop_last="auto" if options.drop_last else False,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=options.workers,
        views=options.views,
        features=data.features,
        device=fabric.device,
    )


def prepare(method: Method, batches: Batches, val: Batches | None, seed: int, reporter: Reporter) -> None:
    """Initialise the method from the data; every process sees all images, so that all start alike."""
    whole = Batches(
        batches.items,
        batches.store,
        batches.transform,
        batches.batch_size,
        shuffle=True,
        seed=seed,
        workers=batches.workers,
        validation=val,
        views=batches.views,
        features=batches.features,
        device=batches.device,
    )
    generator = torch.Generator().manual_seed(seed)
    with reporter.stage("initialising from the training images") as progress:
        method.prepare(whole, generator, progress)


def run_record(classifier: Classifier, dataset: Dataset, result: FitResult | None) -> dict[str, Any]:
    """Return what every run records: what was trained, how, on which classes and with which software.

    Args:
        classifier: The trained classifier.
        dataset: The data that it was trained on.
        result: Outcome of the training; None where there were no epochs.
    """
    method = classifier.method
    backbone = method.backbone
    return {
        "method": classifier.recipe["method"],
        "recipe": dict(classifier.recipe),
        "classes": list(dataset.classes),
        **description_record(method.descriptions),
        "trainable_parameters": trainable_count(method),
        "weights": result.weights if result else "prepared" if method.adapter_state_dict() else "untouched",
        "chosen": dict(method.selected),  # the key of all result files so far
        "best_epoch": result.best_epoch if result else None,
        "history": list(result.history) if result else [],
        "train_seconds": result.seconds if result else 0.0,
        "eval_batch_size": classifier.batch_size,
        "float32": matmul_path(classifier.device.type),
        "sample_wise": method.traits.batch_independent,
        "preprocess": classifier.preprocess.record(),
        "backbone": {**backbone.source, "fingerprint": backbone.fingerprint, "note": backbone.note},
        "notes": list(dataset.notes),
        "versions": library_versions(),
    }
