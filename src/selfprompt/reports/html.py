"""A page of results in one HTML file: text, tables, figures and pictures, with nothing loaded from elsewhere."""

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
"""Longest side of a picture on a page, in pixels."""


NUMBER = re.compile(r"[-+±]?\d[-\d\s.,%±+]*( [a-zA-Z]{1,3})?(\(\S+ to \S+\))? ?(\[.*\])?")
"""A cell such as 82.41, 12 ms, 82.41 ± 0.30 (81.66 to 83.16), 79.00 [4 of 7 data sets]."""


@dataclass(frozen=True)
class Block:
    """A piece of a page: HTML in which everything that came from outside is escaped."""

    html: str


def text(paragraph: str) -> Block:
    """A paragraph; what stands between backticks is set as code."""
    return _block("text", parts=paragraph.split("`"))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Block:
    """A table; a column whose cells are all numbers is set as numbers are.

    Raises:
        ValueError: If a row does not have one cell for each column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"A row needs {len(columns)} cells, one for each column, got {list(row)}.")
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    return _block("table", columns=columns, rows=rows, numeric=numeric, caption=caption)


def figure(fig: "Figure", caption: str, alt: str) -> Block:
    """A matplotlib figure, as SVG.

    Args:
        fig: The figure.
        caption: The line below it.
        alt: What it shows, in words, for those who do not see it.
    """
    drawn = io.BytesIO()
    fig.savefig(drawn, format="svg", metadata={"Date": None})
    width = round(fig.get_figwidth() * 80)
    return _block("figure", source=_data("image/svg+xml", drawn.getvalue()), caption=caption, alt=alt, width=width)


def side_by_side(blocks: Sequence[Block]) -> Block:
    """Figures in as many columns as the page is wide enough for."""
    return _block("side_by_side", blocks=blocks)


@dataclass(frozen=True)
class Picture:
    """One picture of a grid.

    Attributes:
        image: The picture.
        caption: What stands below it.
        note: More words in small letters, below the caption.
        wrong: Whether it is marked as an error.
    """

    image: "Image.Image"
    caption: str
    note: str = ""
    wrong: bool = False


def pictures(shown: Sequence[Picture]) -> Block:
    """A grid of pictures."""
    entries = [{"source": _thumbnail(p.image), "caption": p.caption, "note": p.note, "wrong": p.wrong} for p in shown]
    return _block("pictures", entries=entries)


def code(lines: str) -> Block:
    """Lines of code or commands, as they are."""
    return _block("code", lines=lines.strip("\n"))


def write_page(path: Path, title: str, sections: Sequence[tuple[str, Sequence[Block]]], note: str = "") -> None:
    """Write a page that needs no other file and no network; a reader meets the old page or the new one.

    Args:
        path: The file to write.
        title: The page's heading.
        sections: Heading and blocks of each section.
        note: What must be known before anything else, such as a backbone that is a toy.

    Raises:
        RuntimeError: If the file cannot be written.
    """
    page = _environment().get_template("page.html").render(title=title, sections=sections, note=note)
    write_atomically(path, page.encode(errors="backslashreplace"))


@cache
def _environment() -> Environment:
    """The templates of this folder; whatever is put into them is escaped."""
    return Environment(
        loader=PackageLoader("selfprompt.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _block(macro: str, **values: object) -> Block:
    """What one of the macros in blocks.html makes of some values."""
    return Block(str(getattr(_environment().get_template("blocks.html").module, macro)(**values)))


def _is_number(cell: str) -> bool:
    """Whether a cell holds numbers, perhaps with units, intervals and a note, or nothing ("" or "-")."""
    return cell in ("", "-") or NUMBER.fullmatch(cell) is not None


def _thumbnail(image: "Image.Image") -> str:
    """A picture as a data URI, made smaller where it is large."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    small.save(written, format="PNG", optimize=True)
    return _data("image/png", written.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
