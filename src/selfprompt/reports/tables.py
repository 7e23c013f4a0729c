"""Tables of percentages, and their formats: text, CSV, JSON, Markdown and LaTeX."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfprompt.benchmarks.results import Difference, Spread
from selfprompt.utils.csv_text import csv_text

NARROW = 5
"""Largest number of columns of a table that shows intervals."""
WIDE = 8
"""Largest number of columns that fits a page."""


@dataclass(frozen=True)
class Gain:
    """Difference of two accuracies in percentage points."""

    value: float


@dataclass(frozen=True)
class Estimate:
    """Difference of two accuracies in percentage points, with an interval.

    Attributes:
        value: The difference.
        interval: Its 95 % interval.
        note: A restriction of it.
        mark: What follows the number.
        brief: Whether a wide table leaves out the interval and a digit.
    """

    value: float
    interval: tuple[float, float]
    note: str = ""
    mark: str = ""
    brief: bool = False


Value = str | int | float | Spread | Gain | Estimate | None


@dataclass(frozen=True)
class Table:
    """Rows of values under columns.

    Attributes:
        title: Title above the table.
        columns: Column names; the first column names the rows.
        rows: One value per column; None for an empty cell.
        notes: Sentences below the table.
        published: Number of rows at the end that are published by others.
        turnable: Whether columns may become rows, because what a cell says does not depend on which is which.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    notes: tuple[str, ...] = ()
    published: int = 0
    turnable: bool = True

    def best(self) -> set[tuple[int, int]]:
        """Return row and column of the largest mean of each column, unless all are equal.

        Published rows and averages over a part of the data sets do not count.
        """
        best = set()
        for column in range(1, len(self.columns)):
            means = {
                number: round(row[column].mean, 2)  # type: ignore[union-attr]
                for number, row in enumerate(self.rows[: len(self.rows) - self.published])
                if isinstance(row[column], Spread) and not row[column].note  # type: ignore[union-attr]
            }
            if len(set(means.values())) > 1:
                best |= {(number, column) for number, mean in means.items() if mean == max(means.values())}
        return best


def format_value(value: Value, *, intervals: bool = True) -> str:
    """Format a value: ``82.41 ± 0.30 (81.66 to 83.16)``."""
    if value is None:
        return "-"
    if isinstance(value, Gain):
        return f"{value.value:+.2f}"
    if isinstance(value, Estimate):
        if value.brief and not intervals:
            return f"{value.value:+.1f}{value.mark}"
        low, high = value.interval
        return f"{value.value:+.2f}{value.mark} ({low:.2f} to {high:.2f}){f' [{value.note}]' if value.note else ''}"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, Spread):
        return value
    parts = [f"{value.mean:{'+' if isinstance(value, Difference) else ''}.2f}"]
    parts += [f"± {value.deviation:.2f}"] if value.deviation is not None else []
    parts += [f"({value.interval[0]:.2f} to {value.interval[1]:.2f})"] if intervals and value.interval else []
    parts += [f"[{value.note}]"] if value.note else []
    return " ".join(parts)


