"""Averages published by others, shown next to measured results and marked as published."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from selfprompt.utils.yaml_text import parse_yaml


@dataclass(frozen=True)
class PublishedTable:
    """One published table.

    Attributes:
        protocol: Name of the protocol.
        suite: Name of the suite.
        about: The experimental conditions, in one line.
        columns: Column names, as in our tables.
        rows: Percentages by method.
    """

    protocol: str
    suite: str
    about: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Read the tables of published.yaml."""
    text = (files("selfprompt.benchmarks") / "published.yaml").read_text(encoding="utf-8")
    return tuple(
        PublishedTable(
            entry["protocol"],
            entry["suite"],
            entry["about"],
            tuple(entry["columns"]),
            {name: tuple(values) for name, values in entry["rows"].items()},
        )
        for entry in parse_yaml(text)
    )
