"""From images to a tuned classifier: the steps of a run, in order."""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from selfprompt.artifact import CONFIG, versions
from selfprompt.claims import folder_claimed
from selfprompt.classifier import Classifier, evaluate
from selfprompt.data.features import FeatureStore
from selfprompt.data.fewshot import base_new_split, few_shot_split
from selfprompt.data.items import Dataset, Item, plural
from selfprompt.data.loader import Batches, ImageStore, check_dataset
from selfprompt.data.sources import is_task, read_dataset
from selfprompt.data.store import parse_bytes
from selfprompt.data.transforms import train_transform
from selfprompt.evaluate.metrics import Metrics
from selfprompt.files import write_atomically, write_json
from selfprompt.methods.base import Method, build_method, find, make_options
from selfprompt.recipe import Recipe, load_recipe
from selfprompt.towers.load import Backbone, load_backbone
from selfprompt.train.distributed import make_fabric
from selfprompt.train.fit import CHECKPOINT, FitResult, fit

logger = logging.getLogger(__name__)
RESULT, RECIPE = "result.json", "recipe.yaml"
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Who is told how a run goes: the command line shows it, Python code may ignore it."""

    def say(self, line: str) -> None:
        """One line about what was done or chosen."""

    def stage(self, name: str) -> AbstractContextManager[Progress]:
        """A step that takes time; the callback gets (done, in all)."""


class Silent:
    """Tells the log, nobody else."""

    def say(self, line: str) -> None:
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
    watcher: Watcher | None = None,
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
        watcher: Is told what happens.
        overrides: Any other value of the recipe: shots, epochs, lr, seed, classes, ...

    Returns:
        The tuned classifier, evaluated on the test images; ``results`` has the numbers.

    Raises:
        ValueError: If an argument, the data or the backbone's name is wrong, or another run writes into ``out``.
        RuntimeError: If training diverges or a file cannot be written.
    """
    watcher = watcher or Silent()
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
        watcher, progress = Silent(), False
    start = time.monotonic()
    with _kept_to_this_run(folder, fabric):
        if fabric.is_global_zero:
            _check_folder(folder, resume)  # again: another run may have ended there meanwhile
        found = backbone if isinstance(backbone, Backbone) else _load_backbone(recipe.backbone, watcher)
        found.check_finite()
        found = with_statistics(found, recipe.statistics)
        if folder is not None and fabric.is_global_zero:
            write_atomically(folder / RECIPE, recipe.to_yaml().encode())  # also shows that the folder can be written to
        run_data = read_images(dataset, recipe, data_key(data), watcher)
        names, check = run_data.dataset.classes, not run_data.dataset.ids
        built = build_method(recipe.method, found, names, seed=recipe.seed, check=check, **recipe.options)
        built.to(fabric.device)
        classifier = Classifier(built, found.preprocess, recipe.eval_batch_size, recipe.flat())
        baseline = zero_shot(classifier, run_data, watcher)
        result = train(classifier, run_data, recipe, fabric, folder, watcher, resume=resume, progress=progress)
        classifier.results = measure(classifier, run_data, baseline, result, time.monotonic() - start, watcher)
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
    drawn, drawn_val = few_shot_split(dataset.train, dataset.val, options.shots, recipe.seed)
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
    return base_new_split(dataset, options.classes)


def read_images(dataset: Dataset, recipe: Recipe, key: str, watcher: Watcher) -> RunData:
    """Decode every image once; tell what was chosen and left out."""
    store = ImageStore(recipe.data.memory)
    features = FeatureStore(recipe.data.memory, recipe.data.feature_cache)
    with watcher.stage("reading images") as progress:
        dataset, bad = check_dataset(
            dataset, store, on_bad=recipe.data.on_bad_image, may_go=exhausted(dataset, recipe), progress=progress
        )
    for note in dataset.notes:
        watcher.say(note)
    for image in bad:
        watcher.say(f"  {image}")
    return RunData(dataset, store, features, key)


def exhausted(dataset: Dataset, recipe: Recipe) -> set[int]:
    """The classes that may be left out if none of their drawn images can be read: there are no others to draw."""
    if recipe.data.on_empty_class == "fail":
        return set()
    drawn, shots = Counter(item.label for item in dataset.train), recipe.data.shots
    return {label for label, count in drawn.items() if not shots or count < shots}


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


def _load_backbone(name: str, watcher: Watcher) -> Backbone:
    with watcher.stage(f"loading {name}"):
        backbone = load_backbone(name, say=watcher.say)
    if backbone.note:
        watcher.say(backbone.note)
    return backbone


def with_statistics(backbone: Backbone, statistics: str) -> Backbone:
    """The backbone with other image statistics, where the recipe asks for ImageNet's."""
    if statistics == "backbone":
        return backbone
    mean, std = IMAGENET_STATISTICS
    return replace(backbone, preprocess=replace(backbone.preprocess, mean=mean, std=std))


