"""Running the cells of a grid: a cell depends on its record alone, and is done when its result exists."""

import hashlib
import logging
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from selfprompt.benchmarks.cells import ERROR, RESULT, SPLIT, Cell, has_failed, is_done
from selfprompt.benchmarks.evaluating import compute_part, is_restricted, strict_record, with_halves
from selfprompt.benchmarks.protocols import (
    UNTRAINED,
    TaskLoader,
    cell_recipe,
    evaluations,
    given_keys,
    training_pool,
)
from selfprompt.benchmarks.strict import STRICT
from selfprompt.benchmarks.supports import draw_support
from selfprompt.data.dataset import SPLITS, Dataset, IndexedSource, Item
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.loading.check_images import check_dataset, check_images
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.relabel import keep_classes
from selfprompt.data.suites import embedded, load_task
from selfprompt.data.suites.task import SuiteTask
from selfprompt.data.suites.vtab import PREPROCESSING
from selfprompt.methods.registry import find_method, make_options
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.options import DataOptions
from selfprompt.recipes.recipe import AUTO, Recipe
from selfprompt.training.auto import resolve_recipe
from selfprompt.training.distributed import make_fabric
from selfprompt.training.folder_recipe import folder_recipe
from selfprompt.training.loop import CHECKPOINT
from selfprompt.training.reporter import LogReporter, Reporter
from selfprompt.training.steps import RunData, build_classifier, choose_images, run_record, train, with_preprocessing
from selfprompt.utils.files import to_json, write_atomically, write_json
from selfprompt.utils.matmul import float32_products

logger = logging.getLogger(__name__)

State = Literal["done", "skipped", "failed"]
"""Run now; done before; ended in an error, now or before."""


class RunCache:
    """Tasks, decoded images, frozen features and backbones, shared by the cells of one process.

    Args:
        root: The folder with the data of suites that do not ship with the package.
        loader: Reads a task, given suite, name and root; by default ``load_task``.
    """

    def __init__(self, root: Path | None = None, loader: TaskLoader | None = None) -> None:
        self.root = root
        self._loader = loader or (lambda suite, name, root: load_task(f"{suite}/{name}", root))
        self._tasks: dict[tuple[str, str], SuiteTask] = {}
        self._backbones: dict[tuple[str, int | None], Backbone] = {}
        self._stores: tuple[str, ImageStore, FeatureStore] = ("", ImageStore(0), FeatureStore(0))

    def get_task(self, suite: str, name: str) -> SuiteTask:
        """Return a task, reading it the first time."""
        if (suite, name) not in self._tasks:
            self._tasks[suite, name] = self._loader(suite, name, self.root)
        return self._tasks[suite, name]

    def get_backbone(
        self, name: str, image_size: int | None = None, say: Callable[[str], None] = logger.info
    ) -> Backbone:
        """Return a backbone, loading it the first time; it is frozen, so cells cannot change it.

        Args:
            name: Name of the backbone.
            image_size: Pixels of its images; None for its own size.
            say: Called with a line about each download.
        """
        if (name, image_size) not in self._backbones:
            self._backbones[name, image_size] = load_backbone(name, image_size=image_size, say=say)
        return self._backbones[name, image_size]

    def get_stores(self, dataset: str, options: DataOptions) -> tuple[ImageStore, FeatureStore]:
        """Return the stores of a data set's images and features, dropping those of the previous data set."""
        if self._stores[0] != dataset:
            self._stores = (dataset, ImageStore(options.memory), FeatureStore(options.memory, options.feature_cache))
        return self._stores[1:]


@dataclass(frozen=True)
class Outcome:
    """The final state of a cell, and the seconds that it ran."""

    cell: Cell
    state: State
    seconds: float = 0.0


def run_grid(
    cells: Sequence[Cell],
    out: Path,
    cache: RunCache,
    *,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    on_start: Callable[[Cell], None] = lambda cell: None,
) -> Iterator[Outcome]:
    """Run the unfinished cells of a grid one after another.

    Args:
        cells: The grid.
        out: The output folder.
        cache: What the cells share.
        retry_failed: Whether to run cells again that failed in an earlier call.
        reporter: Receives the progress of each run.
        on_start: Called with each cell that starts.

    Yields:
        The outcome of each cell, once.
    """
    if retry_failed:
        forget_failures(cells, out)
    yield from (try_cell(cell, out, cache, reporter or LogReporter(), on_start) for cell in cells)


