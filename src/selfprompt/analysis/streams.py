"""Runs of an image tower that are looked at: what entered each block, with the prompts of the method."""

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
class Stream:
    """One run of an image tower.

    Attributes:
        tower: What ran.
        record: What entered and left each block.
        pooling: How the run's tokens became features.
    """

    tower: VisionTower
    record: Record
    pooling: Pooling = "native"

    @property
    def inputs(self) -> list[Tokens]:
        """The stream entering each block, after the prompter's edits."""
        return self.record.inputs

    @property
    def prompted(self) -> bool:
        """Whether prompts stand in front of every block."""
        return bool(self.inputs) and all(tokens.count for tokens in self.inputs)

    def attention(self, index: int) -> Tensor:
        """The attention weights of a block in this run, (B, heads, L, L)."""
        return self.tower.attention(index, self.inputs[index], **self.record.options[index])


@contextmanager
def watched(tower: VisionTower) -> Iterator[list[Stream]]:
    """The streams of every run of a tower for as long as the context is open, in order.

    A method makes its prompter where it calls the tower, so PyTorch's hook slips the looker-on in between; the tower
    itself stays as it is, and the hook is gone afterwards.
    """
    streams: list[Stream] = []

    def look(_: Any, given: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        inputs, *rest = given
        inner = rest[0] if rest else options.pop("prompter", None)
        record = Record() if inner is None else Record(inner)
        streams.append(Stream(tower, record, options.get("pooling", "native")))
        return (inputs, record), options

    handle = tower.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield streams
    finally:
        handle.remove()


@torch.no_grad()
def prompted_stream(method: Method, images: Tensor) -> Stream | None:
    """How images run through the image tower together with the method's prompts; None without image prompts.

    Args:
        method: In eval mode.
        images: (B, 3, H, W), normalised.
    """
    with watched(method.vision) as streams:
        method.logits(images)
    return next((stream for stream in reversed(streams) if stream.prompted), None)


@torch.no_grad()
def plain_stream(tower: VisionTower, images: Tensor) -> Stream:
    """How images run through the tower without prompts."""
    with watched(tower) as streams:
        tower(images)
    return streams[0]
