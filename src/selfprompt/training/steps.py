"""The steps of a run, which `tune` and a cell of a bench share: choose images, read them, train, record."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from selfprompt.data.dataset import ArchivedFile, Dataset, Item, Source
from selfprompt.data.fewshot import draw_few_shot, select_base_new
from selfprompt.data.loading.features import FeatureStore
from selfprompt.data.loading.loader import Batches, ImageStore, check_dataset
from selfprompt.data.loading.store import parse_bytes
from selfprompt.data.loading.transforms import train_transform
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.artifact import versions
from selfprompt.inference.classifier import Classifier, evaluate
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.metrics import Metrics
from selfprompt.models.loading.by_name import Backbone
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.loop import CHECKPOINT, FitResult, fit
from selfprompt.utils.wording import plural

logger = logging.getLogger(__name__)
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Progress = Callable[[int, int], None]


class Reporter(Protocol):
    """Who is told how a run goes: the command line shows it, Python code may ignore it."""

    def message(self, line: str) -> None:
        """One line about what was done or chosen."""

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        """A step that takes time; the callback gets (done, in all)."""


class LogReporter:
    """Tells the log, nobody else."""

    def message(self, line: str) -> None:
        logger.info(line)

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        logger.info(name)
        return nullcontext(lambda done, total: None)


@dataclass(frozen=True)
class RunData:
    """The images of a run, and where their pixels and frozen features are kept."""

    dataset: Dataset
    store: ImageStore
    features: FeatureStore
    key: str


def choose_images(data: Any, recipe: Recipe) -> Dataset:
    """List the images, draw the shots over all classes, cut out base or new classes; opens no file of them.

    A ready ``Dataset`` keeps its own splits and class names: nothing is held out of it for testing.

    Raises:
        ValueError: If there are no fitting images.
    """
    options = recipe.data
    names = None if options.class_names is None else Path(options.class_names)
    if isinstance(data, Dataset):
        dataset = data
    else:
        dataset = read_dataset(
            data,
            classes=names,
            holdout=options.holdout,
            seed=recipe.seed,
            on_empty=options.on_empty_class,
            on_bad=options.on_bad_image,
        )
    if not dataset.train:
        raise ValueError(f"{dataset.name} has no training images.")
    if recipe.train.select == "best-val" and not dataset.val:
        raise ValueError(
            f"select 'best-val' needs validation images, and {dataset.name} has none: "
            "add a val folder (or split val in a manifest), or use select 'last'."
        )
    drawn, drawn_val = draw_few_shot(dataset.train, dataset.val, options.shots, recipe.seed)
    notes = list(dataset.notes)
    if not (options.holdout or dataset.test or isinstance(data, Dataset)):
        notes.append("All images are for training (holdout 0): how good the classifier is on others is not known.")
    if options.shots:
        notes.append(f"Drew up to {options.shots} training images a class (seed {recipe.seed}): {len(drawn)} in all.")
        short = Counter(item.label for item in drawn)
        few = [name for label, name in enumerate(dataset.classes) if 0 < short[label] < options.shots]
        if few:
            notes.append(f"Fewer than {options.shots} training images in {len(few)} of {len(dataset.classes)} classes.")
    dataset = replace(dataset, train=drawn, val=drawn_val, notes=tuple(notes))
    return select_base_new(dataset, options.classes)


def read_images(dataset: Dataset, recipe: Recipe, key: str, reporter: Reporter) -> RunData:
    """Decode every image once; tell what was chosen and left out."""
    store = ImageStore(recipe.data.memory)
    features = FeatureStore(recipe.data.memory, recipe.data.feature_cache)
    with reporter.stage("reading images") as progress:
        dataset, bad = check_dataset(
            dataset, store, on_bad=recipe.data.on_bad_image, may_go=exhausted(dataset, recipe), progress=progress
        )
    for note in dataset.notes:
        reporter.message(note)
    for image in bad:
        reporter.message(f"  {image}")
    return RunData(dataset, store, features, key)


def exhausted(dataset: Dataset, recipe: Recipe) -> set[int]:
    """The classes that may be left out if none of their drawn images can be read: there are no others to draw."""
    if recipe.data.on_empty_class == "fail":
        return set()
    drawn, shots = Counter(item.label for item in dataset.train), recipe.data.shots
    return {label for label, count in drawn.items() if not shots or count < shots}


def with_statistics(backbone: Backbone, statistics: str) -> Backbone:
    """The backbone with other image statistics, where the recipe asks for ImageNet's."""
    if statistics == "backbone":
        return backbone
    mean, std = IMAGENET_STATISTICS
    return replace(backbone, preprocess=replace(backbone.preprocess, mean=mean, std=std))


