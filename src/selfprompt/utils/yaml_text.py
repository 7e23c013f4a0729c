"""YAML from untrusted sources: plain values of bounded size and depth. Imports no torch."""

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from selfprompt.utils.files import encoding_of

LONGEST = 1 << 15
"""Characters of a text; a recipe has one or two thousand."""
DEEPEST = 20
"""Levels of nested lists and mappings."""


class Loader(yaml.SafeLoader):
    """Loads plain values: no aliases, no repeated keys, no deep nesting; ``1e-3`` is a number."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node, and its children."""
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not taken; write the value out")
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"lists and mappings may be nested {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping without repeated keys."""
        seen: set[Hashable] = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, Hashable):
                break  # the parent class says so
            if key in seen:
                raise ValueError(f"the key {key!r} occurs twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


class TextLoader(Loader):
    """Loads every plain value as text: ``no``, ``001`` and ``1e3`` stay as they are written."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class Dumper(yaml.SafeDumper):
    """Writes plain values; quotes every text that `Loader` would read as a number."""


for _class in (Loader, Dumper):  # YAML 1.1 requires a dot in such a number
    _class.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


def parse_yaml(text: str, *, longest: int = LONGEST, as_text: bool = False) -> Any:
    """Parse YAML text.

    Args:
        text: The text.
        longest: Characters that it may have.
        as_text: Whether every value is read as text, also numbers, dates, true, no and null.

    Raises:
        ValueError: If it is not valid YAML, or not plain values.
    """
    if len(text) > longest:
        raise ValueError(f"not valid YAML: it must have at most {longest:,} characters, and has more")
    try:
        return yaml.load(text, TextLoader if as_text else Loader)
    except Exception as error:  # PyYAML raises IndexError, KeyError and others if a value contradicts its tag
        reason = str(error) if isinstance(error, (yaml.YAMLError, ValueError)) else type(error).__name__
        raise ValueError(f"not valid YAML: {' '.join(reason.split())}") from None


def check_plain(text: str) -> None:
    """Raise ValueError for a text that other YAML parsers should not get: too deep, or with aliases.

    Other texts pass, even if they are not YAML.
    """
    depth = deepest = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST or re.match(rf"(\s*[-?]\s){{{DEEPEST + 1}}}", text):
        raise ValueError(f"lists and mappings may be nested {DEEPEST} deep")
    if "*" in text and re.search(r"(^|[\[{,:\s])&\w+\s*[\[{]", text):
        raise ValueError("aliases (*name) are not taken; write the value out")


def read_yaml(path: Path | Traversable, *, longest: int = LONGEST, as_text: bool = False) -> Any:
    """Read a YAML file; see ``parse_yaml``.

    Raises:
        ValueError: If the file cannot be read as YAML; the message names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * longest + 1)  # of a file without end
        text = content.decode(encoding_of(content), errors="strict" if len(content) <= longest else "ignore")
        return parse_yaml(text, longest=longest, as_text=as_text)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not valid YAML: it must be UTF-8 text.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None


def write_yaml(values: Any) -> str:
    """Return values as YAML text, with keys in their order."""
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False))
