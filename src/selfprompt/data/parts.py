"""What every reader returns: one split's images with their labels as found; and the words for splits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from selfprompt.data.items import IndexedSource, Split

WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass
class Part:
    """One split as it was found.

    Attributes:
        sources: The images, in a fixed order.
        labels: The label of each, as a word: a folder's name, a manifest's entry, a data set's class number.
        order: All labels, in the order that the source gives them; None: sorted order of those that occur.
        names: Names that the source gives its labels.
        notes: What was left out or decided, one sentence each.
    """

    sources: list[Path | IndexedSource]
    labels: list[str]
    order: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def split_word(word: str) -> Split | None:
    """Which split a word means, in any case; None if it is no such word."""
    return WORDS.get(word.strip().lower())


UNKNOWN_SPLIT = "Known: " + ", ".join(sorted(WORDS)) + "."