def zero_shot(classifier: Classifier, data: RunData, reporter: Reporter) -> Metrics | None:
    """Accuracy of the untuned CLIP on the test images; None without these, a text tower, or names that it can read."""
    backbone = classifier.method.backbone
    if backbone.text is None or not data.dataset.test:
        return None
    options = {"template": t} if (t := getattr(classifier.method.options, "template", None)) else {}
    try:
        check = not data.dataset.ids
        untuned = build_method("zero-shot", backbone, classifier.classes, check=check, **options).to(classifier.device)
    except ValueError as error:  # the method itself may read no names
        reporter.message(f"No zero-shot accuracy: {error}")
        return None
    with reporter.stage("zero-shot on the test images") as progress:
        return evaluate(untuned, classifier.batches(data.dataset.test, data.store, data.features), progress=progress)


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
) -> FitResult | None:
    """Prepare the method and train it; None where there is nothing to train."""
    method, options, dataset = classifier.method, recipe.train, data.dataset
    if not method.trainable() and type(method).prepare is Method.prepare:
        reporter.message(f"{method.name} has nothing to train.")
        return None
    fit_to_machine(method, recipe)
    transform = train_transform(classifier.preprocess, options.augment)
    batches = Batches(
        dataset.train,
        data.store,
        transform,
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
    val = classifier.batches(dataset.val, data.store, data.features) if dataset.val else None
    resuming = resume and folder is not None and (folder / CHECKPOINT).exists()
    if resume:
        reporter.message("going on from the last checkpoint" if resuming else "there is no checkpoint yet: starting")
    if not resuming or method.traits.repeat_prepare:  # else a checkpoint holds everything that prepare would make
        prepare(method, batches, val, recipe.seed, reporter)
    if method.traits.closed_form or not method.trainable():
        reporter.message(f"{method.name} is ready: it needs no epochs.")
        return None
    trainable = sum(p.numel() for p in method.trainable().values())
    reporter.message(
        f"training {method.name}: {trainable:,} trainable parameters, {plural(len(dataset.train), 'image')}, "
        f"{plural(options.epochs, 'epoch')}"
    )
    return fit(
        method,
        batches,
        val,
        options,
        seed=recipe.seed,
        run_dir=folder,
        resume=resume,
        identity=identity_of_run(classifier, dataset, recipe),
        progress=progress,
        fabric=fabric,
        log=reporter.message,
    )


def identity_of_run(classifier: Classifier, dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    """What a run shares with its checkpoint besides options and seed; wherever its images lie now."""
    method = classifier.method
    return {
        "method": recipe.method,
        "options": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(method.options).items()},
        "backbone": method.backbone.fingerprint,
        "classes": list(classifier.classes),
        "images": names_of_images(dataset.train),
    }


def names_of_images(items: Sequence[Item]) -> list[str]:
    """Place, bytes and label of each image, which moving all of them together does not change."""
    sources = [str(item.source) for item in items]
    folder = os.path.commonprefix(sources).rpartition(os.sep)[0]  # noqa: RUF071 (a source need not be a path)
    sizes = [_bytes_of(item.source) for item in items]
    return [
        f"{source.removeprefix(folder)}:{size}:{item.label}"
        for source, size, item in zip(sources, sizes, items, strict=True)
    ]


def _bytes_of(source: Source) -> int:
    """The size of an image's file; 0 where it has none."""
    if isinstance(source, ArchivedFile):
        return source.size
    return source.stat().st_size if isinstance(source, Path) else 0


def fit_to_machine(method: Method, recipe: Recipe) -> None:
    """Tell the method how much memory gradients may take, and its towers whether to be compiled."""
    method.memory = parse_bytes(recipe.data.memory)
    if recipe.train.compile:
        for tower in filter(None, (method.vision, method.text)):
            tower.compile_blocks()


def prepare(method: Method, batches: Batches, val: Batches | None, seed: int, reporter: Reporter) -> None:
    """The method's start from the data; every process sees all images, so all start alike."""
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
    with reporter.stage("starting from the training images") as progress:
        method.prepare(whole, generator, progress)


def record(classifier: Classifier, dataset: Dataset, result: FitResult | None) -> dict[str, Any]:
    """Collect what every run records: what was trained, how, on which classes, and with what.

    Args:
        classifier: The trained classifier.
        dataset: What it was trained on.
        result: How the training went; None where there were no epochs.
    """
    method = classifier.method
    backbone = method.backbone
    return {
        "method": classifier.recipe["method"],
        "recipe": dict(classifier.recipe),
        "classes": list(dataset.classes),
        "trainable_parameters": sum(p.numel() for p in method.trainable().values()),
        "weights": result.weights if result else "prepared" if method.adapter_state_dict() else "untouched",
        "chosen": dict(method.chosen),
        "best_epoch": result.best_epoch if result else None,
        "history": list(result.history) if result else [],
        "train_seconds": result.seconds if result else 0.0,
        "eval_batch_size": classifier.batch_size,
        "sample_wise": method.traits.batch_independent,
        "preprocess": asdict(classifier.preprocess),
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint, "note": backbone.note},
        "notes": list(dataset.notes),
        "versions": versions(),
    }
