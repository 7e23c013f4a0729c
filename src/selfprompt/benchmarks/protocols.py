"""The published protocols as pure functions: which cells a grid has, and on what each is evaluated; imports no torch.

Sources: base-to-new, cross-dataset, domain-generalization and few-shot as in CoOp and CoCoOp (Zhou et al. 2022, arXiv
2109.01134 and 2203.05557); vtab as in VTAB-1k (Zhai et al. 2019, arXiv 1910.04867); fgvc as in VPT (Jia et al. 2022,
arXiv 2203.12119).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.rows import Entry, parse_entry
from selfprompt.benchmarks.settings import settings_for
from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.suites import vtab
from selfprompt.data.suites.task import SuiteTask
from selfprompt.recipes.recipe import Recipe

TEXTS = ("template", "text")
"""Options of methods that are texts for class names: published runs change them with the data set."""
UNTRAINED = ("zero-shot",)
"""Methods that see no training image: seeds and shots change nothing, so a grid has one cell of them a data set."""


@dataclass(frozen=True)
class Protocol:
    """One way of measuring.

    Attributes:
        about: One line for the help.
        suites: Where it is defined.
        shots: Training images a class where the user says nothing; 0 is all.
        classes: Which classes are trained.
        sources: The tasks that are trained on by suite; others are only evaluated. Empty: all.
    """

    about: str
    suites: tuple[str, ...]
    shots: tuple[int, ...] = (16,)
    classes: Literal["all", "base"] = "all"
    sources: tuple[tuple[str, str], ...] = ()


PROTOCOLS: dict[str, Protocol] = {
    "base-to-new": Protocol(
        "tune on the first half of the classes, test on both halves", ("coop", "embedded"), classes="base"
    ),
    "few-shot": Protocol("tune on all classes with few images each", ("coop", "embedded"), shots=(1, 2, 4, 8, 16)),
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
}


@dataclass(frozen=True)
class Evaluation:
    """A set of test images and the classes among which they are to be told apart.

    Attributes:
        name: "base", "new", "test", or a domain's or data set's name.
        classes: Class names; labels count them.
        items: The images.
        texts: The method's texts for a class name, by option; without one the tuned method keeps its own.
        among: The tuned classes that these are, where all of them were tuned: a method that cannot take other class
            names has scores for them all the same.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    texts: Mapping[str, str]
    among: tuple[int, ...] = ()


def grid(
    protocol: str,
    suite: str,
    entries: Sequence[Entry],
    datasets: Sequence[str],
    seeds: Sequence[int],
    shots: Sequence[int],
    overrides: Mapping[str, Any] | None = None,
    targets: Mapping[str, Sequence[str]] | None = None,
    preprocessing: str = "",
) -> tuple[Cell, ...]:
    """Every cell once, data set by data set, so that decoded images serve all of a data set's cells.

    Args:
        protocol: A name of ``PROTOCOLS``.
        suite: A suite of tasks.
        entries: The rows.
        datasets: Tasks to tune on.
        seeds, shots: Of the draws; a method that sees no training image gets the first seed and no shots.
        overrides: Values of the recipe for all rows.
        targets: What a cell of each data set is evaluated on besides: tasks or domains.
        preprocessing: Whose way from VTAB's images to pixels, a name of ``vtab.PREPROCESSING``.

    Raises:
        ValueError: If the protocol is not defined for the suite, a value does not fit a recipe, or two rows are one.
    """
    if suite not in PROTOCOLS[protocol].suites:
        defined = ", ".join(PROTOCOLS[protocol].suites)
        raise ValueError(f"{protocol} is defined for the suites {defined}, got {suite!r}.")
    usual = {}
    if preprocessing:
        published = vtab.PREPROCESSING[preprocessing]
        usual = {"statistics": published.statistics, "augment": published.augment}
    cells: dict[str, Cell] = {}
    for dataset in datasets:
        for count in shots:
            for seed in seeds:
                for entry in entries:
                    left_open = {name: value for name, value in usual.items() if name not in entry.written()}
                    own = {**left_open, **(overrides or {})}
                    cell = make_cell(protocol, suite, dataset, entry, seed, count, own, first=seeds[0])
                    others = tuple((targets or {}).get(dataset, ()))
                    cell = replace(cell, targets=others, preprocessing=preprocessing)
                    cells.setdefault(f"{cell.method} {cell.id}", cell)
    check_different(tuple(cells.values()))
    return tuple(cells.values())


def check_different(cells: Sequence[Cell]) -> None:
    """Raise ValueError where two rows have all of their cells in common: one measurement under two names."""
    ids: dict[str, frozenset[str]] = {}
    for cell in cells:
        ids[cell.method] = ids.get(cell.method, frozenset()) | {cell.id}
    names: dict[frozenset[str], str] = {}
    for name, own in ids.items():
        if own in names:
            raise ValueError(f"{names[own]} and {name} are the same run under two names: leave one of them out.")
        names[own] = name


