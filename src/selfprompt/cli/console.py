"""Console output of the commands: messages, progress bars and tables that fit a terminal."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from selfprompt.cli.terminal_text import fill
from selfprompt.utils.wording import printable

CSV_GUARD = "in CSV, put an apostrophe before names that a spreadsheet may evaluate as formulas (= + - @)"
"""Help text of --csv-guard."""
FILE_WIDTH = 160
"""Width in columns of output to a file or a pipe."""


class Console(RichConsole):
    """A console that prints text literally and escapes control characters, since names may come from anywhere."""

    def print_text(self, text: str) -> None:
        """Print one line of text, never as markup; a terminal gets it broken between words."""
        line = printable(text)
        self.print(fill(line, self.width) if self.is_terminal else line, markup=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Escape control characters in everything that is drawn, bars and tables included."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(printable(piece.text, keep="\n"), piece.style)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; ``COLUMNS`` sets its width if there is no terminal."""
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


class Output:
    """Prints messages and progress of a command on a console; a ``training.reporter.Reporter``."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or make_console()
        self.quiet = quiet

    def message(self, line: str) -> None:
        """Print one line, unless quiet."""
        if not self.quiet:
            self.console.print_text(line)

    def note(self, method: Any, batch_size: int) -> None:
        """Print the notes on a loaded classifier."""
        if method.backbone.note:
            self.message(f"Note: {method.backbone.note}")
        if not method.traits.batch_independent:
            self.message(f"Note: a prediction depends on the other images of its batch of {batch_size}, as released.")

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar during one step; a spinner until the total is known."""
        shown = self.console.is_terminal and not self.quiet
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True, disable=not shown) as bar:
            task = bar.add_task(printable(name), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of text cells; all columns but the first are aligned right."""
    result = Table(title=Text(printable(title)) if title else None, title_justify="left")
    for number, column in enumerate(columns):
        result.add_column(Text(printable(column)), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(printable(cell)) for cell in row))  # a name may look like markup
    return result
