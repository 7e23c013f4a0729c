"""What a protocol or suite changes in a method's recipe: the rules of settings.yaml; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from selfprompt.recipes.recipe import Recipe
from selfprompt.utils.yaml_text import parse_yaml

CONDITIONS = ("suite", "protocol", "dataset", "shots", "method", "recipe", "backbone")


@dataclass(frozen=True)
class Rule:
    """Values that hold where all conditions do.

    Attributes:
        when: Patterns by condition; one of a condition's patterns must match.
        values: Values of the recipe.
        why: Where they come from, in one line.
        steps_per_shot: Training steps that the epochs add up to, for each training image a class; 0: no matter.
    """

    when: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Any]
    why: str
    steps_per_shot: int = 0

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether a run with these facts is meant."""
        return all(
            any(fnmatchcase(str(facts[name]), pattern) for pattern in patterns) for name, patterns in self.when.items()
        )


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of settings.yaml in their order.

    Raises:
        ValueError: If a rule has an unknown condition.
    """
    made = []
    for entry in parse_yaml((files("selfprompt.benchmarks") / "settings.yaml").read_text(encoding="utf-8")):
        values, why, steps = entry.pop("set", {}), entry.pop("why"), entry.pop("steps_per_shot", 0)
        unknown = [name for name in entry if name not in CONDITIONS]
        if unknown:
            raise ValueError(f"Unknown condition {unknown[0]!r} in settings.yaml. Known: {', '.join(CONDITIONS)}.")
        listed = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
        made.append(Rule({name: tuple(map(str, value)) for name, value in listed.items()}, values, why, steps))
    return tuple(made)


def settings_for(shipped: Recipe, **facts: Any) -> list[Rule]:
    """The rules that hold for a recipe in a place of the grid.

    Args:
        shipped: The recipe as it ships; gives the facts method and backbone.
        **facts: suite, protocol, dataset, shots and recipe, the recipe's name.
    """
    known = {**facts, "method": shipped.method, "backbone": shipped.backbone}
    return [rule for rule in rules() if rule.holds(known)]
