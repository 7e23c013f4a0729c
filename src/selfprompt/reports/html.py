"""A self-contained HTML page of results: text, tables, figures and pictures."""

import base64
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfprompt.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

THUMBNAIL = 256
"""Longest side of a picture in pixels."""
PIXELS_PER_INCH = 96
LEGIBLE = 0.72
"""A chart shrinks to this share of its size, and scrolls where there is less room."""
PHONE = 470
"""Width in pixels of the widest chart that fits a phone at that share."""

MANY_BARS = 8
"""More bars than these are set in two columns."""

NUMBER = re.compile(r"[-+±]?\d[-\d\s.,%±+]*( [a-zA-Z]{1,3})?(\(\S+ to \S+\))? ?(\[.*\])?")
"""Matches cells such as 82.41, 12 ms, 82.41 ± 0.30 (81.66 to 83.16), 79.00 [4 of 7 data sets]."""
DETAIL = re.compile(r" (?=[(\[])")
"""Where the interval or the note of a number begins."""


@dataclass(frozen=True)
class Block:
    """A piece of a page, as HTML with all outside text escaped."""

    html: str


def text(paragraph: str) -> Block:
    """Return a paragraph; text between backticks is set as code."""
    return _block("text", parts=paragraph.split("`"))


def link(target: str, label: str) -> Block:
    """Return a link to a file, relative to the page."""
    return _block("link", target=quote(target), label=label)


def note(sentences: Sequence[str]) -> Block:
    """Return sentences that a reader must not overlook, in a coloured box."""
    return _block("note", sentences=sentences)


def headline(value: str, detail: str, verdict: str, kind: Literal["good", "bad", "open"]) -> Block:
    """Return the main result of a page.

    Args:
        value: The number, in large letters.
        detail: What it is.
        verdict: One sentence that judges it.
        kind: Colour of the verdict.
    """
    return _block("headline", value=value, detail=detail, verdict=verdict, kind=kind)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = "",
    *,
    best: Collection[tuple[int, int]] = (),
    marked: Collection[int] = (),
) -> Block:
    """Return a table; columns of numbers are aligned right.

    On a narrow screen each row of a table with more than three columns becomes a card.

    Args:
        columns: Names of the columns.
        rows: One cell for each column.
        caption: Lines above the table.
        best: Row and column of the cells to set in bold.
        marked: Numbers of the rows to highlight.

    Raises:
        ValueError: If a row does not have one cell for each column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"A row needs {len(columns)} cells, one for each column, got {list(row)}.")
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(columns))]
    entries = []
    for number, row in enumerate(rows):
        cells = [_cell(cell, numeric[column], (number, column) in best) for column, cell in enumerate(row)]
        entries.append({"cells": cells, "marked": number in marked})
    return _block("table", columns=columns, rows=entries, numeric=numeric, caption=caption)


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]], caption: str) -> Block:
    """Return a square table of counts, coloured by their share of the row.

    Args:
        names: Names of the rows, and of the columns.
        counts: Numbers, (rows, columns).
        caption: Line below the table.
    """
    rows = [[(count, count / max(1, sum(row))) for count in row] for row in counts]
    return _block("matrix", names=names, rows=rows, caption=caption)


@dataclass(frozen=True)
class Bar:
    """One horizontal bar, in percent.

    Attributes:
        name: Name to the left.
        value: Length in [0, 100].
        low, high: Interval; None if unknown.
        note: Small text after the name.
        strong: Whether to emphasise it.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    strong: bool = False


def bars(shown: Sequence[Bar], caption: str = "", *, chance: float | None = None) -> Block:
    """Return horizontal bars with intervals; many of them are set in two columns where there is room.

    Args:
        shown: Bars from top to bottom.
        caption: Line below them.
        chance: Chance level in percent, drawn as a dashed line.
    """
    return _block("bars", rows=shown, caption=caption, chance=chance, many=len(shown) > MANY_BARS)


def figure(fig: "Figure", caption: str, alt: str) -> Block:
    """Return a matplotlib figure as SVG; it shrinks as far as it stays legible, and else scrolls sideways.

    Args:
        fig: Figure to draw.
        caption: Line below the figure.
        alt: Description for screen readers.
    """
    from selfprompt.reports.plot_style import draw

    width = round(fig.get_figwidth() * PIXELS_PER_INCH)
    least = round(LEGIBLE * width) if width > PHONE else 0
    source = _data("image/svg+xml", draw(fig, "svg", metadata={"Date": None}))
    return _block("figure", source=source, caption=caption, alt=alt, width=width, least=least)


def side_by_side(blocks: Sequence[Block]) -> Block:
    """Return figures in as many columns as fit the page; large ones take a row each."""
    return _block("side_by_side", blocks=blocks)


@dataclass(frozen=True)
class Picture:
    """One picture of a grid.

    Attributes:
        image: Image to show.
        caption: Line below the image.
        note: Second line in small letters.
        wrong: Whether to mark it as an error.
    """

    image: "Image.Image"
    caption: str
    note: str = ""
    wrong: bool = False


def pictures(shown: Sequence[Picture]) -> Block:
    """Return a grid of pictures."""
    entries = [{"source": _thumbnail(p.image), "caption": p.caption, "note": p.note, "wrong": p.wrong} for p in shown]
    return _block("pictures", entries=entries)


def code(lines: str) -> Block:
    """Return a block of code or commands."""
    return _block("code", lines=lines.strip("\n"))


def write_page(
    path: Path,
    title: str,
    sections: Sequence[tuple[str, Sequence[Block]]],
    note: str = "",
    *,
    lead: Sequence[Block] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a page that needs no other file and no network; it is replaced atomically.

    Args:
        path: Path of the file.
        title: Heading of the page.
        sections: Heading and blocks of each section.
        note: Warning at the top of the page, such as that the backbone is a toy.
        lead: Blocks right below the title, for the first screen.
        facts: Names and values in the head of the page: date, command, seeds.

    Raises:
        RuntimeError: If the file cannot be written.
    """
    template = _environment().get_template("page.html")
    page = template.render(title=title, sections=sections, note=note, lead=lead, facts=facts)
    write_atomically(path, page.encode(errors="backslashreplace"))


@cache
def _environment() -> Environment:
    """Return the templates of this folder, with autoescaping."""
    return Environment(
        loader=PackageLoader("selfprompt.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _block(macro: str, **values: object) -> Block:
    """Render a macro of blocks.html."""
    return Block(str(getattr(_environment().get_template("blocks.html").module, macro)(**values)))


def _cell(cell: str, number: bool, best: bool) -> dict[str, str]:
    """Return the parts of a cell; the interval and the note of a number go on a second line."""
    value, *detail = DETAIL.split(cell, maxsplit=1) if number else [cell]
    kinds = [kind for kind, holds in (("number", number), ("best", best), ("empty", not cell)) if holds]
    return {"value": value, "detail": "".join(detail), "kind": " ".join(kinds)}


def _is_number(cell: str) -> bool:
    """Return whether a cell is empty ("" or "-") or a number, with optional unit, interval and note."""
    return cell in ("", "-") or NUMBER.fullmatch(cell) is not None


def _thumbnail(image: "Image.Image") -> str:
    """Return an image as a data URI, scaled down if large; a drawing is smaller as PNG, a photograph as JPEG."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return min((_encoded(small, "png", optimize=True), _encoded(small, "jpeg", quality=88)), key=len)


def _encoded(image: "Image.Image", kind: str, **options: object) -> str:
    """Return an image as a data URI."""
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    return _data(f"image/{kind}", written.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
