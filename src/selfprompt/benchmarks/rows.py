"""The rows of a comparison: methods or recipes with changed values, as a user writes them; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfprompt.recipes.recipe import Recipe, file_values, load_recipe
from selfprompt.utils.yaml_text import parse_yaml

SYNTAX = "Write NAME or NAME[key=value,options.name=value], where NAME is a method, a recipe or a recipe file."


@dataclass(frozen=True)
class Row:
    """A recipe and the values that the user changed in it.

    Attributes:
        label: The row as written; results record it.
        name: Name of a method or a shipped recipe, or the path of a recipe file.
        changes: Changed values of the recipe; the method's options are under "options".
        trust: Whether a recipe file may name a method "package.module:Class", whose module is then imported.
    """

    label: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False

    def recipe(self) -> Recipe:
        """Return the recipe without the changes.

        Raises:
            ValueError: If there is no such recipe.
        """
        return load_recipe(self.name, trust=self.trust)

    def file_values(self) -> Mapping[str, Any]:
        """Return the values that a recipe file sets, which the rules of a suite must not replace; empty for names."""
        return file_values(self.name)


def parse_rows(text: str, *, trust: bool = False) -> tuple[Row, ...]:
    """Parse a list of rows such as "zero-shot,sep[epochs=10,options.layers=[1,2]],my.yaml".

    Args:
        text: The rows, separated by commas.
        trust: The ``trust`` of each row.

    Raises:
        ValueError: If brackets do not match, a recipe or key is unknown, or a row occurs twice.
    """
    rows = tuple(parse_row(part, trust=trust) for part in split_at_commas(text))
    labels = [row.label for row in rows]
    if not rows:
        raise ValueError(f"At least one method is needed. {SYNTAX}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"Each method may occur once, got {', '.join(labels)}.")
    return rows


def parse_row(text: str, *, trust: bool = False) -> Row:
    """Parse one row.

    Raises:
        ValueError: If it is malformed, or the recipe or a key is unknown.
    """
    name, bracket, rest = text.partition("[")
    if bracket and not rest.endswith("]"):
        raise ValueError(f"{text!r} lacks its closing bracket. {SYNTAX}")
    changes: dict[str, Any] = {}
    for pair in split_at_commas(rest.removesuffix("]")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} in {text!r} must be key=value. {SYNTAX}")
        values, key = changes, key.strip()
        if key.startswith("options."):
            values, key = changes.setdefault("options", {}), key.removeprefix("options.")
        values[key] = parse_yaml(value) if value.strip() else ""  # YAML would read an empty text as null
    row = Row(text, name.strip(), changes, trust)
    _check(row)
    return row


def _check(row: Row) -> None:
    """Raise ValueError for an unknown recipe, key or option, before anything runs."""
    try:
        recipe = row.recipe()
        fixed = [key for key in ("method", "seed", "shots", "classes") if key in row.changes]
        if fixed:
            raise ValueError(f"{fixed[0]} cannot be changed here: the protocol and the command line fix it.")
        changed = recipe.changed(row.changes)
        unknown = [name for name in changed.options if recipe.options and name not in recipe.options]
        if unknown:
            raise ValueError(f"{recipe.method} has no option {unknown[0]!r}. Its options: {', '.join(recipe.options)}.")
    except ValueError as error:
        raise ValueError(f"{row.label}: {error}") from error


def split_at_commas(text: str) -> list[str]:
    """Split a text at the commas outside brackets and quotes, dropping empty parts.

    Raises:
        ValueError: If brackets or quotes do not match.
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if depth < 0:
            break
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    if depth or quote:
        raise ValueError(f"The brackets or quotes in {text!r} do not match. {SYNTAX}")
    return [part.strip() for part in parts if part.strip()]


def row_slug(label: str) -> str:
    """Turn a row's label into the name of a folder."""
    return slug(Path(label).stem if label.endswith((".yaml", ".yml")) else label, 80)


def slug(text: str, longest: int) -> str:
    """Return a text with a dash for everything but letters, digits and ``._=+-``, shortened."""
    kept = "".join(letter if letter.isalnum() or letter in "._=+-" else "-" for letter in text)
    return "-".join(part for part in kept.split("-") if part)[:longest]
