"""``selfprompt report``: shows the tables and plots of a folder of runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table as RichTable
from rich.text import Text

from selfprompt.cli.console import CSV_GUARD, Console, make_console
from selfprompt.reports.tables import Table, lay_out
from selfprompt.utils.wording import printable

if TYPE_CHECKING:
    from selfprompt.benchmarks.results import GridResults


def add_arguments(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", type=str, help="output folder of selfprompt bench")
    parser.add_argument("--baseline", type=str, default="zero-shot", help="row that gains are measured against")
    parser.add_argument("--published", action="store_true", help="add averages published by others, marked as such")
    parser.add_argument("--html", type=str | None, help="write the tables and plots as one HTML page")
    parser.add_argument("--csv", type=str | None, help="write the tables as CSV, one line per value")
    parser.add_argument("--csv_guard", action="store_true", help=CSV_GUARD)
    parser.add_argument("--json", type=str | None, help="write the tables and every evaluation as JSON")
    parser.add_argument("--markdown", type=str | None, help="write the tables as Markdown")
    parser.add_argument("--latex", type=str | None, help="write the tables as LaTeX, for the package booktabs")


def report(options: Namespace) -> int:
    """Run the command."""
    from selfprompt.benchmarks.results import read_results
    from selfprompt.reports.bench_tables import all_tables

    grid = read_results(Path(options.runs))
    console = make_console()
    rows = sorted({result.label for result in grid.results})
    if options.baseline not in rows and options.baseline != "zero-shot":
        raise ValueError(f"There is no row {options.baseline!r} to measure gains against. Rows: {', '.join(rows)}.")
    tables = all_tables(grid.results, baseline=options.baseline, with_published=options.published)
    for table in tables:
        print_table(table, console)
    if options.published and not any(table.published for table in tables):
        console.print("There are no published averages for these suites and protocols.")
    for note in grid.notes:
        console.print_text(f"Note: {note}")
    for folder, reason in grid.failed.items():
        console.print_text(f"Failed: {folder}: {reason}")
    write_files(options, tables, grid, console)
    return 0


def write_files(options: Namespace, tables: Sequence[Table], grid: "GridResults", console: Console) -> None:
    """Write the tables in the formats of the options."""
    from selfprompt.reports.bench_tables import evaluation_records
    from selfprompt.reports.tables import entries, to_csv, to_latex, to_markdown
    from selfprompt.utils.files import to_json, write_atomically

    formats: dict[str | None, Callable[[], str]] = {
        options.csv: lambda: to_csv(tables, guard=options.csv_guard),
        options.markdown: lambda: to_markdown(tables),
        options.latex: lambda: to_latex(tables),
        options.json: lambda: to_json(
            {
                "tables": [list(entries(t)) for t in tables],
                "cells": evaluation_records(grid.results),
                "notes": grid.notes,
            },
            indent=1,
        ),
    }
    for path, make in formats.items():
        if path:
            write_atomically(Path(path), make().encode(errors="backslashreplace"))
            console.print_text(f"wrote {path}")
    if options.html:
        from selfprompt.reports.bench_page import write_bench_page

        write_bench_page(Path(options.html), grid, baseline=options.baseline, with_published=options.published)
        console.print_text(f"wrote {options.html}")


def print_table(table: Table, console: Console) -> None:
    """Print a table; the best of a column is bold, published rows are dim."""
    layout, printed = lay_out(table), RichTable()
    for number, column in enumerate(layout.columns):
        printed.add_column(Text(printable(column)), justify="right" if number else "left", overflow="fold")
    measured = len(layout.rows) - layout.published
    for number, row in enumerate(layout.rows):
        cells = [
            Text(printable(cell), style="bold" if (number, column) in layout.best else "")
            for column, cell in enumerate(row)
        ]
        printed.add_row(*cells, style="" if number < measured else "dim", end_section=number == measured - 1)
    console.print(Text(printable(table.title), style="bold"))
    console.print(printed)
    for note in table.notes:
        console.print_text(note)
    console.print()
