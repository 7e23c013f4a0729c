"""`tune`: from labelled images to a trained classifier in a folder."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfprompt.data.dataset import SPLITS
from selfprompt.data.readers.read import is_task
from selfprompt.inference.artifact import CONFIG
from selfprompt.inference.classifier import Classifier, compute_logits
from selfprompt.inference.evaluation import data_key
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import AUTO, Recipe, check_overrides, file_values, load_recipe, read_values
from selfprompt.training.auto import check_options, resolve_recipe
from selfprompt.training.calibrate import calibrate
from selfprompt.training.distributed import make_fabric
from selfprompt.training.floors import LEAST_TRAINING_ACCURACY, comparison, floor_logits
from selfprompt.training.folder_recipe import folder_recipe
from selfprompt.training.logs import RunLog, check_trackers
from selfprompt.training.loop import CHECKPOINT, FitResult
from selfprompt.training.rate_search import Trial, search_rate
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.selection_results import SELECTION
from selfprompt.training.steps import (
    RunData,
    build_classifier,
    choose_images,
    read_images,
    run_record,
    train,
    train_batches,
    with_preprocessing,
)
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.locks import lock_folder
from selfprompt.utils.matmul import float32_products, remark

RESULT, RECIPE = "result.json", "recipe.yaml"


@torch.random.fork_rng(devices=[])  # layers draw their own initial values; the caller's random state stays
def tune(
    data: Any,
    *,
    method: str = AUTO,
    backbone: str | Backbone | None = None,
    out: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    published: bool = False,
    resume: bool = False,
    progress: bool = False,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> Classifier:
    """Adapt a frozen backbone to labelled images.

    Args:
        data: A folder of class folders, a folder with train/ (val/) test/, a CSV or Parquet manifest, a torchvision or
            Hugging Face data set, a list of (image, label), or a ``Dataset``, which is used as it is.
        method: "auto", which chooses a method by cross-validation on the training images; or the name of a method or
            recipe: "sep", "spt-deep", "ridge", ... Its values are fitted to the number of images, see ``published``.
        backbone: A name (see ``list_backbones``) or a loaded backbone; None uses the recipe's.
        out: Folder for the artifact, the result and the checkpoint, for one run at a time; None writes nothing.
        options: Options of the method, such as "text_prompts".
        recipe: A recipe to use instead of ``method``, as it is.
        published: Whether to keep the published values of the method's recipe. Otherwise those that are not given are
            fitted to the number of training images (``training.folder_recipe``).
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
    fitted = recipe is None and not published and method != AUTO
    recipe = _merged_recipe(recipe or load_recipe(method), backbone, options, overrides)
    folder = None if out is None else Path(out)
    _check_folder(folder, resume)
    check_trackers(recipe.train.trackers, folder)
    check_options(recipe)  # wrong options and missing images fail before any costly step
    dataset = choose_images(data, recipe)
    given = {*overrides, *file_values(method), *(f"options.{name}" for name in options or ())}
    if fitted:
        recipe = folder_recipe(recipe, len(dataset.train), given)
    fabric = make_fabric(recipe.train)
    fabric.launch()
    if not fabric.is_global_zero:
        reporter, progress = LogReporter(), False
    start = time.monotonic()
    with _folder_held(folder, fabric, resume), float32_products(recipe.train.float32, fabric.device.type):
        if said := remark(fabric.device.type):
            reporter.message(said)
        model = _prepared_backbone(backbone, recipe, reporter)
        recipe = recipe.changed({"backbone": model.name, "image_size": model.image_size})  # not a name known elsewhere
        if folder is not None and fabric.is_global_zero and not (folder / CHECKPOINT).exists():
            write_atomically(folder / RECIPE, recipe.to_yaml().encode())  # fails early if the folder is read-only
        images = read_images(dataset, recipe, data_key(data), reporter)
        choice = resolve_recipe(recipe, model, images, fabric, folder, reporter)
        recipe = choice.recipe
        rate_is_free = (fitted or "selection" in choice.record) and "lr" not in given and not choice.rate_known
        if rate_is_free and (rate := _searched_before(recipe, folder)):
            recipe, rate_is_free = recipe.changed({"lr": rate}), False
        run = _Run(model, images, fabric, folder, reporter, progress)
        with ExitStack() as stack:
            trained = run.train(recipe, stack, resume=resume)
            if rate_is_free and trained.has_learnt_little:
                trained = run.train_at_another_rate(trained, stack)
            classifier, recipe = trained.classifier, trained.recipe
            classifier.calibration = calibrate(classifier, images, recipe, fabric, reporter, choice.logits)
            floors = floor_logits(classifier, images, recipe, fabric, reporter)
            measured = comparison(
                classifier, images, floors, _test_logits(classifier, images, reporter), trained.accuracy
            )
            record = run_record(classifier, images.dataset, trained.result) | choice.record
            seconds, path = time.monotonic() - start, data_path(data)
            classifier.results = record | measured | _facts(classifier, images)
            classifier.results |= {"rates": [asdict(one) for one in trained.trials], "seconds": seconds, "data": path}
            trained.logs.add_results(classifier.results)
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
    if isinstance(given, Backbone) and recipe.image_size not in (None, given.preprocess.size):
        raise ValueError(
            f"image_size needs the name of a backbone, got {recipe.image_size} for a loaded one of "
            f"{given.preprocess.size} pixels; use load_backbone({given.name!r}, image_size={recipe.image_size})."
        )
    backbone = given if isinstance(given, Backbone) else _load_backbone(recipe, reporter)
    backbone.check_finite()
    return with_preprocessing(backbone, recipe)


