"""Changes of protocols and suites to a method's recipe: the rules of settings.yaml; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from selfprompt.benchmarks.strict import STRICT, TEXT_OPTIONS
from selfprompt.recipes.recipe import Recipe
from selfprompt.utils.yaml_text import parse_yaml

CONDITIONS = ("suite", "protocol", "dataset", "shots", "method", "recipe", "backbone")


@dataclass(frozen=True)
class Rule:
    """Values of a recipe that apply where all conditions match.

    Attributes:
        when: Patterns by condition; one pattern of each condition must match.
        values: Values of the recipe.
        why: Their source, in one line.
        steps_per_shot: Training steps per training image per class that the epochs should amount to; 0 to leave the
            epochs alone.
    """

    when: Mapping[str, tuple[str, ...]]
    values: Mapping[str, Any]
    why: str
    steps_per_shot: int = 0

    @property
    def is_universal(self) -> bool:
        """Whether it is the same for all data sets and shots, and leaves the texts for class names alone."""
        texts = set(TEXT_OPTIONS) & set(self.values.get("options", {}))
        return not ({"dataset", "shots"} & set(self.when) or texts)

    def applies(self, facts: Mapping[str, Any]) -> bool:
        """Return whether the rule applies to a run with these facts."""
        return all(
            any(fnmatchcase(str(facts[name]), pattern) for pattern in patterns) for name, patterns in self.when.items()
        )


@cache
def rules() -> tuple[Rule, ...]:
    """Read the rules of settings.yaml, in order.

    Raises:
        ValueError: If a rule has an unknown condition.
    """
    result = []
    for entry in parse_yaml((files("selfprompt.benchmarks") / "settings.yaml").read_text(encoding="utf-8")):
        values, why, steps = entry.pop("set", {}), entry.pop("why"), entry.pop("steps_per_shot", 0)
        unknown = [name for name in entry if name not in CONDITIONS]
        if unknown:
            raise ValueError(f"Unknown condition {unknown[0]!r} in settings.yaml. Known: {', '.join(CONDITIONS)}.")
        patterns = {name: value if isinstance(value, list) else [value] for name, value in entry.items()}
        result.append(Rule({name: tuple(map(str, value)) for name, value in patterns.items()}, values, why, steps))
    return tuple(result)


def settings_for(shipped: Recipe, **facts: Any) -> list[Rule]:
    """Return the rules that apply to a recipe in a part of the grid; of a strict protocol, the universal ones.

    Args:
        shipped: The recipe as shipped; its method and backbone are matched, too.
        **facts: suite, protocol, dataset, shots and recipe (the recipe's name).
    """
    known = {**facts, "method": shipped.method, "backbone": shipped.backbone}
    found = [rule for rule in rules() if rule.applies(known)]
    return [rule for rule in found if rule.is_universal] if known["protocol"] in STRICT else found
