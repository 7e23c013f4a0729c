"""Running cells: what they share, one after another, in any number of processes on one folder."""

import hashlib
import logging
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from selfprompt.benchmarks.cell_state import ERROR, LOCK, RESULT, SPLIT, error_time, is_done
from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.protocols import UNTRAINED, Evaluation, cell_recipe, evaluations, training_pool
from selfprompt.data.dataset import SPLITS, Dataset, IndexedSource, Item
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.loading.check_images import check_dataset, check_images
from selfprompt.data.loading.features import FeatureStore
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.suites import embedded, load_task
from selfprompt.data.suites.task import SuiteTask
from selfprompt.data.suites.vtab import PREPROCESSING
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.base import Method
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.options import DataOptions
from selfprompt.recipes.recipe import Recipe
from selfprompt.training.distributed import make_fabric
from selfprompt.training.loop import CHECKPOINT
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.steps import RunData, build_classifier, choose_images, run_record, train, with_statistics
from selfprompt.utils.files import to_json, write_atomically, write_json
from selfprompt.utils.locks import claimed

logger = logging.getLogger(__name__)

CONFUSION_UP_TO = 60
"""Classes up to which a result keeps its confusion matrix."""

State = Literal["done", "was done", "broken", "elsewhere"]


class RunCache:
    """What the cells of one process share: tasks, decoded images, their frozen features, loaded backbones.

    Args:
        root: The folder that holds the data of suites that do not ship.
        loader: Reads a task by suite and name; the library's own unless given.
    """

    def __init__(
        self, root: Path | None = None, loader: Callable[[str, str, Path | None], SuiteTask] | None = None
    ) -> None:
        self.root = root
        self._loader = loader or (lambda suite, name, root: load_task(f"{suite}/{name}", root))
        self._tasks: dict[tuple[str, str], SuiteTask] = {}
        self._backbones: dict[str, Backbone] = {}
        self._stores: tuple[str, ImageStore, FeatureStore] = ("", ImageStore(0), FeatureStore(0))

    def task(self, suite: str, name: str) -> SuiteTask:
        """A task, read once."""
        if (suite, name) not in self._tasks:
            self._tasks[suite, name] = self._loader(suite, name, self.root)
        return self._tasks[suite, name]

    def backbone(self, name: str, say: Callable[[str], None] = logger.info) -> Backbone:
        """A backbone, loaded once; it is frozen, so cells cannot change it. ``say`` is told what is fetched."""
        if name not in self._backbones:
            self._backbones[name] = load_backbone(name, say=say)
        return self._backbones[name]

    def stores(self, dataset: str, options: DataOptions) -> tuple[ImageStore, FeatureStore]:
        """The decoded images of a data set and their features; those of the one before are let go."""
        if self._stores[0] != dataset:
            self._stores = (dataset, ImageStore(options.memory), FeatureStore(options.memory, options.feature_cache))
        return self._stores[1:]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: done now, done before, broken, or taken by another process."""

    cell: Cell
    state: State
    seconds: float = 0.0


def run_grid(
    cells: Sequence[Cell],
    out: Path,
    shelf: RunCache,
    *,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    begin: Callable[[Cell], None] = lambda cell: None,
) -> Iterator[Outcome]:
    """Run what is left of a grid; several processes may do so on one folder.

    Cells that another process has are looked at again at the end, for that process may have died.

    Args:
        cells: The grid.
        out: The folder of all runs.
        shelf: What cells share.
        retry_failed: Run cells again that an earlier call left broken.
        reporter: Is told how each run goes.
        begin: Called with a cell that starts.

    Yields:
        The outcome of each cell, once.
    """
    since, waiting = time.time(), list(cells)
    while waiting:
        left = []
        for cell in waiting:
            outcome = attempt(cell, out, shelf, since if retry_failed else None, reporter or LogReporter(), begin)
            if outcome.state == "elsewhere":
                left.append(cell)
            else:
                yield outcome
        if len(left) == len(waiting):
            yield from (Outcome(cell, "elsewhere") for cell in left)
            return
        waiting = left


def attempt(
    cell: Cell, out: Path, shelf: RunCache, retry: float | None, reporter: Reporter, begin: Callable[[Cell], None]
) -> Outcome:
    """Run one cell if it is nobody's and not done; errors before the time ``retry`` do not count."""
    folder = out / cell.folder
    if is_done(folder, cell.id):
        return Outcome(cell, "was done")
    with claimed(folder / LOCK) as mine:
        if not mine:
            return Outcome(cell, "elsewhere")
        if is_done(folder, cell.id):  # between the look above and the claim
            return Outcome(cell, "was done")
        broke = error_time(folder)
        if broke is not None:
            if retry is None or broke >= retry:
                return Outcome(cell, "broken")
            for name in (ERROR, CHECKPOINT):
                (folder / name).unlink(missing_ok=True)
        begin(cell)
        start = time.monotonic()
        try:
            run_cell(cell, folder, shelf, reporter)
        except Exception as error:  # whatever a method or a data set raises: the other cells go on
            report = "".join(traceback.format_exception(error))
            write_atomically(folder / ERROR, report.encode(errors="backslashreplace"))
            return Outcome(cell, "broken", time.monotonic() - start)
        return Outcome(cell, "done", time.monotonic() - start)