def forget_failures(cells: Sequence[Cell], out: Path) -> None:
    """Delete what failed cells have left, so that they run again."""
    for folder in (out / cell.folder for cell in cells):
        if has_failed(folder):
            for name in (CHECKPOINT, ERROR):
                (folder / name).unlink(missing_ok=True)


def start_worker(
    out: Path,
    root: Path | None,
    loader: TaskLoader | None,
    threads: int = 0,
    reporter: Reporter | None = None,
    on_start: Callable[[Cell], None] = lambda cell: None,
) -> Callable[[Cell], Outcome]:
    """Return a function that runs a cell; its calls share what they load.

    Args:
        out: The output folder.
        root: The folder with the data of suites that do not ship with the package.
        loader: Reads a task; None for those of a suite.
        threads: Threads of this process on the CPU; 0 for torch's choice.
        reporter: Receives the progress of each run.
        on_start: Called with each cell that starts.
    """
    if threads:
        torch.set_num_threads(threads)
    cache, reporter = RunCache(root, loader), reporter or LogReporter()
    return lambda cell: try_cell(cell, out, cache, reporter, on_start)


def try_cell(
    cell: Cell, out: Path, cache: RunCache, reporter: Reporter, on_start: Callable[[Cell], None] = lambda cell: None
) -> Outcome:
    """Run a cell unless it is done, or failed before."""
    folder = out / cell.folder
    if is_done(folder, cell.id):
        return Outcome(cell, "skipped")
    if has_failed(folder):
        return Outcome(cell, "failed")
    on_start(cell)
    start = time.monotonic()
    try:
        with float32_products(cell.recipe.train.float32, cell.recipe.train.device):
            run_cell(cell, folder, cache, reporter)
    except Exception as error:  # whatever a method or a data set raises: the other cells still run
        report = "".join(traceback.format_exception(error))
        write_atomically(folder / ERROR, report.encode(errors="backslashreplace"))
        return Outcome(cell, "failed", time.monotonic() - start)
    return Outcome(cell, "done", time.monotonic() - start)


