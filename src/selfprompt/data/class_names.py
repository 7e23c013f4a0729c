"""Class names: their order, their cleaning, and those a user gives by a list, a mapping or a classes.txt."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfprompt.data.label_spelling import notes_on_names, tidy
from selfprompt.utils.files import read_text
from selfprompt.utils.wording import listing, plural

ClassNames = str | Path | Mapping[str, str] | Sequence[str]
SEPARATORS = ("\t", "=>", "=", ",")  # between folder and name in a line of classes.txt; white space is tried last


@dataclass(frozen=True)
class Naming:
    """Which label means which class.

    Attributes:
        index: The labels as found in the data (folder names, words of a manifest) -> class index.
        names: The class names, by class index; there may be classes without a label.
        notes: What was decided, one sentence each.
    """

    index: dict[str, int]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def clean_name(text: str) -> str:
    """Underscores to spaces, white space collapsed, accents composed, invisible characters left out."""
    return " ".join(tidy(text).replace("_", " ").split())


def name_classes(found: Sequence[str], given: Mapping[str, str], classes: ClassNames | None) -> Naming:
    """Decide order and names of the classes.

    Args:
        found: The labels of the data, in their own order.
        given: Names that the data itself gives some labels.
        classes: What the user gave: a file, a mapping label -> name, or a list of names. A list that holds
            the labels (or their names) fixes the order; any other list names the labels in their order.

    Raises:
        ValueError: If a name is empty, or the names do not fit the labels.
    """
    if isinstance(classes, (str, Path)):
        try:
            return name_classes(found, given, read_class_file(Path(classes), found))
        except ValueError as error:
            raise ValueError(str(error) if str(classes) in str(error) else f"{classes}: {error}") from None
    if classes is None:
        naming = _in_order(found, [given.get(label, label) for label in found])
    elif isinstance(classes, Mapping):
        naming = _by_mapping(found, given, {tidy(str(label)): str(name) for label, name in classes.items()})
    else:
        naming = _by_list(found, given, [clean_name(str(name)) for name in classes])
    unnamed = [label for label, index in naming.index.items() if not naming.names[index]]
    if unnamed:
        raise ValueError(f"Every class needs a name; nothing is left of {listing([repr(n) for n in unnamed])}.")
    notes = [*naming.notes, *_notes_on_repeats(naming), *notes_on_names(naming.names)]
    return Naming(naming.index, naming.names, tuple(notes))


def read_class_file(path: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    """Read a classes.txt.

    Args:
        path: Lines ``folder<TAB or => or = or comma>name``, or just names in the order of the sorted folders; names
            may be numbered, from 0 or 1.
        labels: The labels of the data: they tell a mapping from names that hold a comma.

    Raises:
        ValueError: If the file is missing, empty, no text, holds lines of two kinds, or says something twice.
    """
    text = read_text(path)
    lines = {number: tidy(line) for number, line in enumerate(text.splitlines(), start=1) if tidy(line)}
    if not lines:
        raise ValueError(f"{path} must name at least one class, but it is empty.")
    if text.lstrip().startswith(("{", "[")):
        raise ValueError(f"{path} must be plain text, but it looks like JSON: write folder,name on each line.")
    if path.suffix.lower() in (".yaml", ".yml") or next(iter(lines.values())).startswith(("names:", "- ", "---")):
        raise ValueError(f"{path} must be plain text, but it looks like YAML: write folder,name on each line.")
    numbered = _numbered(lines)
    if numbered and all(map(str.isdecimal, labels)) and not set(map(int, labels)) <= {n for n, _ in numbered.values()}:
        lacking = listing(sorted(set(labels) - {str(n) for n, _ in numbered.values()}, key=int), 5)
        raise ValueError(f"{path} must name the labels of the data, but none of its numbered lines is for {lacking}.")
    for separator in (*SEPARATORS, None):
        pairs = {number: [tidy(part) for part in line.split(separator, 1)] for number, line in lines.items()}
        keys = {number: pair[0] for number, pair in pairs.items() if len(pair) == 2}
        whole, known = len(keys) == len(lines), set(keys.values()) & set(labels)
        if whole and (known if separator else set(labels) <= known):
            _check_repeats(path, keys, "folder")
            return dict(pairs.values())
        clear = separator in ("\t", "=>")  # no name holds these
        odd = [number for number, line in lines.items() if number not in keys and (clear or line not in labels)]
        if separator and known and odd:
            example = next(lines[number] for number, key in keys.items() if key in known)
            raise ValueError(f"{path}, line {odd[0]}: must be like {example!r}, got {lines[odd[0]]!r}.")
        turned = whole and not (known or numbered) and set(labels) <= {pair[1] for pair in pairs.values()}
        if turned and (separator or all(map(str.isdecimal, labels))):
            example = next(iter(lines.values()))
            raise ValueError(
                f"{path} must hold folder,name, but its lines end with the folders ({example}): swap the two columns."
            )
        if whole and clear:
            raise ValueError(
                f"{path} must name the labels of the data ({listing(list(labels), 5)}), "
                f"but its lines are for {listing(list(keys.values()), 5)}."
            )
    lines = {at: name for at, (_, name) in numbered.items()} or lines
    _check_repeats(path, {number: clean_name(line) for number, line in lines.items()}, "class")
    return list(lines.values())


def _numbered(lines: Mapping[int, str]) -> dict[int, tuple[int, str]]:
    """Numbers and names in lines that are numbered through from 0 or 1, "0 cat", "1: dog"; nothing in others."""
    matches = {at: re.fullmatch(r"(\d{1,9})[\s.:,=>)]+(\S.*)", line) for at, line in lines.items()}
    found = {at: (int(match[1]), match[2]) for at, match in matches.items() if match}
    numbers = [number for number, _ in found.values()]
    through = numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    return found if through and len(lines) > 1 else {}


def _check_repeats(path: Path, words: Mapping[int, str], kind: str) -> None:
    """Raise ValueError where two lines say the same."""
    first: dict[str, int] = {}
    twice = [f"{word!r} in lines {at} and {n}" for n, word in words.items() if (at := first.setdefault(word, n)) != n]
    if twice:
        raise ValueError(f"{path} must name each {kind} once, got {listing(twice)}.")


def _notes_on_repeats(naming: Naming) -> list[str]:
    """A note on classes of one name, with the labels that have it."""
    twice = [name for name, count in Counter(naming.names).items() if count > 1]
    labels = {name: [label for label, index in naming.index.items() if naming.names[index] == name] for name in twice}
    told = [f"{name} ({', '.join(labels[name])})" for name in twice]
    return [f"Several classes share a name and cannot be told apart by text: {listing(told)}."] if twice else []


def _by_mapping(found: Sequence[str], given: Mapping[str, str], names: Mapping[str, str]) -> Naming:
    """Rename some or all labels; their order stays."""
    missing = [label for label in found if label not in names]
    if len(missing) == len(found):
        raise ValueError(
            f"Class names must be for the labels of the data ({listing(list(found), 5)}), "
            f"got names for {listing(list(names), 5)}."
        )
    notes = []
    if missing:
        notes.append(f"No name was given for {listing(missing)}: the label itself is the name.")
    unused = [label for label in names if label not in set(found)]
    if unused:
        notes.append(f"Ignored {plural(len(unused), 'class name')} without images here: {listing(unused, 5)}.")
    return _in_order(found, [names.get(label, given.get(label, label)) for label in found], *notes)


def _by_list(found: Sequence[str], given: Mapping[str, str], names: Sequence[str]) -> Naming:
    """A list that holds the labels gives the order; another names them in theirs, if none contradicts it."""
    listed = set(names)
    spellings = {label: (clean_name(label), clean_name(given.get(label, label))) for label in found}
    known = {label: name for label, words in spellings.items() for name in words if name in listed}
    distinct = len(listed) == len(names)
    if distinct and len(set(known.values())) == len(found):
        return _by_name(names, known)
    start = _counted_from(found, len(names)) if distinct and not known else None
    if start is not None:
        counted = {label: names[int(label) - start] for label in found}
        note = f"Labels are numbers: they count the names, from {start}; {found[-1]} is {counted[found[-1]]!r}."
        return _by_name(names, counted, note)
    if len(names) == len(found) and all(
        known.get(label, name) == name for label, name in zip(found, names, strict=True)
    ):
        renamed = [f"{label} is {name!r}" for label, name in zip(found, names, strict=True) if label not in known]
        return _in_order(found, names, f"Classes were named in the order of their labels: {listing(renamed)}.")
    unknown = [label for label in found if label not in known]
    if known and unknown:
        raise ValueError(f"Every label must be among the classes; not among them: {listing(unknown)}.")
    raise ValueError(
        f"{plural(len(names), 'class name')} cannot name {plural(len(found), 'label')} "
        f"({listing(list(found), 5)}): give each label one name, or a mapping label -> name."
    )


def _counted_from(found: Sequence[str], count: int) -> int | None:
    """From where numbers count that many names: 0 or 1; None where they do not, or name each one in order.

    Raises:
        ValueError: If they may be meant either way.
    """
    if not all(label.isdecimal() and len(label) < 10 for label in found):
        return None
    numbers = {int(label) for label in found}
    if not numbers or max(numbers) > count or (0 in numbers and count in numbers):
        return None
    if 0 in numbers or count in numbers:
        return 0 if 0 in numbers else 1
    if len(found) == count:
        return None
    raise ValueError(
        f"Labels are numbers ({listing(list(found), 5)}) without 0 and without {count}: do they count the "
        f"{count} names from 0 or from 1? Give a mapping label -> name."
    )


def _in_order(found: Sequence[str], names: Sequence[str], *notes: str) -> Naming:
    """Class i is the i-th label."""
    return Naming({label: i for i, label in enumerate(found)}, tuple(map(clean_name, names)), notes)


def _by_name(names: Sequence[str], name_of: Mapping[str, str], *notes: str) -> Naming:
    """Class i is the i-th name; names that no label has are classes without images."""
    position = {name: i for i, name in enumerate(names)}
    empty = sorted(set(names) - set(name_of.values()), key=position.__getitem__)
    if empty:
        notes = (*notes, f"Classes without an image: {listing(empty)}.")
    return Naming({label: position[name] for label, name in name_of.items()}, tuple(names), notes)
