"""Strict reading of JSON files from untrusted sources."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

DEEPEST = 64
"""Levels of nested lists and objects; results have a few."""
LONGEST_KEY = 80
"""Characters of a key in a message."""
LONGEST_JSON = 1 << 28
"""Bytes; results of a thousand classes have a few million."""


def read_json(path: Path, *, advice: str) -> Any:
    """Read a JSON file from an untrusted source.

    Args:
        path: Path of the file.
        advice: Sentence for the error message that says what to do.

    Raises:
        ValueError: If it is not a regular file or not JSON in UTF-8, repeats a key, is too deep or large, or contains
            NaN, infinity or a number of more than 64 bits.
        OSError: If it cannot be opened.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file. {advice}")  # opening a pipe would wait for its writer
    with path.open("rb") as file:
        content = file.read(LONGEST_JSON + 1)
    try:
        return parse_json(content)
    except (ValueError, RecursionError) as error:
        reason = str(error).rstrip(".") if isinstance(error, ValueError) else "it is nested too deeply"
        raise ValueError(f"{path} is damaged: {reason}. {advice}") from error


def parse_json(content: bytes) -> Any:
    """Parse a JSON text; raises ValueError or RecursionError for what ``read_json`` refuses."""
    if len(content) > LONGEST_JSON:
        raise ValueError(f"it has more than {LONGEST_JSON:,} bytes")
    text = content.decode("utf-8")
    value = json.loads(
        text, parse_constant=_no_number, parse_float=_finite, parse_int=_small, object_pairs_hook=_distinct
    )
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError for a value so deep that recursive functions might fail on it."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for entry in level
            if isinstance(entry, (list, dict))
            for inner in (entry.values() if isinstance(entry, dict) else entry)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _small(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:20]}... has more than 64 bits")
    return int(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {name[:LONGEST_KEY]!r} twice")
    return result
