"""CSV text, optionally guarded against formulas in spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of cells that a spreadsheet may evaluate as a formula; the last four are full-width forms."""


def csv_text(rows: Iterable[Sequence[object]], *, guard: bool = False) -> str:
    """Return rows as CSV.

    Args:
        rows: Rows of texts and numbers.
        guard: Whether to guard texts against evaluation as formulas.
    """
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in rows:
        cells = [guarded(cell) if guard and isinstance(cell, str) else cell for cell in row]
        returns = any("\r" in cell for cell in cells if isinstance(cell, str))  # the writer would not quote them
        (quoted if returns else plain).writerow(cells)
    return text.getvalue()


def guarded(cell: str) -> str:
    """Return the text, with an apostrophe in front if a spreadsheet may evaluate it as a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
