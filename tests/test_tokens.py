"""The token sequence: edits undo each other, leave everything else alone, and refuse what does not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfprompt.models.tokens import Tokens

sizes = st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 5), st.integers(0, 6), st.integers(1, 4))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stream(batch: int, prefix: int, body: int, width: int) -> Tokens:
    return Tokens(random(batch, prefix + body, width), prefix)


@given(sizes)
def test_insert_lays_out_prefix_prompts_body_and_drop_undoes_it(size: tuple[int, ...]) -> None:
    batch, prefix, count, body, width = size
    before = stream(batch, prefix, body, width)
    prompts = random(batch, count, width, seed=1)
    after = before.insert(prompts)
    assert after.x.equal(torch.cat([before.x[:, :prefix], prompts, before.x[:, prefix:]], dim=1))
    assert (after.prefix, after.count) == (prefix, count)
    assert after.prompts.equal(prompts)
    assert after.body.equal(before.body)
    assert after.others().equal(before.x)
    dropped = after.drop()
    assert dropped.x.equal(before.x)
    assert (dropped.prefix, dropped.count) == (prefix, 0)


@given(sizes)
def test_shared_prompts_are_the_same_in_every_row(size: tuple[int, ...]) -> None:
    batch, prefix, count, body, width = size
    prompts = random(count, width, seed=1)
    after = stream(batch, prefix, body, width).insert(prompts)
    assert after.prompts.equal(prompts.expand(batch, -1, -1))


@given(sizes)
def test_replace_changes_the_prompts_and_nothing_else(size: tuple[int, ...]) -> None:
    batch, prefix, count, body, width = size
    first, second = random(count, width, seed=1), random(batch, count, width, seed=2)
    before = stream(batch, prefix, body, width).insert(first)
    after = before.replace(second)
    assert after.prompts.equal(second)
    assert after.others().equal(before.others())
    assert after.replace(first).x.equal(before.x)


@given(sizes)
def test_mark_declares_body_tokens_without_moving_any(size: tuple[int, ...]) -> None:
    batch, prefix, count, body, width = size
    before = stream(batch, prefix, count + body, width)
    after = before.mark(count)
    assert after.x.equal(before.x)
    assert after.count == count
    assert after.prompts.equal(before.x[:, prefix : prefix + count])
    assert after.replace(after.prompts).x.equal(before.x)


def test_edits_leave_the_original_sequence_as_it_was() -> None:
    before = stream(2, 1, 4, 3)
    copy = before.x.clone()
    after = before.insert(torch.zeros(2, 3))
    after.replace(torch.ones(2, 3))
    after.x.zero_()
    assert before.x.equal(copy)
    assert before.count == 0


def test_prompts_take_the_type_of_the_sequence() -> None:
    half = Tokens(random(2, 5, 4).bfloat16(), 1)
    assert half.insert(random(3, 4)).x.dtype == torch.bfloat16


def test_gradient_reaches_shared_prompts_from_every_row() -> None:
    prompts = random(2, 3).requires_grad_()
    stream(4, 1, 5, 3).insert(prompts).x.sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.equal(torch.full((2, 3), 4.0))


def test_inserting_twice_is_refused() -> None:
    tokens = stream(1, 1, 4, 3).insert(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"holds 2 prompts already; use replace\(\)"):
        tokens.insert(torch.zeros(2, 3))


@pytest.mark.parametrize("count", [1, 3])
def test_replacing_by_another_number_is_refused(count: int) -> None:
    tokens = stream(1, 1, 4, 3).insert(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=rf"needs 2 prompts, got {count}"):
        tokens.replace(torch.zeros(count, 3))


def test_prompts_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="Prompts have width 5, the tokens 3"):
        stream(1, 1, 4, 3).insert(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="Prompts have width 5, the tokens 3"):
        stream(1, 1, 4, 3).insert(torch.zeros(2, 3)).replace(torch.zeros(2, 5))


def test_marking_is_refused_twice_and_beyond_the_body() -> None:
    tokens = stream(1, 1, 4, 3)
    with pytest.raises(ValueError, match="holds 2 prompts already"):
        tokens.mark(2).mark(1)
    assert tokens.mark(4).body.shape == (1, 0, 3)
    with pytest.raises(ValueError, match="5 prompts need as many body tokens, and there are 4"):
        tokens.mark(5)
