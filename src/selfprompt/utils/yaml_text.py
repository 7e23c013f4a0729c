"""YAML from untrusted sources: plain values of bounded size and depth. Imports no torch."""

import re
from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

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
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise ValueError(f"the key {repeated[0]!r} occurs twice")
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Writes plain values; quotes every text that `Loader` would read as a number."""


for _class in (Loader, Dumper):  # YAML 1.1 requires a dot in such a number
    _class.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        ValueError: If it is not valid YAML, or not plain values.
    """
    if len(text) > LONGEST:
        raise ValueError(f"not valid YAML: it must have at most {LONGEST:,} characters, and has more")
    try:
        return yaml.load(text, Loader)
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


def read_yaml(path: Path | Traversable) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: If the file cannot be read as YAML; the message names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * LONGEST + 1)  # of a file without end
        return parse_yaml(
            content.decode(encoding_of(content), errors="strict" if len(content) <= LONGEST else "ignore")
        )
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not valid YAML: it must be UTF-8 text.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None


def write_yaml(values: Any) -> str:
    """Return values as YAML text, with keys in their order."""
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False))
