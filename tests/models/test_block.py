"""Attention and QuickGELU of a block equal torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfprompt.models.block import FEW_KEYS, attend, quick_gelu


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@given(st.integers(1, 2 * FEW_KEYS), st.integers(1, FEW_KEYS), st.booleans())
def test_plain_products_equal_torch_attention(keys: int, queries: int, masked: bool) -> None:
    q, k, v = drawn(1, 2, 3, queries, 8), drawn(2, 2, 3, keys, 8), drawn(3, 2, 3, keys, 8)
    mask = torch.zeros(queries, keys, dtype=torch.float64)
    mask[:, 1:] = torch.where(torch.ones(queries, keys - 1).tril().bool(), 0.0, float("-inf"))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask if masked else None)
    found = attend(q, k, v, mask if masked else None)
    assert torch.allclose(found, expected)
    slope = torch.randn_like(found)
    pairs = zip(*(torch.autograd.grad(one, (q, k, v), slope) for one in (found, expected)), strict=True)
    assert all(torch.allclose(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("gradient", [True, False])
def test_quick_gelu_and_its_gradient(gradient: bool) -> None:
    x = drawn(4, 5, 7)
    expected = x * torch.sigmoid(1.702 * x)
    with torch.set_grad_enabled(gradient):
        found = quick_gelu(x + 0)  # it overwrites its argument
    assert torch.allclose(found, expected)
    assert found.requires_grad is gradient
    if gradient:
        slope = torch.randn_like(found)
        ours, theirs = (torch.autograd.grad(one, x, slope)[0] for one in (found, expected))
        assert torch.allclose(ours, theirs)
