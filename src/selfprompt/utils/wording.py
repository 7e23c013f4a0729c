"""Lists and plurals in messages."""

LONGEST_SHOWN = 1000
"""Letters of a name in a message; a path may have hundreds."""


def listing(names: list[str], limit: int = 20, separator: str = ", ") -> str:
    """Up to ``limit`` names in one line, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    shown = (name if len(name) <= LONGEST_SHOWN else f"{name[: LONGEST_SHOWN - 3]}..." for name in names[:limit])
    return separator.join(shown) + more


def plural(count: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 classes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith('s') else 's'}"
