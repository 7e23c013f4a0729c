"""Parses text lists of images: lines ``<path> <label>``, as in VTAB's exports and SPT."""

from collections.abc import Sequence


def parse_list(lines: Sequence[str], where: str, remedy: str = "") -> tuple[tuple[str, int], ...]:
    """Return the paths and labels of a list; the label is the last word, so paths may contain spaces.

    Raises:
        ValueError: If the list is empty, a line is not a path and a number from 0, or a path is listed twice.
    """
    rows: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        path, _, label = line.replace("\t", " ").rpartition(" ")
        if not path.strip() or not label.isascii() or not label.isdecimal():
            raise ValueError(f"{where}, line {number} must be a path and a label from 0, got {line!r}. {remedy}")
        if path.strip() in rows:
            raise ValueError(f"{where}, line {number} lists {path.strip()!r} a second time. {remedy}")
        rows[path.strip()] = int(label)
    if not rows:
        raise ValueError(f"{where} must list at least one image, but it is empty. {remedy}")
    return tuple(rows.items())
