"""Normalizes how labels are written: labels that look the same become one, and numbers sort as numbers."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from selfprompt.data.dataset import Split
from selfprompt.data.readers.splits import LabelledSplit
from selfprompt.utils.spelling import normalize_text
from selfprompt.utils.wording import listing

NUMBER = re.compile(r"\d+(\.0*)?")
NO_WORDS = re.compile(r"(class )?[\d.,+-]+|n\d{8}")
NUMBER_PREFIX = re.compile(r"(n\d{8}|\d+)[-. ]+\D")
"""Numbers before a name: 001.Laysan Albatross, n02085620-Chihuahua."""


def normalize_labels(name: str, splits: Mapping[Split, LabelledSplit]) -> tuple[dict[Split, LabelledSplit], list[str]]:
    """Return the same images with normalized labels, and notes on what changed.

    If all labels are whole numbers with a decimal point ("1.0"), the point is removed.

    Args:
        name: The name of the data set, for messages.
        splits: Its splits.

    Raises:
        ValueError: If nothing is left of a label, or all labels are numbers and one is written in several ways.
    """
    labels = {label for split in splits.values() for label in (*split.labels, *(split.order or ()), *split.names)}
    normal = {label: normalize_text(label) for label in labels}
    empty = [ascii(label) for label, text in normal.items() if not text]
    if empty:
        raise ValueError(f"{name}: a label must have a visible letter or digit, got {listing(sorted(empty))}.")
    notes = []
    if labels and all(re.fullmatch(r"\d+\.0*", text) for text in normal.values()):
        normal = {label: text.partition(".")[0] for label, text in normal.items()}
        notes.append(f"Labels are whole numbers: {min(labels)} is read as {normal[min(labels)]}.")
    same_numbers = _group_spellings((text for text in normal.values() if NUMBER.fullmatch(text)), _number_key)
    if same_numbers:
        spellings = _format_groups(same_numbers)
        if all(NUMBER.fullmatch(text) for text in normal.values()):
            raise ValueError(f"{name}: labels that are numbers must be written in one way, got {spellings}.")
        notes.append(f"Labels that are the same number stay separate classes: {spellings}.")
    notes += _normalization_notes(normal)
    return {split: _replace_labels(images, normal) for split, images in splits.items()}, notes


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sort labels: as numbers if all are whole numbers, else as text, case-sensitively."""
    labels = set(labels)
    numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=lambda label: (_number_key(label) if numbers else (0, ""), label))


def describe_unclear_names(names: Sequence[str]) -> list[str]:
    """Return notes on class names that a model that reads them can hardly distinguish, or cannot know."""
    same_letters = _group_spellings(names, str.casefold)
    notes = []
    if same_letters:
        notes.append(
            f"Class names that differ only in case: {_format_groups(same_letters)}. They stay separate classes; "
            "merge those that are one class."
        )
    if names and all(NO_WORDS.fullmatch(name) for name in names):
        kind = "WordNet ids" if names[0].startswith("n") else "numbers"
        notes.append(
            f"The class names are {kind}, not words ({listing(names, 3)}): zero-shot and methods that read names "
            "cannot recognise such classes. Give names with --class-names or a classes.txt next to the images."
        )
    numbered = [match.group(1) for name in names if (match := NUMBER_PREFIX.match(name))]
    if len(set(numbered)) == len(names) > 1:
        notes.append(
            f"The class names begin with numbers ({listing(names, 3)}), which methods that read names read, too. "
            "Give names without numbers with --class-names or a classes.txt next to the images."
        )
    return notes


def _group_spellings(texts: Iterable[str], key: Callable[[str], object]) -> list[list[str]]:
    """Return the groups of different texts with the same key."""
    groups: dict[object, set[str]] = defaultdict(set)
    for text in texts:
        groups[key(text)].add(text)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _format_groups(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(" and ".join(map(repr, group)) for group in groups)


def _number_key(text: str) -> tuple[int, str]:
    """Return a key that sorts whole numbers of any length and is equal for "1", "01" and "1.0"."""
    digits = "".join(str(unicodedata.decimal(digit)) for digit in text.partition(".")[0]).lstrip("0")
    return len(digits), digits


def _normalization_notes(normal: Mapping[str, str]) -> list[str]:
    """Return notes on labels that became one, and on labels that lost characters."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(normal):
        spellings[normal[label]].append(label)
    merged = [f"{text} ({', '.join(map(ascii, labels))})" for text, labels in spellings.items() if len(labels) > 1]
    changed = [
        ascii(label)
        for text, (label, *others) in spellings.items()
        if not others and unicodedata.normalize("NFC", label) != text and NUMBER.fullmatch(text) is None
    ]
    notes = [f"Labels that look the same are one class: {listing(merged)}."] if merged else []
    if changed:
        notes.append(f"Invisible characters and surrounding white space were removed from labels: {listing(changed)}.")
    return notes


def _replace_labels(split: LabelledSplit, normal: Mapping[str, str]) -> LabelledSplit:
    order = split.order and tuple(dict.fromkeys(normal[label] for label in split.order))
    names = {normal[label]: name for label, name in split.names.items()}
    return replace(split, labels=[normal[label] for label in split.labels], order=order, names=names)
