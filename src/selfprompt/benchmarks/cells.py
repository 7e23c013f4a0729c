"""A cell of a grid: one recipe on one data set, with the id that says whether it is done; imports no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from selfprompt.benchmarks.rows import entry_slug
from selfprompt.recipes.options import LATER_OPTIONS
from selfprompt.recipes.recipe import Recipe
from selfprompt.recipes.renamed import with_former_names

WITHOUT_EFFECT = (
    *("memory", "feature_cache", "accelerator", "devices", "workers"),
    *("checkpoint_every", "keep_every", "log_tensorboard"),
)
"""Values of a recipe that move a result by rounding at most: they are no part of a cell's id."""


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark.

    Attributes:
        protocol, suite, dataset: What is measured, on which task.
        method: The row of the table, as the user wrote it.
        recipe: Everything that fixes the run, seed and shots included; texts for class names, and the epochs that
            make ``steps``, come in when it runs.
        overrides: What the command line changed for all rows; two runs that differ in it are two rows.
        own_texts: Whether the user chose texts for class names, which the data set's then do not replace.
        targets: What it is evaluated on besides: other tasks (cross-dataset), domains (domain-generalization).
        preprocessing: Whose way from VTAB's images to pixels; empty for the backbone's own.
        steps: Training steps that its epochs add up to, whatever the number of images; 0: the recipe's epochs.
    """

    protocol: str
    suite: str
    dataset: str
    method: str
    recipe: Recipe
    overrides: Mapping[str, Any] = field(default_factory=dict)
    own_texts: bool = False
    targets: tuple[str, ...] = ()
    preprocessing: str = ""
    steps: int = 0

    @property
    def seed(self) -> int:
        """Of the draw and of every random start."""
        return self.recipe.seed

    @property
    def shots(self) -> int:
        """Training images a class; 0 is all of them, or none for a method that sees no training image."""
        return self.recipe.data.shots

    @cached_property
    def id(self) -> str:
        """A hash of protocol, data, recipe and seed; whoever has it measures the same."""
        flat = {key: value for key, value in self.recipe.flat().items() if key not in WITHOUT_EFFECT}
        flat["options"] = with_former_names(self.recipe.method, self.recipe.options)
        recipe = {key: value for key, value in flat.items() if (key, value) not in LATER_OPTIONS.items()}
        facts = [self.protocol, self.suite, self.dataset, self.targets, self.preprocessing, self.own_texts, recipe]
        facts += [self.steps] if self.steps else []
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where its files are, below the folder of all runs; the last eight letters keep changed recipes apart."""
        shots = f"-shots{self.shots}" if self.shots else ""
        run = f"seed{self.seed}{shots}-{self.id[:8]}"
        return Path(self.protocol, f"{self.suite}-{self.dataset}", entry_slug(self.method), run)

    def __str__(self) -> str:
        shots = f", {self.shots} shots" if self.shots else ""
        return f"{self.dataset}  {self.method}  seed {self.seed}{shots}"

    def facts(self) -> dict[str, Any]:
        """What a result says of its cell, as JSON values."""
        return {
            "id": self.id,
            "protocol": self.protocol,
            "suite": self.suite,
            "dataset": self.dataset,
            "row": self.method,
            "seed": self.seed,
            "shots": self.shots,
            "preprocessing": self.preprocessing,
            "overrides": dict(self.overrides),
        }
