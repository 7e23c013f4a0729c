"""The published protocols: the cells of a grid and what each is evaluated on; pure functions, no torch.

Sources: base-to-new, cross-dataset, domain-generalization and few-shot as in CoOp and CoCoOp (Zhou et al. 2022, arXiv
2109.01134 and 2203.05557); vtab as in VTAB-1k (Zhai et al. 2019, arXiv 1910.04867); fgvc as in VPT (Jia et al. 2022,
arXiv 2203.12119). holdout is not published: it compares methods on a user's own folder. strict and strict-few-shot are
base-to-new and few-shot under the rules of ``strict``.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.own_folders import draw_test_images
from selfprompt.benchmarks.rows import Row, parse_row
from selfprompt.benchmarks.settings import settings_for
from selfprompt.benchmarks.strict import FROM_FILES, STRICT, TEXT_OPTIONS, SplitFile, check_draw, check_strict
from selfprompt.data.class_description import ClassDescription
from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.suites import vtab
from selfprompt.data.suites.task import SuiteTask
from selfprompt.recipes.options import DataOptions
from selfprompt.recipes.recipe import Recipe

UNTRAINED = ("zero-shot",)
"""Methods that use no training images: independent of seed and shots, so a grid has one cell of them per data set."""
TaskLoader = Callable[[str, str, Path | None], SuiteTask]
"""Reads a task, given suite, name and the folder of the data."""


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol.

    Attributes:
        about: One line for the help.
        suites: The suites it is defined for.
        shots: Default numbers of training images per class; 0 for all.
        classes: Which classes are trained on.
        sources: Pairs of suite and task that are trained on, all others being targets only; empty for all tasks.
        seeds: Default seeds.
    """

    about: str
    suites: tuple[str, ...]
    shots: tuple[int, ...] = (16,)
    classes: Literal["all", "base"] = "all"
    sources: tuple[tuple[str, str], ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)


PROTOCOLS: dict[str, Protocol] = {
    "base-to-new": Protocol(
        "tune on the first half of the classes, test on both halves", ("coop", "embedded"), classes="base"
    ),
    "few-shot": Protocol("tune on all classes with a few images each", ("coop", "embedded"), shots=(1, 2, 4, 8, 16)),
    "cross-dataset": Protocol(
        "tune on one data set, test on the others with their own classes",
        ("coop", "embedded"),
        sources=(("coop", "imagenet"),),
    ),
    "domain-generalization": Protocol(
        "tune on one data set, test on its shifted versions", ("coop", "embedded"), sources=(("coop", "imagenet"),)
    ),
    "vtab": Protocol("tune on 1000 images of each of 19 tasks, last epoch", ("vtab",), shots=(0,)),
    "fgvc": Protocol("tune on all training images of five data sets, last epoch", ("fgvc",), shots=(0,)),
    "strict": Protocol(
        "base-to-new with one setting for all tasks, all classes together, and intervals of differences",
        ("coop", "embedded"),
        classes="base",
        seeds=tuple(range(1, 11)),
    ),
    "strict-few-shot": Protocol(
        "few-shot with one setting for all tasks and intervals of differences; classes may be unbalanced",
        ("coop", "embedded"),
        seeds=tuple(range(1, 11)),
    ),
    "holdout": Protocol("tune on your own folder; each seed holds out other test images", ("folder",), shots=(0,)),
}


