"""The images of a strict cell: those that it is trained on, and those that it is tested on; imports no torch."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.protocols import UNTRAINED
from selfprompt.benchmarks.split_files import read_split_file
from selfprompt.data.dataset import ArchivedFile, Dataset, Item
from selfprompt.data.fewshot import draw_few_shot
from selfprompt.data.suites import embedded
from selfprompt.data.suites.task import SuiteTask
from selfprompt.data.unbalanced import Counts, draw_counts, draw_dirichlet_counts, marginal_counts
from selfprompt.utils.wording import plural


def strict_test_images(task: SuiteTask) -> tuple[Item, ...]:
    """Return the test images of a task in a strict evaluation: those of the published protocols, then all further ones.

    Raises:
        ValueError: If further ones are missing or damaged.
    """
    return task.dataset.test + task.more_test


def group_drawings(items: Sequence[Item]) -> list[int]:
    """Return the group of each image, from 0: views of one drawing of the embedded suite are one group.

    A drawing is what one set has for a class. Other images are groups of their own.
    """
    numbers: dict[Hashable, int] = {}
    sets: dict[Path, dict[str, str]] = {}
    groups = []
    for item in items:
        key: Hashable = item.source
        if isinstance(item.source, ArchivedFile):
            folder, name = item.source.archive.path.parent, item.source.name
            if folder not in sets:
                sets[folder] = {file: drawn_by for file, _, _, drawn_by in embedded.read_index(folder)["images"]}
            further = Path(name).stem.rpartition("-")[0]  # more_test/CLASS/SET-NUMBER.png
            key = (folder, item.label, sets[folder].get(name, further))
        groups.append(numbers.setdefault(key, len(numbers)))
    return groups


def draw_support(cell: Cell, task: SuiteTask, root: Path) -> Dataset:
    """Return the task with the training images of a strict cell, without validation images, and with all test images.

    Args:
        cell: A cell of a strict protocol. A method that uses no training images keeps all, which list the classes.
        task: The task.
        root: The folder that the paths in a list of training images are relative to.

    Raises:
        ValueError: If there are no training images, or their list is wrong.
    """
    pool = task.dataset
    if not pool.train:
        raise ValueError(f"{pool.name} has no training images.")
    train, notes = pool.train, pool.notes
    if cell.recipe.method not in UNTRAINED:
        train = _draw(cell, pool, root)
        absent = len(pool.classes) - len({item.label for item in train})
        missing = f", none of {plural(absent, 'class')}" if absent else ""
        drawn = f"{plural(len(train), 'training image')} ({cell.supports}, seed {cell.seed}){missing}."
        notes = (*notes, f"Drew {drawn}")
    return replace(pool, train=train, val=(), test=strict_test_images(task), notes=notes)


def _draw(cell: Cell, pool: Dataset, root: Path) -> tuple[Item, ...]:
    if cell.split_file:
        return read_split_file(cell.split_file, pool, root)
    if cell.supports == "balanced":
        return draw_few_shot(pool.train, (), cell.shots, cell.seed)[0]
    labels = [item.label for item in pool.train]
    found = Counter(labels)
    counts = support_counts(cell.supports, [found[label] for label in range(len(pool.classes))], cell.shots, cell.seed)
    return tuple(pool.train[index] for index in draw_counts(labels, counts, cell.seed))


def support_counts(supports: str, frequencies: Sequence[int], shots: int, seed: int) -> Counts:
    """Return the images to draw of each class, (C,).

    Args:
        supports: One of ``SUPPORTS`` but "balanced".
        frequencies: Training images of each class, (C,).
        shots: K; about K C images are drawn.
        seed: Seed of the proportions, if they are random.
    """
    if supports == "dirichlet":
        return draw_dirichlet_counts(frequencies, shots, seed)
    return marginal_counts(frequencies, shots, least=int(supports == "marginal"))
