"""Class names: their order, their spelling, and names that the user gives as a list, a mapping or a file."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfprompt.data.class_description import (
    YAML_SUFFIXES,
    ClassDescription,
    Described,
    check_total,
    describe_all,
    describe_named,
    read_class_yaml,
)
from selfprompt.data.label_spelling import describe_unclear_names
from selfprompt.utils.files import read_text
from selfprompt.utils.spelling import clean_name as clean_name
from selfprompt.utils.spelling import normalize_text
from selfprompt.utils.wording import listing, plural

ClassNames = str | Path | Mapping[str, Described] | Sequence[Described]
SEPARATORS = ("\t", "=>", "=", ",")  # between folder and name in a line of classes.txt; white space is tried last
CLEAR_SEPARATORS = ("\t", "=>")  # those that occur in no name


@dataclass(frozen=True)
class ClassMapping:
    """The classes of a data set and the label of each.

    Attributes:
        index: Label in the data (a folder name, a manifest cell) -> class index.
        names: The class names by class index; a class may be without a label.
        notes: What was decided, one sentence each.
        descriptions: What the user says about each class, by class index; empty if it is only a name.
    """

    index: dict[str, int]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    descriptions: tuple[ClassDescription, ...] = ()


def name_classes(labels: Sequence[str], label_names: Mapping[str, str], classes: ClassNames | None) -> ClassMapping:
    """Decide the order and the names of the classes.

    Args:
        labels: The labels of the data, in their order.
        label_names: Names that the data gives for some labels.
        classes: What the user says about the classes: a file, a mapping from labels, or a list; each class is a name,
            or a description (see ``class_description.describe``). A list whose names contain the labels (or their
            names) defines the order; any other list names the labels in their order.

    Raises:
        ValueError: If a name is empty, a description is wrong, or the names do not fit the labels.
        TypeError: If a description has another type.
    """
    if isinstance(classes, (str, Path)):
        try:
            return name_classes(labels, label_names, read_class_descriptions(Path(classes), labels))
        except (ValueError, TypeError) as error:
            raise ValueError(str(error) if str(classes) in str(error) else f"{classes}: {error}") from None
    if classes is None:
        mapping = _number_in_order(labels, [label_names.get(label, label) for label in labels])
    elif isinstance(classes, Mapping):
        mapping = _describe_by_mapping(labels, label_names, classes)
    else:
        mapping = _describe_by_list(labels, label_names, classes)
    unnamed = [label for label, index in mapping.index.items() if not mapping.names[index]]
    if unnamed:
        raise ValueError(f"Every class needs a name; nothing is left of {listing([repr(n) for n in unnamed])}.")
    notes = (*mapping.notes, *_repeated_name_notes(mapping), *describe_unclear_names(mapping.names))
    return replace(mapping, notes=notes)


def read_class_descriptions(path: Path, labels: Sequence[str]) -> dict[str, Any] | list[Any]:
    """Read a classes.yaml (``read_class_yaml``) or, with any other suffix, a classes.txt (``read_class_file``)."""
    return read_class_yaml(path) if path.suffix.lower() in YAML_SUFFIXES else read_class_file(path, labels)


def _describe_by_mapping(
    labels: Sequence[str], label_names: Mapping[str, str], classes: Mapping[str, Described]
) -> ClassMapping:
    """Name and describe some or all labels."""
    given = {normalize_text(str(label)): value for label, value in classes.items()}
    described = {
        label: describe_named(f"class {label!r}", value, label_names.get(label, label))
        for label, value in given.items()
        if not _is_name(value)
    }
    names = {label: described[label].name if label in described else str(value) for label, value in given.items()}
    mapping = _name_by_mapping(labels, label_names, names)
    rows = [described.get(label) for label in labels]
    return _with_descriptions(mapping, rows)


def _describe_by_list(
    labels: Sequence[str], label_names: Mapping[str, str], classes: Sequence[Described]
) -> ClassMapping:
    """Name and describe the labels by a list; the classes of the result are those of the list, in its order."""
    described = [
        None if _is_name(value) else describe_named(f"class {number}", value)
        for number, value in enumerate(classes, start=1)
    ]
    names = [one.name if one else clean_name(str(value)) for one, value in zip(described, classes, strict=True)]
    return _with_descriptions(_name_by_list(labels, label_names, names), described)


def other_classes(given: ClassNames, present: Sequence[ClassDescription]) -> list[Described]:
    """Return the classes that a user gives in place of those of a classifier.

    A mapping that has all present classes, or no others, changes what is said about these; any other mapping is a new
    list of classes, in its order. A class is found by its key, or by the first name that is given for it.

    Args:
        given: A list of classes, a mapping from names, or a file with either.
        present: The classes of the classifier.

    Raises:
        ValueError: If the file cannot be read, or a description is wrong.
        TypeError: If a description has another type.
    """
    if isinstance(given, (str, Path)):
        path, names = Path(given), [one.name for one in present]
        classes = read_class_descriptions(path, names)
        if path.suffix.lower() not in YAML_SUFFIXES:
            return [classes.get(name, name) for name in names] if isinstance(classes, dict) else classes
        try:
            return list(describe_all(other_classes(classes, present)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, {error}") from None
    if not isinstance(given, Mapping):
        return list(given)
    described = {key: describe_named(f"class {key!r}", value, str(key)) for key, value in given.items()}
    known = {one.name for one in present}
    found: dict[str, ClassDescription] = {}
    for key, one in described.items():
        name = next((name for name in (clean_name(str(key)), one.name) if name in known), None)
        if name is not None:
            found.setdefault(name, one)
    if found and len(found) in (len(described), len(known)):
        return [found.get(one.name, one) for one in present]
    return list(described.values())


def _is_name(value: Any) -> bool:
    """Return whether a value is a name, which may be a number, rather than a description."""
    return isinstance(value, str) or not isinstance(value, (Mapping, Sequence, ClassDescription))


def _with_descriptions(mapping: ClassMapping, described: Sequence[ClassDescription | None]) -> ClassMapping:
    """Add the descriptions by class index, unless no class has more than a name."""
    if not any(one and not one.is_plain for one in described):
        return mapping
    rows = tuple(one or ClassDescription((name,)) for one, name in zip(described, mapping.names, strict=True))
    check_total(rows)
    note = f"More than one name is given for {listing([one.name for one in rows if not one.is_plain], 5)}."
    return replace(mapping, descriptions=rows, notes=(*mapping.notes, note))


def read_class_file(path: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    """Read a classes.txt.

    Args:
        path: Lines ``folder<TAB or => or = or comma>name``, or only names in the order of the sorted folders; names
            may be numbered, from 0 or 1.
        labels: The labels of the data; they distinguish a mapping from names that contain a comma.

    Returns:
        A mapping label -> name, or a list of names.

    Raises:
        ValueError: If the file is missing, empty, not text, mixes two kinds of lines, or repeats a folder or name.
    """
    lines = _read_lines(path)
    numbered = _parse_numbered(lines)
    if numbered and all(map(str.isdecimal, labels)):
        numbers = {number for number, _ in numbered.values()}
        missing = [label for label in labels if int(label) not in numbers]
        if missing:
            example = listing(sorted(set(labels) - set(map(str, numbers)), key=int), 5)
            raise ValueError(
                f"{path} must name the labels of the data, but none of its numbered lines is for {example}."
            )
    for separator in (*SEPARATORS, None):
        names = _parse_mapping(path, lines, separator, labels, bool(numbered))
        if names is not None:
            return names
    listed = {line: name for line, (_, name) in numbered.items()} or lines
    _check_repeats(path, {line: clean_name(name) for line, name in listed.items()}, "class")
    return list(listed.values())


def _read_lines(path: Path) -> dict[int, str]:
    """Return the lines of a file by line number, without empty ones."""
    text = read_text(path)
    lines = {number: normalize_text(line) for number, line in enumerate(text.splitlines(), start=1)}
    lines = {number: line for number, line in lines.items() if line}
    if not lines:
        raise ValueError(f"{path} must name at least one class, but it is empty.")
    if text.lstrip().startswith(("{", "[")):
        raise ValueError(f"{path} must be plain text, but it looks like JSON: write folder,name on each line.")
    if next(iter(lines.values())).startswith(("names:", "- ", "---")):
        raise ValueError(
            f"{path} must be plain text, but it looks like YAML: write folder,name on each line, or call it .yaml."
        )
    return lines


def _parse_numbered(lines: Mapping[int, str]) -> dict[int, tuple[int, str]]:
    """Return the number and name in each line if they are numbered from 0 or 1, "0 cat" or "1: dog"; else nothing."""
    matches = {at: re.fullmatch(r"(\d{1,9})[\s.:,=>)]+(\S.*)", line) for at, line in lines.items()}
    numbered = {at: (int(match[1]), match[2]) for at, match in matches.items() if match}
    numbers = [number for number, _ in numbered.values()]
    consecutive = numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
    return numbered if consecutive and len(lines) > 1 else {}


def _parse_mapping(
    path: Path, lines: Mapping[int, str], separator: str | None, labels: Sequence[str], numbered: bool
) -> dict[str, str] | None:
    """Return the mapping label -> name in lines with a separator; None if they hold no such mapping.

    Raises:
        ValueError: If they look like a mapping with a mistake.
    """
    pairs = {number: [normalize_text(part) for part in line.split(separator, 1)] for number, line in lines.items()}
    keys = {number: pair[0] for number, pair in pairs.items() if len(pair) == 2}
    complete, known = len(keys) == len(lines), set(keys.values()) & set(labels)
    if complete and (known if separator else set(labels) <= known):
        _check_repeats(path, keys, "folder")
        return dict(pairs.values())
    clear = separator in CLEAR_SEPARATORS
    odd = [number for number, line in lines.items() if number not in keys and (clear or line not in labels)]
    if separator and known and odd:
        example = next(lines[number] for number, key in keys.items() if key in known)
        raise ValueError(f"{path}, line {odd[0]}: must be like {example!r}, got {lines[odd[0]]!r}.")
    swapped = complete and not (known or numbered) and set(labels) <= {pair[1] for pair in pairs.values()}
    if swapped and (separator or all(map(str.isdecimal, labels))):
        example = next(iter(lines.values()))
        raise ValueError(
            f"{path} must contain folder,name, but its lines end with the folders ({example}): swap the two columns."
        )
    if complete and clear:
        raise ValueError(
            f"{path} must name the labels of the data ({listing(labels, 5)}), "
            f"but its lines are for {listing(list(keys.values()), 5)}."
        )
    return None


def _check_repeats(path: Path, texts: Mapping[int, str], kind: str) -> None:
    """Raise ValueError if two lines have the same text."""
    first: dict[str, int] = {}
    repeats = [f"{text!r} in lines {at} and {n}" for n, text in texts.items() if (at := first.setdefault(text, n)) != n]
    if repeats:
        raise ValueError(f"{path} must name each {kind} once, got {listing(repeats)}.")


def _repeated_name_notes(mapping: ClassMapping) -> list[str]:
    """Return a note on classes with the same name and the labels of each."""
    repeated = [name for name, count in Counter(mapping.names).items() if count > 1]
    labels = {
        name: [label for label, index in mapping.index.items() if mapping.names[index] == name] for name in repeated
    }
    names = [f"{name} ({', '.join(labels[name])})" for name in repeated]
    return [f"Several classes share a name and cannot be told apart by text: {listing(names)}."] if repeated else []


def _name_by_mapping(labels: Sequence[str], label_names: Mapping[str, str], names: Mapping[str, str]) -> ClassMapping:
    """Rename some or all labels; their order stays."""
    missing = [label for label in labels if label not in names]
    if len(missing) == len(labels):
        raise ValueError(
            f"Class names must be for the labels of the data ({listing(labels, 5)}), "
            f"got names for {listing(list(names), 5)}."
        )
    notes = []
    if missing:
        notes.append(f"No name was given for {listing(missing)}: the label is used as the name.")
    unused = [label for label in names if label not in set(labels)]
    if unused:
        notes.append(f"Ignored {plural(len(unused), 'class name')} without images: {listing(unused, 5)}.")
    return _number_in_order(labels, [names.get(label, label_names.get(label, label)) for label in labels], *notes)


def _name_by_list(labels: Sequence[str], label_names: Mapping[str, str], names: Sequence[str]) -> ClassMapping:
    """Order the labels by a list that contains them; any other list names them in their order, if nothing conflicts."""
    listed = set(names)
    spellings = {label: (clean_name(label), clean_name(label_names.get(label, label))) for label in labels}
    known = {label: name for label, texts in spellings.items() for name in texts if name in listed}
    distinct = len(listed) == len(names)
    if distinct and len(set(known.values())) == len(labels):
        return _number_by_name(names, known)
    start = _find_index_base(labels, len(names)) if distinct and not known else None
    if start is not None:
        indexed = {label: names[int(label) - start] for label in labels}
        note = f"Labels are numbers: they index the names from {start}; {labels[-1]} is {indexed[labels[-1]]!r}."
        return _number_by_name(names, indexed, note)
    pairs = list(zip(labels, names, strict=False))
    if len(names) == len(labels) and all(known.get(label, name) == name for label, name in pairs):
        renamed = [f"{label} is {name!r}" for label, name in pairs if label not in known]
        return _number_in_order(labels, names, f"Classes were named in the order of their labels: {listing(renamed)}.")
    unknown = [label for label in labels if label not in known]
    if known and unknown:
        raise ValueError(f"Every label must be among the classes; not among them: {listing(unknown)}.")
    raise ValueError(
        f"{plural(len(names), 'class name')} cannot name {plural(len(labels), 'label')} "
        f"({listing(labels, 5)}): give each label one name, or a mapping label -> name."
    )


def _find_index_base(labels: Sequence[str], count: int) -> int | None:
    """Return the number of the first of ``count`` names, 0 or 1, if the labels are indices into the names; else None.

    None also if there is one label for each name, so that their order is enough.

    Raises:
        ValueError: If the labels may count from 0 or from 1.
    """
    if not all(label.isdecimal() and len(label) < 10 for label in labels):
        return None
    numbers = {int(label) for label in labels}
    if not numbers or max(numbers) > count or (0 in numbers and count in numbers):
        return None
    if 0 in numbers or count in numbers:
        return 0 if 0 in numbers else 1
    if len(labels) == count:
        return None
    raise ValueError(
        f"Labels are numbers ({listing(labels, 5)}) without 0 and without {count}: do they count the "
        f"{count} names from 0 or from 1? Give a mapping label -> name."
    )


def _number_in_order(labels: Sequence[str], names: Sequence[str], *notes: str) -> ClassMapping:
    """Make the i-th label class i."""
    return ClassMapping({label: i for i, label in enumerate(labels)}, tuple(map(clean_name, names)), notes)


def _number_by_name(names: Sequence[str], name_of: Mapping[str, str], *notes: str) -> ClassMapping:
    """Make the i-th name class i; names of no label are classes without images."""
    index = {name: i for i, name in enumerate(names)}
    empty = sorted(set(names) - set(name_of.values()), key=index.__getitem__)
    if empty:
        notes = (*notes, f"Classes without an image: {listing(empty)}.")
    return ClassMapping({label: index[name] for label, name in name_of.items()}, tuple(names), notes)
