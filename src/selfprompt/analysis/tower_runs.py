"""Recorded runs of an image tower: the input of each block, with the method's prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfprompt.methods.base import Method
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Pooling, VisionTower
from selfprompt.prompts.record import Record


@dataclass(frozen=True)
class TowerRun:
    """One recorded run of an image tower.

    Attributes:
        tower: The tower.
        record: Input and output of each block.
        pooling: How the final tokens became features.
    """

    tower: VisionTower
    record: Record
    pooling: Pooling = "native"

    @property
    def inputs(self) -> list[Tokens]:
        """The input of each block, after the prompter's edits."""
        return self.record.inputs

    @property
    def prompted(self) -> bool:
        """Whether every block had prompts."""
        return bool(self.inputs) and all(tokens.count for tokens in self.inputs)

    def attention(self, index: int) -> Tensor:
        """Return the attention weights of a block in this run, (B, heads, L, L)."""
        return self.tower.attention(index, self.inputs[index], **self.record.options[index])


@contextmanager
def recorded_runs(tower: VisionTower) -> Iterator[list[TowerRun]]:
    """Record every run of a tower while the context is open.

    A method creates its prompter where it calls the tower, so a forward pre-hook wraps the prompter there. The tower
    itself does not change, and the hook is removed at the end.

    Yields:
        The runs so far, in order.
    """
    runs: list[TowerRun] = []

    def record_run(_: Any, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs, *rest = args
        inner = rest[0] if rest else options.pop("prompter", None)
        record = Record() if inner is None else Record(inner)
        runs.append(TowerRun(tower, record, options.get("pooling", "native")))
        return (inputs, record), options

    handle = tower.register_forward_pre_hook(record_run, with_kwargs=True)
    try:
        yield runs
    finally:
        handle.remove()


@torch.no_grad()
def run_with_prompts(method: Method, images: Tensor) -> TowerRun | None:
    """Run images through the image tower with the method's prompts; None if the method has no image prompts.

    Args:
        method: The method, in eval mode.
        images: (B, 3, H, W), normalised.
    """
    if not method.vision.has_blocks:
        return None
    with recorded_runs(method.vision) as runs:
        method(images)
    return next((run for run in reversed(runs) if run.prompted), None)


@torch.no_grad()
def run_without_prompts(tower: VisionTower, images: Tensor) -> TowerRun:
    """Run images through the tower without prompts."""
    with recorded_runs(tower) as runs:
        tower(images)
    return runs[0]
