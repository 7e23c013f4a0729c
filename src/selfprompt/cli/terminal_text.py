"""Text for a terminal: long lines are broken between words."""

import shutil
import textwrap
from typing import TextIO


def fill(line: str, width: int) -> str:
    """Break a line between words, never in one, so that it fits the width where its words do."""
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def wrapped(text: str, stream: TextIO) -> str:
    """Break each line of a text at the width of the terminal; leave it as it is for a file or a pipe."""
    if not stream.isatty():
        return text
    return "\n".join(fill(line, shutil.get_terminal_size().columns) for line in text.split("\n"))
