"""What the tests of the analysis share: methods on the embedded backbones, and images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfprompt.analysis.tower_runs import TowerRun, run_with_prompts
from selfprompt.methods.base import Method
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.record import Record
from tests.methods.tiny import images, small


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(method: Method, count: int = 2) -> TowerRun:
    """Some images as the method runs them; they have image prompts."""
    stream = run_with_prompts(method, images(count))
    assert stream is not None
    return stream


def by_hand(inputs: Sequence[Tokens]) -> TowerRun:
    """A stream that holds just these tokens, on the tower of the embedded autoencoder."""
    return TowerRun(small("vpt", "mae").vision, Record(inputs=list(inputs), options=[{} for _ in inputs]))