@torch.random.fork_rng(devices=[])  # layers draw a start of their own before ours; the caller's random state stays
def run_cell(cell: Cell, folder: Path, shelf: RunCache, reporter: Reporter) -> dict[str, Any]:
    """Tune and evaluate one cell; its folder holds ``result.json`` when all is done, and a checkpoint until then.

    Raises:
        ValueError: If data, backbone and recipe do not fit each other.
        RuntimeError: If training diverges or a file cannot be written.
    """
    start = time.monotonic()
    task = shelf.task(cell.suite, cell.dataset)
    store, features = shelf.stores(f"{cell.suite}/{cell.dataset}", cell.recipe.data)
    fabric = make_fabric(cell.recipe.train)
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    drawn = drawn_images(cell, cell.recipe, task, store, reporter)
    training = select_base_new(drawn, cell.recipe.data.classes)
    recipe = cell_recipe(cell, task, len(training.train))
    backbone = fitting_backbone(shelf.backbone(recipe.backbone, reporter.message), recipe, cell.preprocessing)
    classifier = build_classifier(recipe, backbone, training.classes, fabric.device, check=False)
    data = RunData(training, store, features, "")
    result = train(classifier, data, recipe, fabric, folder, reporter, resume=True, progress=False)
    wanted = tuple(evaluations(cell, drawn, task, lambda name: shelf.task(cell.suite, name)))
    measured = {entry.name: measure(classifier, entry, recipe, data, reporter) for entry in wanted}
    facts = {
        **cell.facts(),
        "evaluations": measured,
        "restricted": [
            entry.name for entry in wanted if measured[entry.name] and is_restricted(classifier.method, entry)
        ],
        **run_record(classifier, training, result),
        "images": {part: 0 if recipe.method in UNTRAINED else len(training.select(part)) for part in SPLITS[:2]},
        "split": write_split(folder / SPLIT, training, shelf.root) if recipe.method not in UNTRAINED else None,
        "peak_memory": peak_memory(fabric.device),
        "seconds": time.monotonic() - start,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RESULT, facts)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return facts


def drawn_images(cell: Cell, recipe: Recipe, task: SuiteTask, store: ImageStore, reporter: Reporter) -> Dataset:
    """All classes of the task with its shots drawn, every image that will be used decoded once."""
    pool = training_pool(cell.protocol, task.dataset)
    drawn = choose_images(pool, recipe.changed({"classes": "all"}))
    with reporter.stage("reading images") as progress:
        if recipe.method in UNTRAINED:  # its training images only say which classes there are
            test, _ = check_images(drawn.test, store, on_bad=recipe.data.on_bad_image, progress=progress)
            return replace(drawn, test=test)
        return check_dataset(drawn, store, on_bad=recipe.data.on_bad_image, progress=progress)[0]


def fitting_backbone(backbone: Backbone, recipe: Recipe, preprocessing: str) -> Backbone:
    """The backbone with the image statistics, and the way of resizing, that a run wants."""
    backbone = with_statistics(backbone, recipe.statistics)
    if not preprocessing:
        return backbone
    return replace(backbone, preprocess=PREPROCESSING[preprocessing].apply(backbone.preprocess))


def measure(
    classifier: Classifier, evaluation: Evaluation, recipe: Recipe, data: RunData, reporter: Reporter
) -> dict[str, Any] | None:
    """Metrics of one evaluation; None where the method cannot tell its classes apart, or there are no images."""
    method, among = rebound(classifier.method, evaluation, recipe.method), None
    if method is None and evaluation.among:
        method, among = classifier.method, evaluation.among
    with reporter.stage(f"evaluating: {evaluation.name}") as progress:
        items: Sequence[Item] = evaluation.items
        if method is None or not items:
            return None
        if evaluation.name not in ("base", "new", "test", "source"):  # those have been read with the training images
            items, _ = check_images(items, data.store, on_bad=recipe.data.on_bad_image)
        other = replace(classifier, method=method)
        metrics = other.evaluate(items, data.store, data.features, among=among, progress=progress).to_json()
    if len(evaluation.classes) > CONFUSION_UP_TO:
        del metrics["confusion"]
    return metrics


def is_restricted(method: Method, evaluation: Evaluation) -> bool:
    """Whether an evaluation chooses among a part of the classes that the method has scores for."""
    return not method.traits.open_vocabulary and len(evaluation.among) not in (0, len(method.classes))


def rebound(method: Method, evaluation: Evaluation, name: str) -> Method | None:
    """A tuned method for an evaluation's classes and texts; None if it cannot take other class names."""
    options = {**asdict(method.options), **evaluation.texts}
    retold = options != asdict(method.options)
    if evaluation.classes == method.classes and not retold:
        return method
    if not method.traits.open_vocabulary:
        return None
    if not retold:
        return method.with_classes(evaluation.classes, check=False)
    other = build_method(name, method.backbone, evaluation.classes, check=False, **options)
    other.to(next(method.vision.parameters()).device)
    other.load_adapter_state_dict(method.adapter_state_dict())
    return other


def write_split(path: Path, training: Dataset, root: Path | None) -> dict[str, str]:
    """Write which images were trained on, relative to the data's folder; returns the file's name and checksum."""
    base = root or embedded.FOLDER
    split = {part: [[_place(item, base), item.label] for item in training.select(part)] for part in ("train", "val")}
    text = to_json({"classes": list(training.classes), **split})
    content = text.encode(errors="backslashreplace")
    write_atomically(path, content)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}


def _place(item: Item, root: Path) -> str:
    place = Path(str(item.source))
    if not isinstance(item.source, IndexedSource) and place.is_relative_to(root):
        return place.relative_to(root).as_posix()
    return str(item.source)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: the most this process ever held, and the most the cell held on its GPU."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": 1024 * kilobytes}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device)
    return found
