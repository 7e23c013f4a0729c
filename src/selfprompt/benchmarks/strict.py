"""The rules of the strict protocols: what may differ between tasks, and what is refused; imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfprompt.benchmarks.rows import Row
from selfprompt.recipes.recipe import Recipe

STRICT = ("strict", "strict-few-shot")
"""Protocols with one setting for all tasks and shots, trained on the shots alone."""
TEXT_OPTIONS = ("template", "text")
"""Options of methods that hold texts for class names; published runs vary them with the data set."""
DEVELOPMENT_TASKS: Mapping[str, tuple[str, ...]] = {"embedded": ("animals", "objects", "icons")}
"""By suite, the tasks that settings may be chosen on, by validation images of their base classes. The others are held
out: no setting has seen them."""
SUPPORTS = ("balanced", "marginal", "marginal-absent", "dirichlet")
"""How training images are drawn: K of each class; K C in all by the class frequencies of the training images, where
each class has at least one, or may be absent; or in random proportions."""
FROM_FILES = "files"
"""The supports of a result whose training images are listed in files."""


@dataclass(frozen=True)
class SplitFile:
    """A file that lists the training images of a cell.

    Attributes:
        path: Where it is.
        digest: SHA-256 of its content, in hexadecimal digits.
    """

    path: str
    digest: str


def is_held_out(suite: str, task: str) -> bool:
    """Return whether no setting was chosen on a task."""
    return task not in DEVELOPMENT_TASKS.get(suite, ())


def check_draw(protocol: str, shots: Sequence[int], supports: str) -> None:
    """Raise ValueError unless a strict protocol may draw these numbers of training images in this way."""
    if min(shots, default=1) < 1:
        raise ValueError(f"{protocol} trains on a few images: --shots must be at least 1, got 0.")
    if supports != "balanced" and protocol != "strict-few-shot":
        raise ValueError(f"--supports {supports} needs the protocol strict-few-shot, got {protocol}.")


def check_strict(protocol: str, row: Row, recipe: Recipe) -> None:
    """Check a row against the rules of a strict protocol.

    Args:
        protocol: One of ``STRICT``.
        row: The row, with its changes.
        recipe: Its recipe with all values of the command line.

    Raises:
        ValueError: If it selects an epoch on validation images, has texts of its own, or uses no shots.
    """
    if recipe.train.select != "last":
        raise ValueError(
            f"{row.label}: {protocol} uses no validation images and keeps the last epoch, but select is "
            f"{recipe.train.select!r}: leave it out."
        )
    for values in (row.file_values(), row.changes):
        own = [name for name in TEXT_OPTIONS if name in _options(values)]
        if own:
            raise ValueError(
                f"{row.label}: {protocol} gives all methods the task's template, but options.{own[0]} is set: "
                "leave it out."
            )


def _options(values: Mapping[str, Any]) -> Mapping[str, Any]:
    options: Mapping[str, Any] = values.get("options", {})
    return options
