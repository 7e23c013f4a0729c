"""A self-contained HTML page of results: text, tables, figures and pictures."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from selfprompt.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

THUMBNAIL = 256
"""Longest side of a picture in pixels."""


NUMBER = re.compile(r"[-+±]?\d[-\d\s.,%±+]*( [a-zA-Z]{1,3})?(\(\S+ to \S+\))? ?(\[.*\])?")
"""Matches cells such as 82.41, 12 ms, 82.41 ± 0.30 (81.66 to 83.16), 79.00 [4 of 7 data sets]."""


@dataclass(frozen=True)
class Block:
    """A piece of a page, as HTML with all outside text escaped."""

    html: str


def text(paragraph: str) -> Block:
    """Return a paragraph; text between backticks is set as code."""
    return _block("text", parts=paragraph.split("`"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Block:
    """Return a table; columns of numbers are aligned right.

    Raises:
        ValueError: If a row does not have one cell for each column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"A row needs {len(columns)} cells, one for each column, got {list(row)}.")
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(columns))]
    return _block("table", columns=columns, rows=rows, numeric=numeric, caption=caption)


def figure(fig: "Figure", caption: str, alt: str) -> Block:
    """Return a matplotlib figure as SVG.

    Args:
        fig: Figure to draw.
        caption: Line below the figure.
        alt: Description for screen readers.
    """
    drawn = io.BytesIO()
    fig.savefig(drawn, format="svg", metadata={"Date": None})
    width = round(fig.get_figwidth() * 80)
    return _block("figure", source=_data("image/svg+xml", drawn.getvalue()), caption=caption, alt=alt, width=width)


def side_by_side(blocks: Sequence[Block]) -> Block:
    """Return figures in as many columns as fit the page."""
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


def write_page(path: Path, title: str, sections: Sequence[tuple[str, Sequence[Block]]], note: str = "") -> None:
    """Write a page that needs no other file and no network; it is replaced atomically.

    Args:
        path: Path of the file.
        title: Heading of the page.
        sections: Heading and blocks of each section.
        note: Warning at the top of the page, such as that the backbone is a toy.

    Raises:
        RuntimeError: If the file cannot be written.
    """
    page = _environment().get_template("page.html").render(title=title, sections=sections, note=note)
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


def _is_number(cell: str) -> bool:
    """Return whether a cell is empty ("" or "-") or a number, with optional unit, interval and note."""
    return cell in ("", "-") or NUMBER.fullmatch(cell) is not None


def _thumbnail(image: "Image.Image") -> str:
    """Return an image as a data URI, scaled down if large."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    small.save(written, format="PNG", optimize=True)
    return _data("image/png", written.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