def zero_shot(classifier: Classifier, data: RunData, watcher: Watcher) -> Metrics | None:
    """Accuracy of the untuned CLIP on the test images; None without these, a text tower, or names that it can read."""
    backbone = classifier.method.backbone
    if backbone.text is None or not data.dataset.test:
        return None
    options = {"template": t} if (t := getattr(classifier.method.options, "template", None)) else {}
    try:
        check = not data.dataset.ids
        untuned = build_method("zero-shot", backbone, classifier.classes, check=check, **options).to(classifier.device)
    except ValueError as error:  # the method itself may read no names
        watcher.say(f"No zero-shot accuracy: {error}")
        return None
    with watcher.stage("zero-shot on the test images") as progress:
        return evaluate(untuned, classifier.batches(data.dataset.test, data.store, data.features), progress=progress)


def train(
    classifier: Classifier,
    data: RunData,
    recipe: Recipe,
    fabric: Any,
    folder: Path | None,
    watcher: Watcher,
    *,
    resume: bool,
    progress: bool,
) -> FitResult | None:
    """Prepare the method and train it; None where there is nothing to train."""
    method, options, dataset = classifier.method, recipe.train, data.dataset
    if not method.trainable() and type(method).prepare is Method.prepare:
        watcher.say(f"{method.name} has nothing to train.")
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
        watcher.say("going on from the last checkpoint" if resuming else "there is no checkpoint yet: starting")
    if not resuming or method.traits.repeat_prepare:  # else a checkpoint holds everything that prepare would make
        prepare(method, batches, val, recipe.seed, watcher)
    if method.traits.closed_form or not method.trainable():
        watcher.say(f"{method.name} is ready: it needs no epochs.")
        return None
    tuned = sum(p.numel() for p in method.trainable().values())
    watcher.say(
        f"training {tuned:,} numbers of {method.name} on {len(dataset.train)} images, {plural(options.epochs, 'epoch')}"
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
        log=watcher.say,
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
    sizes = [item.source.stat().st_size if isinstance(item.source, Path) else 0 for item in items]
    return [
        f"{source.removeprefix(folder)}:{size}:{item.label}"
        for source, size, item in zip(sources, sizes, items, strict=True)
    ]


def fit_to_machine(method: Method, recipe: Recipe) -> None:
    """Tell the method how much memory gradients may take, and its towers whether to be compiled."""
    method.memory = parse_bytes(recipe.data.memory)
    if recipe.train.compile:
        for tower in filter(None, (method.vision, method.text)):
            tower.compile_blocks()


def prepare(method: Method, batches: Batches, val: Batches | None, seed: int, watcher: Watcher) -> None:
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
    with watcher.stage("starting from the training images") as progress:
        method.prepare(whole, generator, progress)


def measure(
    classifier: Classifier,
    data: RunData,
    baseline: Metrics | None,
    result: FitResult | None,
    seconds: float,
    watcher: Watcher,
) -> dict[str, Any]:
    """The record of a run: metrics on the test images, counts, notes, time."""
    method, dataset = classifier.method, data.dataset
    tuned = None
    if dataset.test:
        with watcher.stage("evaluating on the test images") as progress:
            tuned = classifier.evaluate(dataset.test, data.store, data.features, progress=progress)
    return {
        "method": classifier.recipe["method"],
        "tuned": tuned and tuned.to_json(),
        "zero_shot": baseline and baseline.to_json(),
        "images": {"train": len(dataset.train), "val": len(dataset.val), "test": len(dataset.test)},
        "data_key": data.key,
        "classes": list(dataset.classes),
        "trainable_parameters": sum(p.numel() for p in method.trainable().values()),
        "weights": result.weights if result else "prepared" if method.adapter_state_dict() else "untouched",
        "chosen": dict(method.chosen),
        "best_epoch": result.best_epoch if result else None,
        "history": list(result.history) if result else [],
        "train_seconds": result.seconds if result else 0.0,
        "seconds": seconds,
        "eval_batch_size": classifier.batch_size,
        "sample_wise": method.traits.batch_independent,
        "backbone": {"name": method.backbone.name, "fingerprint": method.backbone.fingerprint},
        "backbone_note": method.backbone.note,
        "notes": [*dataset.notes, *([method.backbone.note] if method.backbone.note else [])],
        "recipe": dict(classifier.recipe),
        "versions": versions(),
    }


def save_run(classifier: Classifier, folder: Path) -> None:
    """Write the artifact, then the result that says the run is done; the checkpoint is not needed any more."""
    classifier.save(folder)
    write_json(folder / RESULT, classifier.results)
    (folder / CHECKPOINT).unlink(missing_ok=True)
