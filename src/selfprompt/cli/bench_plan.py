"""The grid that a command line of ``selfprompt bench`` asks for: tasks, rows, seeds, shots, and values for all rows."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from jsonargparse import Namespace

from selfprompt.cli.usage import UsageError, usage
from selfprompt.recipes.options import DataOptions, TrainOptions
from selfprompt.recipes.recipe import Recipe, check_overrides

if TYPE_CHECKING:
    from selfprompt.benchmarks.cells import Cell
    from selfprompt.benchmarks.protocols import TaskLoader
    from selfprompt.benchmarks.rows import Row
    from selfprompt.benchmarks.strict import SplitFile
    from selfprompt.data.suites.task import SuiteTask

DEFAULT_SUITES = {"vtab": "vtab", "fgvc": "fgvc", "holdout": "folder"}
DEFAULT_METHODS = {"vtab": "linear,vpt-deep,spt-deep", "fgvc": "linear,vpt-deep,spt-deep", "holdout": "ridge,auto"}
DEFAULT_TEXT_METHODS = "zero-shot,coop,sep"
LONGEST_RANGE = 1000
"""Numbers in a range of the command line."""
NOT_OVERRIDABLE = {"shots", "classes", "class_names", "devices", "log_to"}


def override_types() -> dict[str, Any]:
    """Return the values of a recipe that can be set for all rows, with their types."""
    options = [f.name for f in (*fields(DataOptions), *fields(TrainOptions)) if f.name not in NOT_OVERRIDABLE]
    hints = {name: hint for kind in (Recipe, DataOptions, TrainOptions) for name, hint in get_type_hints(kind).items()}
    return {name: hints[name] for name in ("backbone", "image_size", "eval_batch_size", "statistics", *options)}


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        cells: The grid.
        notes: What the user must know about the tasks, such as why one was left out; one sentence each.
        root: The folder of the data of a published suite.
        loader: Reads a task; None for those of a suite.
    """

    cells: "tuple[Cell, ...]"
    notes: tuple[str, ...] = ()
    root: Path | None = None
    loader: "TaskLoader | None" = None


def make_plan(options: Namespace) -> Plan:
    """Build the grid of a command line.

    Raises:
        UsageError: If an option is missing or wrong.
        ValueError: If the data cannot be read.
    """
    for_folders = is_for_folders(options)
    check_strict_options(options)
    return plan_folders(options) if for_folders else plan_suite(options)


def is_for_folders(options: Namespace) -> bool:
    """Return whether the tasks are the user's own folders.

    Raises:
        UsageError: If there is no protocol, or it does not go with the suite.
    """
    if options.protocol is None and options.suite != "folder":
        raise UsageError(
            "A protocol is needed, such as selfprompt bench few-shot (see selfprompt bench --help). "
            "For your own photos: selfprompt bench --suite folder --datasets PHOTOS."
        )
    if options.suite == "folder" and options.protocol not in (None, "holdout"):
        raise UsageError(
            f"Your own folders are compared by the protocol holdout, got {options.protocol}: leave it out, "
            "and give the training images per class with --shots, such as --shots 1,4,16."
        )
    folders = options.suite == "folder" or (options.protocol == "holdout" and options.suite is None)
    if options.holdout is not None and not folders:
        raise UsageError("--holdout needs --suite folder: the tasks of other suites have test images.")
    return folders


