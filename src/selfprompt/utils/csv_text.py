"""Rows as CSV text, for programs and, guarded, for spreadsheets; knows nothing else."""

import csv
import io
from collections.abc import Iterable, Sequence

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that a spreadsheet may run as a formula; the last four are the wide forms of the first."""


def csv_text(rows: Iterable[Sequence[object]], *, guard: bool = False) -> str:
    """Rows as CSV.

    Args:
        rows: Text and numbers.
        guard: Whether to guard the texts, for spreadsheets.
    """
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        cells = [guarded(cell) if guard and isinstance(cell, str) else cell for cell in row]
        returns = any("\r" in cell for cell in cells if isinstance(cell, str))  # which the writer leaves unquoted
        (quoted if returns else plain).writerow(cells)
    return text.getvalue()


def guarded(cell: str) -> str:
    """The text, behind an apostrophe where a spreadsheet might run it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
