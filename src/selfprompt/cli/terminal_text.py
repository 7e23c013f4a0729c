"""Text for a terminal: control characters are escaped, and long lines are broken between words."""

import shutil
import textwrap
import unicodedata
from typing import TextIO

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories without a glyph: controls, formats (bidirectional, zero-width), surrogates, line separators."""


def printable(text: str, *, keep: str = "") -> str:
    """Escape control characters, direction overrides, line breaks and the like as ``\\x1b``, ``\\u202e``, ``\\n``.

    Args:
        text: A name or a message, which may contain anything.
        keep: Such characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter in keep or unicodedata.category(letter) not in HIDDEN else ascii(letter)[1:-1]
        for letter in text
    )


def fill(line: str, width: int) -> str:
    """Break a line between words, never in one, so that it fits the width where its words do."""
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def wrapped(text: str, stream: TextIO) -> str:
    """Break each line of a text at the width of the terminal; leave it as it is for a file or a pipe."""
    if not stream.isatty():
        return text
    return "\n".join(fill(line, shutil.get_terminal_size().columns) for line in text.split("\n"))