@dataclass(frozen=True)
class Evaluation:
    """Test images and the classes they are classified into.

    Attributes:
        name: "base", "new", "test", "source", or the name of a domain or data set.
        classes: Class names; labels are indices into them.
        items: The images.
        texts: The method's texts for a class name, by option; options left out keep the tuned method's value.
        tuned_labels: Indices of the classes among the tuned ones, empty unless all were tuned. A method that cannot
            take other class names is evaluated on its scores for them.
        descriptions: What is said about each class besides one name; empty if there is nothing.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    texts: Mapping[str, str]
    tuned_labels: tuple[int, ...] = ()
    descriptions: tuple[ClassDescription, ...] = ()


def build_grid(
    protocol: str,
    suite: str,
    rows: Sequence[Row],
    datasets: Sequence[str],
    seeds: Sequence[int],
    shots: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
    targets: Mapping[str, Sequence[str]] | None = None,
    preprocessing: str = "",
    contents: Mapping[str, str] | None = None,
    supports: str = "balanced",
    split_files: Mapping[tuple[str, int, int], SplitFile] | None = None,
) -> tuple[Cell, ...]:
    """Build the cells of a grid, data set by data set, so that all cells of a data set share its decoded images.

    Args:
        protocol: A key of ``PROTOCOLS``.
        suite: A suite of tasks.
        rows: The rows of the table.
        datasets: Tasks to tune on.
        seeds: Seeds; a method that uses no training images gets the first one only, unless they draw test images.
        shots: Training images per class; a method that uses no training images gets 0.
        overrides: Values of the recipe for all rows.
        targets: By data set, the tasks or domains that its cells are also evaluated on.
        preprocessing: A key of ``vtab.PREPROCESSING``; empty for the backbone's.
        contents: By data set, the hash of its images, where the name does not fix them.
        supports: How a strict protocol draws training images.
        split_files: By data set, shots and seed, the lists of training images that it reads instead.

    Raises:
        ValueError: If the protocol is not defined for the suite, a value does not fit a recipe, or two rows are equal.
    """
    if suite not in PROTOCOLS[protocol].suites:
        defined = ", ".join(PROTOCOLS[protocol].suites)
        raise ValueError(f"{protocol} is defined for the suites {defined}, got {suite!r}.")
    if protocol in STRICT:
        check_draw(protocol, shots, supports)
    defaults = {}
    if preprocessing:
        published = vtab.PREPROCESSING[preprocessing]
        defaults = {"statistics": published.statistics, "augment": published.augment}
    cells: dict[str, Cell] = {}
    for dataset, count, seed, row in itertools.product(datasets, shots, seeds, rows):
        unset = {name: value for name, value in defaults.items() if name not in row.file_values()}
        changes = {**unset, **(overrides or {})}
        cell = make_cell(protocol, suite, dataset, row, seed, count, changes, first_seed=seeds[0])
        extra = tuple((targets or {}).get(dataset, ()))
        known = (contents or {}).get(dataset, "")
        cell = replace(cell, targets=extra, preprocessing=preprocessing, contents=known)
        if protocol in STRICT:
            listed = (split_files or {}).get((dataset, cell.shots, cell.seed)) if cell.shots else None
            cell = replace(cell, supports=FROM_FILES if split_files else supports, split_file=listed)
        cells.setdefault(f"{cell.row} {cell.id}", cell)
    check_distinct(tuple(cells.values()))
    return tuple(cells.values())


def check_distinct(cells: Sequence[Cell]) -> None:
    """Raise ValueError if two rows have the same cells, which would be one measurement under two names."""
    ids: dict[str, frozenset[str]] = {}
    for cell in cells:
        ids[cell.row] = ids.get(cell.row, frozenset()) | {cell.id}
    names: dict[frozenset[str], str] = {}
    for name, cell_ids in ids.items():
        if cell_ids in names:
            raise ValueError(f"{names[cell_ids]} and {name} are the same run under two names: leave one of them out.")
        names[cell_ids] = name


def make_cell(
    protocol: str,
    suite: str,
    dataset: str,
    row: Row,
    seed: int,
    shots: int,
    overrides: Mapping[str, Any],
    *,
    first_seed: int = 1,
) -> Cell:
    """Make one cell: the row's recipe, changed by the settings, the recipe file, the command line and the row."""
    recipe = row.recipe()
    if recipe.method in UNTRAINED:
        seed, shots = seed if protocol == "holdout" else first_seed, 0
    facts = {"suite": suite, "protocol": protocol, "dataset": dataset, "shots": shots, "recipe": row.name}
    settings = settings_for(recipe, **facts)
    by_user = (row.file_values(), overrides, row.changes)
    for values in (*(rule.values for rule in settings), *by_user):
        recipe = recipe.changed(values)
    fixed = {"seed": seed, "shots": shots, "classes": PROTOCOLS[protocol].classes}
    if protocol == "holdout":  # all rows are tested on the same images
        fixed["holdout"] = overrides.get("holdout", DataOptions.holdout)
    if protocol in STRICT:
        check_strict(protocol, row, recipe)
    if recipe.method not in UNTRAINED:
        _check_fixed(row, fixed)
    recipe = recipe.changed(fixed)
    custom_texts = any(name in values.get("options", {}) for values in by_user for name in TEXT_OPTIONS)
    custom_epochs = any("epochs" in values for values in by_user)
    steps = 0 if custom_epochs else max((rule.steps_per_shot * shots for rule in settings), default=0)
    return Cell(protocol, suite, dataset, row.label, recipe, dict(overrides), custom_texts, steps=steps)


def _check_fixed(row: Row, fixed: Mapping[str, Any]) -> None:
    """Raise ValueError if a row or its recipe file contradicts what protocol and command line fix."""
    in_file = row.file_values()
    for name, value in fixed.items():
        if in_file.get(name, value) != value:
            raise ValueError(
                f"{row.label}: the file sets {name} {in_file[name]}, but the protocol and the command line fix it "
                f"at {value}: remove the line from the file."
            )
        if row.changes.get(name, value) != value:
            raise ValueError(f"{row.label}: {name} is the same for all rows, {value}; give --{name} instead.")


