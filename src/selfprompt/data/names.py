"""Class names: their order, their cleaning, and those a user gives by a list, a mapping or a classes.txt."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfprompt.data.items import listing, plural
from selfprompt.files import read_text

ClassNames = str | Path | Mapping[str, str] | Sequence[str]
SEPARATORS = (
    "\t",
    "=>",
    "=",
    ",",
)  # between folder and name in a line of classes.txt; white space is tried last


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
    """Underscores to spaces, white space collapsed, accents composed."""
    return " ".join(unicodedata.normalize("NFC", text).replace("_", " ").split())


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
        classes = read_class_file(Path(classes), found)
    if classes is None:
        naming = _in_order(found, [given.get(label, label) for label in found])
    elif isinstance(classes, Mapping):
        naming = _by_mapping(found, given, {str(label): str(name) for label, name in classes.items()})
    else:
        naming = _by_list(found, given, [clean_name(str(name)) for name in classes])
    unnamed = [label for label, index in naming.index.items() if not naming.names[index]]
    if unnamed:
        raise ValueError(f"Every class needs a name; nothing is left of {listing([repr(n) for n in unnamed])}.")
    twice = [name for name, count in Counter(naming.names).items() if count > 1]
    note = (f"Several classes share a name and cannot be told apart by text: {listing(twice)}.",) if twice else ()
    return Naming(naming.index, naming.names, naming.notes + note)


def read_class_file(path: Path, labels: Sequence[str]) -> dict[str, str] | list[str]:
    """Read a classes.txt.

    Args:
        path: Lines ``folder<TAB or => or = or comma>name``, or just names in the order of the sorted folders.
        labels: The labels of the data: they tell a mapping from names that hold a comma.

    Raises:
        ValueError: If the file is missing, empty, no text, or names a folder twice.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} must name at least one class, but it is empty.")
    for separator in (*SEPARATORS, None):
        pairs = [[part.strip() for part in line.split(separator, 1)] for line in lines]
        keys = [pair[0] for pair in pairs]
        whole = all(len(pair) == 2 for pair in pairs)
        fits = bool(set(keys) & set(labels)) if separator else set(labels) <= set(keys)
        if whole and fits:
            twice = [key for key, count in Counter(keys).items() if count > 1]
            if twice:
                raise ValueError(f"{path} must name each folder once; more than once: {listing(twice)}.")
            return dict(pairs)
    return lines


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
    unused = len(names) - (len(found) - len(missing))
    if unused:
        notes.append(f"Ignored {plural(unused, 'class name')} without images here.")
    return _in_order(found, [names.get(label, given.get(label, label)) for label in found], *notes)


def _by_list(found: Sequence[str], given: Mapping[str, str], names: Sequence[str]) -> Naming:
    """A list that holds the labels gives the order; another names them in theirs, if none contradicts it."""
    listed = set(names)
    spellings = {label: (clean_name(label), clean_name(given.get(label, label))) for label in found}
    known = {label: name for label, words in spellings.items() for name in words if name in listed}
    distinct = len(listed) == len(names)
    if distinct and len(set(known.values())) == len(found):
        return _by_name(names, known)
    if distinct and not known and all(label.isdecimal() and int(label) < len(names) for label in found):
        return _by_name(
            names, {label: names[int(label)] for label in found}, "Labels are numbers: they count the names."
        )
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
