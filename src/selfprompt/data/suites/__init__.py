"""Suites of tasks: one that ships with the package, and published ones, read from the user's copy of the data.

A suite is a module of this package with ``TASKS``, the task names in published order, and
``load_SUITE_task(name, root)``.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfprompt.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from selfprompt.data.suites.task import SuiteTask

SUITES = ("embedded", "coop", "vtab", "fgvc")


def list_tasks(suite: str) -> tuple[str, ...]:
    """Return the names of a suite's tasks, in published order.

    Raises:
        ValueError: If there is no such suite.
    """
    return tuple(_module(suite).TASKS)


def load_task(name: str, root: str | Path | None = None, **options: Any) -> "SuiteTask":
    """Read the paths, labels, class names and domains of one task; opens no image.

    Args:
        name: Suite and task, "embedded/animals".
        root: The folder that holds the data, for suites that do not ship with the package.
        **options: Further options of the suite's ``load_SUITE_task``.

    Raises:
        ValueError: If there is no such task, or its data are missing or not as published.
    """
    check_task(name)
    suite, _, task = name.partition("/")
    load = getattr(_module(suite), f"load_{suite}_task")
    loaded: SuiteTask = load(task, None if root is None else Path(root), **options)
    return loaded


def check_task(name: str) -> None:
    """Raise ValueError unless a task of that name exists; its data may be missing."""
    suite, slash, task = name.partition("/")
    if not slash:
        raise ValueError(f"A task is named SUITE/TASK, such as embedded/animals, got {name!r}. {_known_suites()}")
    known = _module(suite).TASKS
    if task not in known:
        hint = did_you_mean(task, known, f"{suite}/{{}}".format)
        raise ValueError(f"Unknown task {name!r}.{hint} Tasks of {suite}: {', '.join(known)}.")


def _module(suite: str) -> Any:
    if suite not in SUITES:
        raise ValueError(f"Unknown suite {suite!r}.{did_you_mean(suite, SUITES, str)} {_known_suites()}")
    path = f"{__name__}.{suite}"
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise ValueError(f"The suite {suite!r} is not part of this installation: {path} is missing.") from None


def _known_suites() -> str:
    return f"Suites: {', '.join(SUITES)}."