def cell_recipe(cell: Cell, task: SuiteTask, images: int) -> Recipe:
    """Return the cell's recipe with the texts for the task's class names and the epochs that amount to its steps.

    Args:
        cell: The cell.
        task: The task that is tuned on.
        images: Number of training images.
    """
    recipe = cell.recipe.changed({"options": texts_for_dataset(cell, cell.dataset, task.template)})
    if not cell.steps:
        return recipe
    whole, rest = divmod(images, recipe.train.batch_size)
    steps_per_epoch = whole + (rest > 0 and not (whole and recipe.train.drop_last))
    return recipe.changed({"epochs": max(1, round(cell.steps / steps_per_epoch))})


def given_keys(cell: Cell) -> set[str]:
    """Return the keys of the recipe that the user set for a cell, "options.NAME" for options."""
    row = parse_row(cell.row, trust=True)
    values = (row.file_values(), cell.overrides, row.changes)
    options = {f"options.{name}" for given in values for name in given.get("options", {})}
    return {key for given in values for key in given} - {"options"} | options


def texts_for_dataset(cell: Cell, dataset: str, template: str) -> dict[str, str]:
    """Return the method's texts for the class names of a data set, by option; empty if the user chose the texts.

    These are the texts of the matching rules, else the data set's template. A user's folder has none of its own.
    """
    row = parse_row(cell.row, trust=True)  # whether to trust it was settled when the grid was built
    shipped = row.recipe()
    if cell.custom_texts or cell.suite == "folder" or "template" not in shipped.options:
        return {}
    facts = {"suite": cell.suite, "protocol": cell.protocol, "dataset": dataset, "shots": cell.shots}
    options = {**shipped.options, "template": template}
    for rule in settings_for(shipped, recipe=row.name, **facts):
        options |= rule.values.get("options", {})
    return {name: options[name] for name in TEXT_OPTIONS if name in options}


def training_pool(cell: Cell, dataset: Dataset) -> Dataset:
    """Return the images that a cell draws shots from.

    VTAB's final runs add the validation images. In a user's folder without a test split, the seed draws test images.
    """
    if cell.protocol == "holdout":
        return draw_test_images(dataset, cell.recipe.data.holdout, cell.seed)
    return vtab.merge_train_val(dataset) if cell.protocol == "vtab" else dataset


def evaluations(cell: Cell, drawn: Dataset, task: SuiteTask, read: Callable[[str], SuiteTask]) -> Iterator[Evaluation]:
    """Yield the evaluations of a cell, the tuned classes first.

    Args:
        cell: The cell.
        drawn: The task's data set with all classes, after the few-shot draw.
        task: The task that was tuned on.
        read: Reads another task of the suite by name.
    """
    protocol, texts = cell.protocol, texts_for_dataset(cell, cell.dataset, task.template)
    if protocol == "base-to-new":
        yield from halves(drawn, texts)
        return
    if protocol == "strict":
        base, new = halves(drawn, texts)
        yield from (base, new, union(base, new))
        return
    shifted = protocol in ("cross-dataset", "domain-generalization")
    name = "source" if shifted else "test"
    yield Evaluation(name, drawn.classes, drawn.test, texts, descriptions=drawn.descriptions)
    for name in cell.targets:
        if protocol == "cross-dataset":
            other = read(name)
            yield Evaluation(
                name,
                other.dataset.classes,
                other.dataset.test,
                texts_for_dataset(cell, name, other.template),
                descriptions=other.dataset.descriptions,
            )
        else:
            domain = task.domains[name]
            yield Evaluation(name, domain.classes, domain.test, texts, labels_among_tuned(domain, drawn))


def halves(drawn: Dataset, texts: Mapping[str, str]) -> tuple[Evaluation, Evaluation]:
    """Return the evaluations of the base and of the new classes, each among themselves."""
    base, new = (
        Evaluation(part, half.classes, half.test, texts, descriptions=half.descriptions)
        for part in ("base", "new")
        for half in [select_base_new(drawn, part)]
    )
    return base, new


def union(base: Evaluation, new: Evaluation) -> Evaluation:
    """Return the evaluation of all images among all classes, the base images and classes first."""
    moved = tuple(replace(item, label=item.label + len(base.classes)) for item in new.items)
    classes, descriptions = base.classes + new.classes, base.descriptions + new.descriptions
    return Evaluation("union", classes, base.items + moved, base.texts, descriptions=descriptions)


def labels_among_tuned(domain: Dataset, tuned: Dataset) -> tuple[int, ...]:
    """Return the indices of a domain's classes among the tuned ones; empty if one of them was not tuned."""
    labels = {key: label for label, key in enumerate(tuned.keys)}
    return tuple(labels[key] for key in domain.keys) if set(domain.keys) <= set(labels) else ()


def default_sources(protocol: str, suite: str) -> tuple[str, ...]:
    """Return the tasks that a protocol trains on by default; empty for all."""
    return tuple(name for source_suite, name in PROTOCOLS[protocol].sources if source_suite == suite)