def make_cell(
    protocol: str,
    suite: str,
    dataset: str,
    entry: Entry,
    seed: int,
    shots: int,
    overrides: Mapping[str, Any],
    *,
    first: int = 1,
) -> Cell:
    """One cell: the entry's recipe, changed by the rules of its place, the command line and the entry itself."""
    recipe = entry.recipe()
    if recipe.method in UNTRAINED:
        seed, shots = first, 0
    facts = {"suite": suite, "protocol": protocol, "dataset": dataset, "shots": shots, "recipe": entry.name}
    held = settings_for(recipe, **facts)
    own = (entry.written(), overrides, entry.changes)
    for values in (*(rule.values for rule in held), *own):
        recipe = recipe.changed(values)
    fixed = {"seed": seed, "shots": shots, "classes": PROTOCOLS[protocol].classes}
    if recipe.method not in UNTRAINED:
        _check_fixed(entry, fixed)
    recipe = recipe.changed(fixed)
    own_texts = any(name in values.get("options", {}) for values in own for name in TEXTS)
    own_epochs = any("epochs" in values for values in own)
    steps = 0 if own_epochs else max((rule.steps_per_shot * shots for rule in held), default=0)
    return Cell(protocol, suite, dataset, entry.label, recipe, dict(overrides), own_texts, steps=steps)


def _check_fixed(entry: Entry, fixed: Mapping[str, Any]) -> None:
    """Raise ValueError where a recipe file says other than what protocol and command line fix."""
    written = entry.written()
    for name, value in fixed.items():
        if written.get(name, value) != value:
            raise ValueError(
                f"{entry.label}: {name} {written[name]} stands in the file, but the protocol and the command line fix "
                f"it, here at {value}: take the line out of the file."
            )


def cell_recipe(cell: Cell, task: SuiteTask, images: int) -> Recipe:
    """The recipe of a cell with its texts for the task's class names, and the epochs that make its steps.

    Args:
        cell: The cell.
        task: What is tuned on.
        images: How many images are trained on.
    """
    recipe = cell.recipe.changed({"options": class_texts(cell, cell.dataset, task.template)})
    if not cell.steps:
        return recipe
    whole, rest = divmod(images, recipe.train.batch_size)
    a_pass = whole + (rest > 0 and not (whole and recipe.train.drop_last))
    return recipe.changed({"epochs": max(1, round(cell.steps / a_pass))})


def class_texts(cell: Cell, dataset: str, template: str) -> dict[str, str]:
    """A method's texts for the class names of a data set of the suite, by option; nothing where the user chose them.

    They are those that rules give the method there, else the data set's template.
    """
    entry = parse_entry(cell.method, trust=True)  # the grid was made of it: whoever wrote it was asked then
    shipped = entry.recipe()
    if cell.own_texts or "template" not in shipped.options:
        return {}
    facts = {"suite": cell.suite, "protocol": cell.protocol, "dataset": dataset, "shots": cell.shots}
    options = {**shipped.options, "template": template}
    for rule in settings_for(shipped, recipe=entry.name, **facts):
        options |= rule.values.get("options", {})
    return {name: options[name] for name in TEXTS if name in options}


def training_pool(protocol: str, dataset: Dataset) -> Dataset:
    """The data set as a protocol trains on it, before shots are drawn: VTAB's final runs add the validation images."""
    return vtab.merge_train_val(dataset) if protocol == "vtab" else dataset


def evaluations(cell: Cell, drawn: Dataset, task: SuiteTask, read: Callable[[str], SuiteTask]) -> Iterator[Evaluation]:
    """What a cell is evaluated on, the tuned classes first.

    Args:
        cell: Gives protocol and targets.
        drawn: The task's data set with all classes, shots drawn.
        task: What was tuned on.
        read: Gives another task of the suite by name.
    """
    protocol, texts = cell.protocol, class_texts(cell, cell.dataset, task.template)
    if protocol == "base-to-new":
        for part in ("base", "new"):
            half = select_base_new(drawn, part)
            yield Evaluation(part, half.classes, half.test, texts)
        return
    shifted = protocol in ("cross-dataset", "domain-generalization")
    yield Evaluation("source" if shifted else "test", drawn.classes, drawn.test, texts)
    for name in cell.targets:
        if protocol == "cross-dataset":
            other = read(name)
            own = class_texts(cell, name, other.template)
            yield Evaluation(name, other.dataset.classes, other.dataset.test, own)
        else:
            domain = task.domains[name]
            yield Evaluation(name, domain.classes, domain.test, texts, tuned_classes(domain, drawn))


def tuned_classes(domain: Dataset, tuned: Dataset) -> tuple[int, ...]:
    """Which of the tuned classes a domain's are; nothing if one of them was not tuned."""
    labels = {key: label for label, key in enumerate(tuned.keys)}
    return tuple(labels[key] for key in domain.keys) if set(domain.keys) <= set(labels) else ()


def default_sources(protocol: str, suite: str) -> tuple[str, ...]:
    """The tasks that a protocol is trained on when the user names none; empty for all."""
    return tuple(name for where, name in PROTOCOLS[protocol].sources if where == suite)
