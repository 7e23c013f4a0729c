"""Models that a file fills: no random draws, all constants, and an untouched random state."""

import torch
from torch import nn

from selfprompt.models.loading.initial_values import unfilled


def test_random_fills_leave_tensors_as_they_are() -> None:
    fills = (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_uniform_,
    )
    with unfilled():
        assert not any(fill(torch.zeros(4, 4)).any() for fill in fills)
    assert all(fill(torch.zeros(4, 4)).any() for fill in fills)


def test_constants_are_computed() -> None:
    with unfilled():
        norm, mask = nn.LayerNorm(3), torch.full((3, 3), -torch.inf).triu(1)
    assert norm.weight.tolist() == [1, 1, 1]
    assert mask.isinf().sum() == 3


def test_the_callers_random_state_stays() -> None:
    before = torch.get_rng_state()
    with unfilled():
        nn.Linear(3, 3)
        torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