def plan_folders(options: Namespace) -> Plan:
    """Build the grid of the user's own folders."""
    from selfprompt.benchmarks.own_folders import fingerprint, load_folder_task, name_folders
    from selfprompt.benchmarks.protocols import build_grid

    for name in ("root", "preprocessing"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} is for published suites; give your folders with --datasets.")
    if options.datasets == "all":
        raise UsageError("--datasets is needed: your folder, with a folder of photos for each class, or a manifest.")
    if options.holdout is not None and not 0 < options.holdout < 1:
        raise UsageError(f"--holdout must be above 0 and below 1, got {options.holdout}: test images are needed.")
    paths = [options.datasets] if os.path.exists(options.datasets) else _words(options.datasets, "datasets")
    rows, changes = plan_rows(options, "holdout")
    with usage():
        folders = name_folders(paths)
    loader = partial(load_folder_task, folders, changes.get("on_empty_class", DataOptions.on_empty_class))
    read = {name: loader("folder", name, None).dataset for name in folders}
    contents = {name: fingerprint(dataset) for name, dataset in read.items()}
    seeds, shots = plan_seeds(options, "holdout"), [0] if options.shots is None else _numbers(options.shots, "shots")
    with usage():
        cells = build_grid("holdout", "folder", rows, list(folders), seeds, shots, changes, contents=contents)
    notes = [f"{name}: {note}" for name, dataset in read.items() for note in dataset.notes]
    notes += [f"{name} has a test split: every seed uses its test images." for name, d in read.items() if d.test]
    return Plan(cells, tuple(notes), loader=loader)


def plan_rows(options: Namespace, protocol: str) -> "tuple[Sequence[Row], dict[str, Any]]":
    """Return the rows, and the values that the command line sets for all of them."""
    from selfprompt.benchmarks.rows import parse_rows

    with usage():
        default_methods = DEFAULT_METHODS.get(protocol, DEFAULT_TEXT_METHODS)
        rows = parse_rows(options.methods or default_methods, trust=options.trust)
        changes = overrides(options, rows)
        check_options(rows)
    return rows, changes


def plan_suite(options: Namespace) -> Plan:
    """Build the grid of a published suite."""
    from selfprompt.benchmarks.protocols import PROTOCOLS, build_grid
    from selfprompt.data.suites import list_tasks

    protocol = PROTOCOLS[options.protocol]
    suite = options.suite or DEFAULT_SUITES.get(options.protocol, "embedded")
    if suite not in protocol.suites:
        raise UsageError(f"{options.protocol} is defined for the suites {', '.join(protocol.suites)}, got {suite!r}.")
    tasks = list_tasks(suite)
    selected = None if options.datasets == "all" else tuple(_words(options.datasets, "datasets"))
    unknown = [name for name in selected or () if name not in tasks]
    if unknown:
        raise UsageError(f"{suite} has no task {unknown[0]!r}. Its tasks: {', '.join(tasks)}.")
    rows, changes = plan_rows(options, options.protocol)
    names = tasks if selected is None or options.protocol == "cross-dataset" else selected
    readable, unreadable = read_tasks(suite, names, options.root)
    if missing := [name for name in selected or () if name in unreadable]:
        raise ValueError(f"{missing[0]}: {unreadable[missing[0]]}")
    sources, targets = sources_and_targets(options.protocol, suite, tasks, selected, readable)
    sources = [name for name in sources if name in readable]
    seeds = plan_seeds(options, options.protocol)
    shots = protocol.shots if options.shots is None else _numbers(options.shots, "shots")
    cells = build_grid(
        options.protocol,
        suite,
        rows,
        sources,
        seeds,
        shots,
        changes,
        targets,
        (options.preprocessing or "default") if suite == "vtab" else "",
        supports=options.supports,
        split_files=plan_splits(options, suite, {name: readable[name] for name in sources}, seeds, shots),
    )
    if not cells:
        raise ValueError(f"No data set of {suite} can be read: {'; '.join(unreadable.values())}")
    notes = tuple(f"Skipping {name}: {reason}" for name, reason in unreadable.items())
    return Plan(cells, notes, None if options.root is None else Path(options.root))


def plan_seeds(options: Namespace, protocol: str) -> Sequence[int]:
    """Return the seeds of the command line, or those of the protocol."""
    from selfprompt.benchmarks.protocols import PROTOCOLS

    return PROTOCOLS[protocol].seeds if options.seeds is None else _numbers(options.seeds, "seeds")


def check_strict_options(options: Namespace) -> None:
    """Raise UsageError if an option of the strict protocols is given to another one."""
    from selfprompt.benchmarks.strict import STRICT

    if options.protocol in STRICT:
        return
    for name, given in (("supports", options.supports != "balanced"), ("splits", options.splits is not None)):
        if given:
            raise UsageError(f"--{name} is for the protocols {' and '.join(STRICT)}, got {options.protocol}.")


