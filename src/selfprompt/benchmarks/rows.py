"""The rows of a comparison: method names with changed values, as a user writes them; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfprompt.recipes.recipe import Recipe, file_values, load_recipe
from selfprompt.utils.yaml_text import parse_yaml

SYNTAX = "Write NAME or NAME[key=value,options.name=value], NAME being a method, a recipe or a recipe file."


@dataclass(frozen=True)
class Entry:
    """One row: a recipe and what the user changed in it.

    Attributes:
        label: As it was written; results carry it.
        name: Method, shipped recipe or recipe file.
        changes: Values of the recipe; the method's own options under "options".
        trust: Whether a recipe file may name a method "package.module:Class", whose module then runs.
    """

    label: str
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False

    def recipe(self) -> Recipe:
        """The recipe that the name stands for, unchanged.

        Raises:
            ValueError: If there is none.
        """
        return load_recipe(self.name, trust=self.trust)

    def written(self) -> Mapping[str, Any]:
        """What the user wrote into the recipe file, where the name is one's: no rule of a suite replaces that."""
        return file_values(self.name)


def parse_entries(text: str, *, trust: bool = False) -> tuple[Entry, ...]:
    """Read "zero-shot,sep[epochs=10,options.layers=[1,2]],my.yaml"; ``trust`` is that of each entry.

    Raises:
        ValueError: If brackets do not match, a recipe or key is unknown, or an entry occurs twice.
    """
    entries = tuple(parse_entry(part, trust=trust) for part in split_outside(text))
    labels = [entry.label for entry in entries]
    if not entries:
        raise ValueError(f"At least one method is needed. {SYNTAX}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"Each method may stand there once, got {', '.join(labels)}.")
    return entries


def parse_entry(text: str, *, trust: bool = False) -> Entry:
    """Read one entry.

    Raises:
        ValueError: If it is not well formed, or the recipe or a key is unknown.
    """
    name, bracket, rest = text.partition("[")
    if bracket and not rest.endswith("]"):
        raise ValueError(f"{text!r} lacks its closing bracket. {SYNTAX}")
    changes: dict[str, Any] = {}
    for pair in split_outside(rest.removesuffix("]")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} in {text!r} must be key=value. {SYNTAX}")
        place, key = changes, key.strip()
        if key.startswith("options."):
            place, key = changes.setdefault("options", {}), key.removeprefix("options.")
        place[key] = parse_yaml(value) if value.strip() else ""  # YAML would read nothing as null
    entry = Entry(text, name.strip(), changes, trust)
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """Raise ValueError for an unknown recipe, key or option, before anything runs."""
    try:
        recipe = entry.recipe()
        fixed = [key for key in ("method", "seed", "shots", "classes") if key in entry.changes]
        if fixed:
            raise ValueError(f"{fixed[0]} cannot be changed here: the protocol and the command line fix it.")
        changed = recipe.changed(entry.changes)
        unknown = [name for name in changed.options if recipe.options and name not in recipe.options]
        if unknown:
            raise ValueError(f"{recipe.method} has no option {unknown[0]!r}. Its options: {', '.join(recipe.options)}.")
    except ValueError as error:
        raise ValueError(f"{entry.label}: {error}") from error


def split_outside(text: str) -> list[str]:
    """The parts between commas that stand outside of brackets and quotes, without empty ones.

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


def entry_slug(label: str) -> str:
    """A label as the name of a folder."""
    name = Path(label).stem if label.endswith((".yaml", ".yml")) else label
    kept = "".join(letter if letter.isalnum() or letter in "._=+-" else "-" for letter in name)
    return "-".join(part for part in kept.split("-") if part)[:80]
