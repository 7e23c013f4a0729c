"""Formats lists, plurals and names for messages."""

import unicodedata
from collections.abc import Sequence

LONGEST_SHOWN = 1000
"""Characters of a name that a message shows at most; a path may have hundreds."""

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories without a glyph: controls, formats (bidirectional, zero-width), surrogates, line separators."""


def listing(names: Sequence[str], limit: int = 20, separator: str = ", ") -> str:
    """Join up to ``limit`` names, and say how many more there are: ``a, b and 3 more``."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = (name if len(name) <= LONGEST_SHOWN else f"{name[: LONGEST_SHOWN - 3]}..." for name in names[:limit])
    return separator.join(shown) + more


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: ``1 image``, ``2 images``, ``3 classes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


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
