"""Averages that others published, to be shown beside one's own and marked as theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from selfprompt.utils.yaml_text import parse_yaml


@dataclass(frozen=True)
class Published:
    """One published table.

    Attributes:
        protocol, suite: Whose averages they are.
        about: Under which conditions, in one line.
        columns: Names as our tables have them.
        rows: Percentages by method.
    """

    protocol: str
    suite: str
    about: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


@cache
def published() -> tuple[Published, ...]:
    """All of them."""
    text = (files("selfprompt.benchmarks") / "published.yaml").read_text(encoding="utf-8")
    return tuple(
        Published(
            entry["protocol"],
            entry["suite"],
            entry["about"],
            tuple(entry["columns"]),
            {name: tuple(values) for name, values in entry["rows"].items()},
        )
        for entry in parse_yaml(text)
    )
