"""Dropout on copies of a tensor: which elements are dropped, how often, and how the rest is scaled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.prompts.low_rank import dropped_copies
from tests.prompts.tiny import random


@given(
    probability=st.floats(min_value=0.0, max_value=0.99),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    copies=st.integers(1, 4),
)
def test_each_element_is_dropped_or_scaled(probability: float, shape: list[int], copies: int) -> None:
    x = torch.full(shape, 2.0)
    dropped = dropped_copies(x, copies, probability)
    assert dropped.shape == (copies, *shape)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], torch.tensor(2 / (1 - probability)), rtol=1e-3)


def test_nearly_everything_may_be_dropped() -> None:
    assert dropped_copies(torch.ones(100), 3, 1 - 1e-9).isfinite().all()


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_copies_lose_different_elements_at_the_rate_that_was_asked_for(probability: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        dropped = dropped_copies(torch.ones(400, 500), 2, probability)
    lost = (dropped == 0).double()
    assert abs(float(lost.mean()) - probability) < 0.005
    assert abs(float((lost[0] * lost[1]).mean()) - probability**2) < 0.005  # the copies are independent
    assert abs(float((lost[:, :, 1:] * lost[:, :, :-1]).mean()) - probability**2) < 0.005  # and so are neighbours


def test_dropout_is_repeated_by_the_same_seed_and_has_the_gradient_of_what_is_kept() -> None:
    x = random(3, 4, 5).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = dropped_copies(x, 3, 0.25)
        torch.manual_seed(3)
        assert dropped_copies(x, 3, 0.25).equal(first)
    first.sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, (first / x).detach().sum(dim=0))
