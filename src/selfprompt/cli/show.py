"""What commands show: notes, progress bars and tables that fit a terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Show:
    """Tells the steps of a run on a console; a ``tuning.Watcher``."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False)
        self.quiet = quiet

    def say(self, line: str) -> None:
        """One line about what was done or chosen."""
        if not self.quiet:
            self.console.print(line, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """A bar that disappears when its step is done; a spinner until it is known how much there is to do."""
        shown = self.console.is_terminal and not self.quiet
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not shown) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made


def accuracy_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the accuracy table: zero-shot where there is a text tower, and tuned."""
    named = {"zero-shot": results.get("zero_shot"), f"tuned ({results['method']})": results.get("tuned")}
    return [[name, *accuracy_cells(metrics)] for name, metrics in named.items() if metrics]


def accuracy_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Accuracy, interval, macro accuracy and number of images."""
    low, high = metrics["interval"]
    return [
        f"{metrics['accuracy']:.1f} %",
        f"{low:.1f} - {high:.1f} %",
        f"{metrics['macro']:.1f} %",
        f"{metrics['total']}",
    ]


ACCURACY_COLUMNS = ("model", "accuracy", "95 % interval", "mean of classes", "test images")