def _load_backbone(recipe: Recipe, reporter: Reporter) -> Backbone:
    with reporter.stage(f"loading {recipe.backbone}"):
        backbone = load_backbone(recipe.backbone, image_size=recipe.image_size, say=reporter.message)
    if backbone.note:
        reporter.message(backbone.note)
    return backbone


def _searched_before(recipe: Recipe, folder: Path | None) -> float | None:
    """Return the rate that an interrupted run searched for and was being trained with; None if there is none."""
    if folder is None or not (folder / CHECKPOINT).exists():
        return None
    stored = read_values(folder / RECIPE)  # of auto itself, if it chose the method
    if stored.get("method") != recipe.method or stored.get("lr") == recipe.train.lr:
        return None
    return stored.get("lr")


@dataclass(frozen=True)
class _Trained:
    """A classifier after its training.

    Attributes:
        classifier: The trained classifier.
        recipe: How it was trained.
        logs: Where the training was logged, still open.
        result: The outcome of the training; None without epochs.
        accuracy: That on the training images as they are, in percent; None if nothing was learnt from them.
        trials: The learning rates that were tried for it.
    """

    classifier: Classifier
    recipe: Recipe
    logs: RunLog
    result: FitResult | None
    accuracy: float | None
    trials: Sequence[Trial] = ()

    @property
    def has_learnt_little(self) -> bool:
        """Whether epochs of training left too few of the training images classified correctly."""
        return self.result is not None and self.accuracy is not None and self.accuracy < LEAST_TRAINING_ACCURACY


@dataclass(frozen=True)
class _Run:
    """What the trainings of a run have in common; there are two if the first one has learnt little."""

    backbone: Backbone
    data: RunData
    fabric: Any
    folder: Path | None
    reporter: Reporter
    progress: bool

    def train(
        self, recipe: Recipe, stack: ExitStack, *, resume: bool = False, trials: Sequence[Trial] = ()
    ) -> _Trained:
        """Build a classifier and train it; the stack closes its logs."""
        data, fabric, reporter = self.data, self.fabric, self.reporter
        classes, check = data.dataset.described_classes, not data.dataset.ids
        with reporter.stage(f"building {recipe.method}"):  # takes long if it reads many class texts
            classifier = build_classifier(recipe, self.backbone, classes, fabric.device, check=check)
        log_folder = self.folder if fabric.is_global_zero else None
        logs = stack.enter_context(RunLog(log_folder, recipe.train.trackers, recipe.flat()))
        result = train(
            classifier, data, recipe, fabric, self.folder, reporter, resume=resume, progress=self.progress, logs=logs
        )
        accuracy = _training_accuracy(classifier, data, recipe, fabric, reporter)
        return _Trained(classifier, recipe, logs, result, accuracy, trials)

    def train_at_another_rate(self, first: _Trained, stack: ExitStack) -> _Trained:
        """Search a learning rate and train anew with it; return the first training if there is no better one."""
        found, trials = search_rate(first.recipe, self.backbone, self.data, self.fabric, self.reporter)
        if found == first.recipe:
            return replace(first, trials=trials)
        self.reporter.message(
            f"only {first.accuracy:.1f} % of the training images are classified correctly with the published rate: "
            "training again"
        )
        stack.close()
        if self.folder is not None and self.fabric.is_global_zero:
            (self.folder / CHECKPOINT).unlink()
            write_atomically(self.folder / RECIPE, found.to_yaml().encode())
        return self.train(found, stack, trials=trials)


def _test_logits(classifier: Classifier, data: RunData, reporter: Reporter) -> Tensor | None:
    """Return the logits of the test images under the trained classifier, (N, C); None without any."""
    if not data.dataset.test:
        return None
    with reporter.stage("evaluating on the test images") as progress:
        batches = classifier.batches(data.dataset.test, data.store, data.features)
        return compute_logits(classifier.method, batches, progress=progress)


def _training_accuracy(
    classifier: Classifier, data: RunData, recipe: Recipe, fabric: Any, reporter: Reporter
) -> float | None:
    """Return the accuracy on the training images as they are, in percent; None if nothing was learnt from them."""
    if not classifier.method.adapter_state_dict():
        return None
    with reporter.stage("evaluating on the training images") as progress:
        batches = train_batches(classifier, data, recipe, fabric).deterministic()  # whose features may be kept
        logits = compute_logits(classifier.method, batches, progress=progress)
    return 100 * float((logits.argmax(dim=1) == batches.labels).float().mean())


def _facts(classifier: Classifier, data: RunData) -> dict[str, Any]:
    """Return what `tune` records besides ``run_record`` and the comparison with the floors."""
    dataset, note = data.dataset, classifier.method.backbone.note
    return {
        "images": {split: len(dataset.select(split)) for split in SPLITS},
        "data_key": data.key,
        "backbone_note": note,
        "notes": [*dataset.notes, *([note] if note else [])],
    }


def save_run(classifier: Classifier, folder: Path) -> None:
    """Write the artifact, then the result, which marks the run as finished; then delete the checkpoint."""
    classifier.save(folder)
    write_json(folder / RESULT, classifier.results)
    for name in (CHECKPOINT, SELECTION):
        (folder / name).unlink(missing_ok=True)