@dataclass(frozen=True)
class Layout:
    """A table as text.

    Attributes:
        columns: Column names; the first column names the rows.
        rows: Cells.
        best: Row and column of the cells to highlight.
        published: Number of rows at the end that are published by others.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    published: int = 0


def lay_out(table: Table, *, intervals: bool | None = None) -> Layout:
    """Format a table as text; a table wider than a page, and wider than long, is transposed."""
    rows, best = format_rows(table, intervals=intervals), table.best()
    if not table.turnable or len(table.columns) <= max(WIDE, len(rows)):
        return Layout(table.columns, rows, best, table.published)
    corner, *names = table.columns
    turned = [list(line) for line in zip(names, *(row[1:] for row in rows), strict=True)]
    header = ("" if corner == "method" else corner, *(row[0] for row in rows))
    return Layout(header, turned, {(column - 1, row + 1) for row, column in best})


def format_rows(table: Table, *, intervals: bool | None = None) -> list[list[str]]:
    """Format the rows as text; wide tables omit intervals by default."""
    shown = len(table.columns) <= NARROW if intervals is None else intervals
    return [[format_value(value, intervals=shown) for value in row] for row in table.rows]


def to_csv(tables: Sequence[Table], *, guard: bool = False) -> str:
    """Format tables as CSV, one line per value: table, row, column, mean, deviation, interval, seeds, note.

    Args:
        tables: Tables in their order.
        guard: Whether to guard names against evaluation as formulas in spreadsheets.
    """
    header = ("table", "row", "column", "mean", "std", "low95", "high95", "seeds", "published", "note")
    values = (entry.values() for table in tables for entry in entries(table))
    return csv_text([header, *(["" if value is None else value for value in row] for row in values)], guard=guard)


def entries(table: Table) -> Iterator[dict[str, Any]]:
    """Yield the values of a table as JSON objects."""
    for number, row in enumerate(table.rows):
        for column, value in zip(table.columns[1:], row[1:], strict=True):
            if value is None:
                continue
            low, high = value.interval or (None, None) if isinstance(value, Spread | Estimate) else (None, None)
            yield {
                "table": table.title,
                "row": row[0],
                "column": column,
                "mean": _number(value),
                "std": value.deviation if isinstance(value, Spread) else None,
                "low95": low,
                "high95": high,
                "seeds": len(value.values) if isinstance(value, Spread) else None,
                "published": number >= len(table.rows) - table.published,
                "note": value.note if isinstance(value, Spread | Estimate) else "",
            }


def _number(value: Value) -> Any:
    if isinstance(value, Spread):
        return value.mean
    return value.value if isinstance(value, Gain | Estimate) else value


def to_markdown(tables: Sequence[Table]) -> str:
    """Format tables as Markdown; the best mean of a column is bold."""
    return "\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    layout = lay_out(table, intervals=False)
    lines = [tuple(map(escape_markdown, layout.columns)), ("---", *["---:"] * (len(layout.columns) - 1))]
    for number, row in enumerate(layout.rows):
        cells = list(map(escape_markdown, row))
        lines.append(tuple(f"**{cell}**" if (number, c) in layout.best else cell for c, cell in enumerate(cells)))
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    notes = (f"{escape_markdown(note)}\n" for note in table.notes)
    return "\n".join([f"**{escape_markdown(table.title)}**", "", *drawn, "", *notes])


MARKUP = re.compile(r"[\\`*~<>|$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")
"""Characters that Markdown may interpret; not a _ inside a word, nor a bracket without a link."""


def escape_markdown(text: str) -> str:
    """Escape Markdown in a text, and put it on one line."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def to_latex(tables: Sequence[Table]) -> str:
    """Format tables as LaTeX for the package booktabs; the best mean of a column is bold."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    best = table.best()
    lines = [
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape_latex(' '.join((table.title + '.', *table.notes)))}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        "\\toprule",
        " & ".join(map(escape_latex, table.columns)) + " \\\\",
        "\\midrule",
    ]
    for number, row in enumerate(table.rows):
        if table.published and number == len(table.rows) - table.published:
            lines.append("\\midrule")
        cells = [_latex_cell(value, bold=(number, column) in best) for column, value in enumerate(row)]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""])


def _latex_cell(value: Value, *, bold: bool) -> str:
    if value is None:
        return "--"
    if isinstance(value, Gain):
        return escape_latex(format_value(value)).replace("+", "$+$").replace("-", "$-$")
    if isinstance(value, Estimate):
        number = f"{value.value:+.2f}".replace("+", "$+$").replace("-", "$-$")
        limits = " to ".join(f"{limit:.2f}".replace("-", "$-$") for limit in value.interval)
        note = f" {escape_latex(f'[{value.note}]')}" if value.note else ""
        return f"{number}{value.mark} {{\\scriptsize ({limits})}}{note}"
    if not isinstance(value, Spread):
        return escape_latex(format_value(value))
    mean = f"\\textbf{{{value.mean:.2f}}}" if bold else f"{value.mean:.2f}"
    return mean if value.deviation is None else f"{mean} {{\\scriptsize $\\pm$ {value.deviation:.2f}}}"


def escape_latex(text: str) -> str:
    """Escape LaTeX in a text."""
    named = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$"}
    return "".join(named.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