def plan_splits(
    options: Namespace, suite: str, tasks: "Mapping[str, SuiteTask]", seeds: Sequence[int], shots: Sequence[int]
) -> "dict[tuple[str, int, int], SplitFile]":
    """Find and read the lists of training images of every task, number of shots and seed, if there are lists.

    Raises:
        UsageError: If the options do not go together.
        ValueError: If a list is missing or wrong.
    """
    from selfprompt.benchmarks.split_files import find_split_file, read_split_file
    from selfprompt.data.suites.specs import SPECS

    if options.splits is None:
        return {}
    if suite != "coop" or options.root is None:
        raise UsageError("--splits needs --suite coop and --root, the folder that its lists of images refer to.")
    if options.supports != "balanced":
        raise UsageError("--splits and --supports both say which images to train on: leave one of them out.")
    files = {}
    for (name, task), count, seed in itertools.product(tasks.items(), shots, seeds):
        spec = SPECS[f"{suite}/{name}"]
        file = find_split_file(Path(options.splits), (spec.folder, *spec.aliases, name), count, seed)
        read_split_file(file, task.dataset, Path(options.root))  # what is wrong is said before anything runs
        files[name, count, seed] = file
    return files


def sources_and_targets(
    protocol: str,
    suite: str,
    tasks: Sequence[str],
    selected: Sequence[str] | None,
    readable: "Mapping[str, SuiteTask]",
) -> tuple[Sequence[str], dict[str, list[str]]]:
    """Return the tasks to tune on, and the tasks or domains that each is also evaluated on."""
    from selfprompt.benchmarks.protocols import default_sources

    sources = selected or default_sources(protocol, suite) or (tasks[:1] if protocol == "cross-dataset" else tasks)
    if protocol == "cross-dataset":
        return sources, {source: [name for name in readable if name != source] for source in sources}
    if protocol == "domain-generalization":
        return sources, {name: list(task.domains) for name, task in readable.items()}
    return sources, {}


def read_tasks(suite: str, names: Sequence[str], root: str | None) -> "tuple[dict[str, SuiteTask], dict[str, str]]":
    """Read tasks; returns those that can be read, and why the others cannot."""
    from selfprompt.data.suites import load_task

    tasks, reasons = {}, {}
    for name in names:
        try:
            tasks[name] = load_task(f"{suite}/{name}", root)
        except ValueError as error:
            reasons[name] = str(error)
    return tasks, reasons


def overrides(options: Namespace, rows: "Sequence[Row]") -> dict[str, Any]:
    """Return the values that the command line sets for all rows.

    Raises:
        ValueError: If a value does not fit one of the recipes.
    """
    changes = {name: value for name in override_types() if (value := getattr(options, name)) is not None}
    for row in rows:
        recipe = row.recipe()
        recipe.changed(changes)
        check_overrides(recipe.method, {**changes, **row.changes})
    return changes


def check_options(rows: "Sequence[Row]") -> None:
    """Check the options of all methods before any data are read.

    Raises:
        ValueError: If a method does not take an option or its value.
    """
    from selfprompt.training import auto

    for row in rows:
        recipe = row.recipe().changed(row.changes)
        try:
            auto.check_options(recipe)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{row.label}: {error}") from error


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be names separated by commas, each once, got {text!r}.")
    return words


def _numbers(text: str, option: str) -> list[int]:
    """Parse numbers such as "1,2,3", or a range such as "1..10".

    Raises:
        UsageError: If one is not a whole number, or occurs twice.
    """
    words = [word.strip() for word in text.strip("[]").split(",")]
    first, dots, last = text.partition("..")
    if dots and first.isdecimal() and last.isdecimal() and 0 <= int(last) - int(first) < LONGEST_RANGE:
        words = [str(number) for number in range(int(first), int(last) + 1)]
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise UsageError(f"--{option} must be whole numbers separated by commas, each once, got {text!r}.")
    return [int(word) for word in words]
