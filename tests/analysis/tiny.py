"""Helpers of the analysis tests: recorded runs and random numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfprompt.analysis.tower_runs import TowerRun, run_with_prompts
from selfprompt.methods.base import Method
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.record import Record
from tests.methods.tiny import images, small


def random(*shape: int, seed: int = 0) -> Tensor:
    """Draw normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(method: Method, count: int = 2) -> TowerRun:
    """Run some images with the image prompts of a method."""
    stream = run_with_prompts(method, images(count))
    assert stream is not None
    return stream


def by_hand(inputs: Sequence[Tokens]) -> TowerRun:
    """Return a run with these block inputs, on the tower of the embedded autoencoder."""
    return TowerRun(small("vpt", "mae").vision, Record(inputs=list(inputs), options=[{} for _ in inputs]))
