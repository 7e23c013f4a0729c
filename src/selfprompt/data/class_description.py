"""What a user says about a class: names, sentences, and templates of its own; from Python or a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from selfprompt.data.templates import check_template
from selfprompt.utils.spelling import clean_name
from selfprompt.utils.suggestions import did_you_mean
from selfprompt.utils.wording import listing
from selfprompt.utils.yaml_text import read_yaml

MAX_TEXTS = 1_000
"""Texts of one class."""
MAX_ALL_TEXTS = 100_000
"""Texts of all classes."""
MAX_LETTERS = 2_000
"""Letters of a text; a CLIP reads 77 tokens, about 300 letters."""
LONGEST_FILE = 1 << 20
"""Letters of a YAML file of classes, which is read in some seconds; 1,000 classes with ten sentences have 700,000."""
KEYS = ("names", "descriptions", "templates")
YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ClassDescription:
    """The names of a class, and what else is said about it.

    The texts of the class are its names in each template, and its descriptions as they are.

    Attributes:
        names: One or more names; the first one is shown.
        descriptions: Sentences without a place for a name.
        templates: Replace the templates of the method for this class; ``{}`` is the name.

    Raises:
        ValueError: If there is no name, a text is empty or too long, there are too many texts, a template has no
            place for the name, or a text occurs twice.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names must hold at least one name, got none.")
        for key in KEYS:
            _check_texts(key, getattr(self, key))
        for template in self.templates:
            check_template(template)
        count = len(self.names) * max(1, len(self.templates)) + len(self.descriptions)
        if count > MAX_TEXTS:
            raise ValueError(
                f"A class may have {MAX_TEXTS:,} texts (names times templates, and descriptions), got {count:,}."
            )

    @property
    def name(self) -> str:
        """The name that is shown."""
        return self.names[0]

    @property
    def is_plain(self) -> bool:
        """Whether there is one name and nothing else."""
        return len(self.names) == 1 and not self.descriptions and not self.templates


Described: TypeAlias = str | Mapping[str, Any] | ClassDescription
"""A class as a name, as a mapping with the keys names, descriptions and templates, or as a record."""


def describe(value: Described, default: str = "") -> ClassDescription:
    """Return the description of a class, with cleaned texts.

    Args:
        value: A name, a mapping with one or more of ``KEYS``, each a text or a list of texts, or a description.
        default: The name if a mapping has none.

    Raises:
        ValueError: If a key is unknown, there is no name, or a text is wrong.
        TypeError: If a value has another type.
    """
    if isinstance(value, str):
        return ClassDescription((clean_name(value),))
    if isinstance(value, ClassDescription):
        value = {key: getattr(value, key) for key in KEYS}
    if not isinstance(value, Mapping):
        raise TypeError(f"A class is a name, or a mapping with {listing(KEYS)}; got {_shown(value)}.")
    for key in value:
        if key not in KEYS:
            raise ValueError(f"Unknown key {_shown(key)}.{did_you_mean(str(key), KEYS)} Known: {listing(KEYS)}.")
    texts = {key: _texts(key, value[key]) for key in value}
    names = texts.get("names") or ((clean_name(default),) if default else ())
    if not names:
        raise ValueError("names must hold at least one name, got none.")
    given_empty = [key for key in value if not texts[key] and not isinstance(value[key], tuple)]
    if given_empty:
        raise ValueError(f"{given_empty[0]} must hold at least one text, got none: leave the key out.")
    return ClassDescription(names, texts.get("descriptions", ()), texts.get("templates", ()))


def describe_all(classes: Sequence[Described]) -> tuple[ClassDescription, ...]:
    """Return the descriptions of several classes; see ``describe``.

    Raises:
        ValueError: If a description is wrong, or all classes together have too many texts; the message names the class.
    """
    described = tuple(describe_named(f"class {number}", value) for number, value in enumerate(classes, start=1))
    check_total(described)
    return described


def describe_named(title: str, value: Described, default: str = "") -> ClassDescription:
    """Return ``describe(value, default)``; the message of an error begins with the title."""
    try:
        return describe(value, default)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{title}: {error}") from None


def check_total(classes: Sequence[ClassDescription]) -> None:
    """Raise ValueError if classes of which one is not plain have more than ``MAX_ALL_TEXTS`` texts."""
    if all(one.is_plain for one in classes):
        return
    total = sum(len(one.names) * max(1, len(one.templates)) + len(one.descriptions) for one in classes)
    if total > MAX_ALL_TEXTS:
        raise ValueError(f"All classes together may have {MAX_ALL_TEXTS:,} texts, got {total:,}.")


def description_record(classes: Sequence[ClassDescription]) -> dict[str, list[dict[str, list[str]]]]:
    """Return what results and artifacts store besides the names; nothing if each class is only a name."""
    if all(one.is_plain for one in classes):
        return {}
    rows = [{key: list(getattr(one, key)) for key in KEYS if getattr(one, key)} for one in classes]
    return {"class_descriptions": rows}


def read_class_yaml(path: Path) -> dict[str, Any] | list[Any]:
    """Read a classes.yaml: a mapping from labels to classes, or a list of classes.

    Every value is read as text, so that ``no``, ``001`` and ``1e3`` are labels and names.

    Raises:
        ValueError: If the file cannot be read, is no YAML, too large, or holds something else.
    """
    values = read_yaml(path, longest=LONGEST_FILE, as_text=True)
    if not isinstance(values, (dict, list)) or not values:
        raise ValueError(f"{path} must map each folder to its class, or list the classes; got {_shown(values)}.")
    return values


def _texts(key: str, value: Any) -> tuple[str, ...]:
    """Return the cleaned texts of a key: one text, or a list of texts."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
        raise TypeError(f"{key} must be a text or a list of texts, got {_shown(value)}.")
    return tuple(" ".join(entry.split()) if key == "templates" else clean_name(entry) for entry in entries)


def _check_texts(key: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not text.strip():
            raise ValueError(f"{key} must not hold an empty text.")
        if len(text) > MAX_LETTERS:
            raise ValueError(f"{key} must be texts of up to {MAX_LETTERS:,} letters, got {_shown(text)}.")
    repeated = (
        [text for index, text in enumerate(texts) if text in texts[:index]] if len(set(texts)) < len(texts) else []
    )
    if repeated:
        raise ValueError(f"{key} must differ, got {_shown(repeated[0])} twice.")


def _shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