@torch.random.fork_rng(devices=[])  # layers draw initial weights before ours; the caller's random state is restored
def run_cell(cell: Cell, folder: Path, cache: RunCache, reporter: Reporter) -> dict[str, Any]:
    """Tune and evaluate one cell; its folder holds a checkpoint until ``result.json`` is written.

    Raises:
        ValueError: If data, backbone and recipe do not fit together.
        RuntimeError: If training diverges or a file cannot be written.
    """
    start = time.monotonic()
    task = cache.get_task(cell.suite, cell.dataset)
    store, features = cache.get_stores(f"{cell.suite}/{cell.dataset}", cell.recipe.data)
    fabric = make_fabric(cell.recipe.train)
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    drawn = draw_images(cell, task, store, reporter, cache.root)
    data = RunData(select_base_new(drawn, cell.recipe.data.classes), store, features, "")
    recorded, seen = data.dataset, classes_of_head(cell, data.dataset)
    if seen:
        data = replace(data, dataset=keep_classes(data.dataset, seen))
    recipe = fitted_recipe(cell, cell_recipe(cell, task, len(data.dataset.train)), data.dataset)
    loaded = cache.get_backbone(recipe.backbone, recipe.image_size, reporter.message)
    backbone = prepare_backbone(loaded, recipe, cell.preprocessing)
    choice = resolve_recipe(recipe, backbone, data, fabric, None, reporter)
    recipe = choice.recipe
    classifier = build_classifier(recipe, backbone, data.dataset.described_classes, fabric.device, check=False)
    training = train(classifier, data, recipe, fabric, folder, reporter, resume=True, progress=False)
    parts = tuple(evaluations(cell, drawn, task, lambda name: cache.get_task(cell.suite, name)))
    scores = {part.name: compute_part(classifier, part, recipe, data, reporter, seen) for part in parts}
    metrics = {name: part and part.metrics() for name, part in with_halves(scores).items()}
    uses_images, held_out = cell.recipe.method not in UNTRAINED, drawn.held_out
    recorded = recorded if uses_images else replace(recorded, train=(), val=())
    base = task.folder or cache.root or embedded.FOLDER
    result = {
        **cell.facts(),
        "evaluations": metrics,
        **(strict_record(scores) if cell.protocol in STRICT else {}),
        "restricted": [part.name for part in parts if metrics[part.name] and is_restricted(classifier.method, part)],
        **run_record(classifier, data.dataset, training),
        **choice.record,
        "images": {split: len(data.dataset.select(split)) if uses_images else 0 for split in SPLITS[:2]},
        "held_out": held_out,
        "split": write_split(folder / SPLIT, recorded, base) if uses_images or held_out else None,
        "peak_memory": peak_memory_bytes(fabric.device),
        "seconds": time.monotonic() - start,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def fitted_recipe(cell: Cell, recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe as `tune` would fit it to a user's folder; published data sets keep the published values."""
    if cell.suite != "folder" or recipe.method == AUTO:
        return recipe
    return folder_recipe(recipe, len(dataset.train), given_keys(cell))


def classes_of_head(cell: Cell, dataset: Dataset) -> tuple[int, ...]:
    """Return the labels that a head without class texts is trained on if a strict draw left classes out; else empty."""
    seen, recipe = sorted({item.label for item in dataset.train}), cell.recipe
    if cell.protocol not in STRICT or len(seen) == len(dataset.classes) or recipe.method == AUTO:
        return ()
    method = find_method(recipe.method)
    return () if method.traits_for(make_options(method, recipe.options)).needs_text else tuple(seen)


def draw_images(
    cell: Cell, task: SuiteTask, store: ImageStore, reporter: Reporter, root: Path | None = None
) -> Dataset:
    """Draw the cell's shots from all classes of the task and decode every image that will be used once."""
    recipe = cell.recipe
    if cell.protocol in STRICT:
        drawn = draw_support(cell, task, root or embedded.FOLDER)
    else:
        drawn = choose_images(training_pool(cell, task.dataset), recipe.changed({"classes": "all"}))
    with reporter.stage("reading images") as progress:
        if recipe.method in UNTRAINED:  # its training images only list the classes
            test, _ = check_images(drawn.test, store, on_bad=recipe.data.on_bad_image, progress=progress)
            return replace(drawn, test=test)
        return check_dataset(drawn, store, on_bad=recipe.data.on_bad_image, progress=progress)[0]


def prepare_backbone(backbone: Backbone, recipe: Recipe, preprocessing: str) -> Backbone:
    """Return the backbone with a published preprocessing, if one is named, and what the recipe sets itself."""
    if preprocessing:
        backbone = replace(backbone, preprocess=PREPROCESSING[preprocessing].apply(backbone.preprocess))
    return with_preprocessing(backbone, recipe)


def write_split(path: Path, dataset: Dataset, base: Path) -> dict[str, str]:
    """Write the images' paths, relative to a folder where they are below it; returns the file's name and checksum.

    These are the training and validation images and, if they were drawn, the test images.
    """
    parts = SPLITS if dataset.held_out else SPLITS[:2]
    split = {part: [[_relative(item, base), item.label] for item in dataset.select(part)] for part in parts}
    text = to_json({"classes": list(dataset.classes), **split})
    content = text.encode(errors="backslashreplace")
    write_atomically(path, content)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}


def _relative(item: Item, root: Path) -> str:
    path = Path(str(item.source))
    if not isinstance(item.source, IndexedSource) and path.is_relative_to(root):
        return path.relative_to(root).as_posix()
    return str(item.source)


def peak_memory_bytes(device: torch.device) -> dict[str, int]:
    """Return the peak memory in bytes: of this process since it started, and of the cell on its GPU."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"process": 1024 * kilobytes}
    if device.type == "cuda":
        result["gpu"] = torch.cuda.max_memory_allocated(device)
    return result
