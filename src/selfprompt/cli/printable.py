"""Text as it may be sent to a terminal: what would steer the terminal, or hide, is spelled out."""

import unicodedata

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what has no picture: controls, formats (bidirectional, zero-width), surrogates, line ends."""


def printable(text: str, *, keep: str = "") -> str:
    """The text with escapes, overrides of the direction, line breaks and the like as ``\\x1b``, ``\\u202e``, ``\\n``.

    Args:
        text: A name or a message from anywhere.
        keep: Such characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter in keep or unicodedata.category(letter) not in HIDDEN else ascii(letter)[1:-1]
        for letter in text
    )
