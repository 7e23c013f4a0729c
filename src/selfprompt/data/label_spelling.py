"""How labels are written: spellings that look the same are one label, and numbers sort as numbers."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from selfprompt.data.dataset import Split
from selfprompt.data.readers.splits import Part
from selfprompt.utils.wording import listing

NEVER_SEEN = dict.fromkeys(map(ord, "\u00ad\u180e\u200b\u2060\ufeff"))  # soft hyphen, spaces and joins of no width
MARKS = "\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # mean nothing at an end
NUMBER = re.compile(r"\d+(\.0*)?")
NO_WORDS = re.compile(r"(class )?[\d.,+-]+|n\d{8}")
AFTER_A_NUMBER = re.compile(r"(n\d{8}|\d+)[-. ]+\D")
"""Names behind what is no part of them: 001.Laysan Albatross, n02085620-Chihuahua."""


def tidy(text: str) -> str:
    """A text without invisible characters, without white space at its ends, and with accents composed (NFC)."""
    text, before = unicodedata.normalize("NFC", text).translate(NEVER_SEEN), ""
    while text != before:
        before, text = text, text.strip().strip(MARKS)
    return text


def tidy_labels(name: str, parts: Mapping[Split, Part]) -> tuple[dict[Split, Part], list[str]]:
    """The same images with tidied labels, and sentences on what that changed.

    Whole numbers written with a point ("1.0") become what they are where all labels are so.

    Args:
        name: The data set's, for messages.
        parts: Its splits.

    Raises:
        ValueError: If nothing is left of a label, or all labels are numbers and one is written in several ways.
    """
    found = {label for part in parts.values() for label in (*part.labels, *(part.order or ()), *part.names)}
    plain = {label: tidy(label) for label in found}
    empty = [ascii(label) for label, text in plain.items() if not text]
    if empty:
        raise ValueError(f"{name}: a label must have a letter or digit that can be seen, got {listing(sorted(empty))}.")
    notes = []
    if found and all(re.fullmatch(r"\d+\.0*", text) for text in plain.values()):
        plain = {label: text.partition(".")[0] for label, text in plain.items()}
        notes.append(f"Labels are whole numbers: {min(found)} is taken as {plain[min(found)]}.")
    numbers = _written_in_several_ways((text for text in plain.values() if NUMBER.fullmatch(text)), _number)
    if numbers:
        told = "; ".join(" and ".join(map(repr, ways)) for ways in numbers)
        if all(NUMBER.fullmatch(text) for text in plain.values()):
            raise ValueError(f"{name}: labels that are numbers must be written in one way, got {told}: choose one.")
        notes.append(f"Labels that are one number are classes of their own: {told}.")
    notes += _notes_on_tidying(plain)
    return {split: _relabelled(part, plain) for split, part in parts.items()}, notes


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Labels in their order: as numbers where all are whole numbers, else as text, case-sensitively."""
    labels = set(labels)
    numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (_number(label) if numbers else (0, ""), label))


def notes_on_names(names: Sequence[str]) -> list[str]:
    """Sentences on class names that a model that reads them will hardly tell apart, or cannot know."""
    alike = _written_in_several_ways(names, str.casefold)
    notes = []
    if alike:
        told = "; ".join(" and ".join(map(repr, ways)) for ways in alike)
        notes.append(f"Class names that differ in case only: {told}. They are classes of their own; merge what is one.")
    if names and all(NO_WORDS.fullmatch(name) for name in names):
        kind = "WordNet ids" if names[0].startswith("n") else "numbers"
        notes.append(
            f"The class names are {kind}, no words ({listing(list(names), 3)}): zero-shot and methods that read names "
            "know nothing of such classes. Name them: --class-names, or a classes.txt beside the images."
        )
    numbered = [match.group(1) for name in names if (match := AFTER_A_NUMBER.match(name))]
    if len(set(numbered)) == len(names) > 1:
        notes.append(
            f"The class names begin with numbers ({listing(list(names), 3)}), which methods that read names read, too. "
            "Name them without: --class-names, or a classes.txt beside the images."
        )
    return notes


def _written_in_several_ways(texts: Iterable[str], meaning: Callable[[str], object]) -> list[list[str]]:
    """Groups of different texts that mean the same."""
    ways: dict[object, set[str]] = defaultdict(set)
    for text in texts:
        ways[meaning(text)].add(text)
    return sorted(sorted(group) for group in ways.values() if len(group) > 1)


def _number(text: str) -> tuple[int, str]:
    """Orders whole numbers of any length, and is the same for "1", "01" and "1.0"."""
    digits = "".join(str(unicodedata.decimal(digit)) for digit in text.partition(".")[0]).lstrip("0")
    return len(digits), digits


def _notes_on_tidying(plain: Mapping[str, str]) -> list[str]:
    ways: dict[str, list[str]] = defaultdict(list)
    for label in sorted(plain):
        ways[plain[label]].append(label)
    merged = [f"{text} ({', '.join(map(ascii, labels))})" for text, labels in ways.items() if len(labels) > 1]
    changed = [
        ascii(label)
        for text, (label, *others) in ways.items()
        if not others and unicodedata.normalize("NFC", label) != text and NUMBER.fullmatch(text) is None
    ]
    notes = [f"Labels that look the same are one class: {listing(merged)}."] if merged else []
    if changed:
        notes.append(f"Invisible characters and white space around labels were left out: {listing(changed)}.")
    return notes


def _relabelled(part: Part, plain: Mapping[str, str]) -> Part:
    order = part.order and tuple(dict.fromkeys(plain[label] for label in part.order))
    names = {plain[label]: name for label, name in part.names.items()}
    return replace(part, labels=[plain[label] for label in part.labels], order=order, names=names)
