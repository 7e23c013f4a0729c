"""Length buckets give the features and gradients of all texts at once, within their memory budget."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.text_encoding import KEPT, MAX_BUCKET, MIN_BUCKET, bucket_sizes, encode_in_buckets
from selfprompt.models.tower import TextTower
from selfprompt.prompts.static import Scatter
from tests.models.tiny import clip, texts

LENGTHS = tuple(4 + number % 9 for number in range(MAX_BUCKET + 50))  # of texts
COST = 4 * KEPT


def tower() -> TextTower:
    return clip_towers(clip())[1]


def encoded(text: TextTower, ids: Tensor, prompts: Tensor, memory: int, lengths: list[int] | None = None) -> Tensor:
    def encode(rows: Tensor, part: Tensor) -> Tensor:
        if lengths is not None:
            lengths.append(part.shape[1])
        return text(part, Scatter(prompts, torch.tensor([[1, 2]]).expand(len(rows), -1)))

    return encode_in_buckets(text, ids, encode, memory=memory)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("count", [5, len(LENGTHS)])
def test_features_and_gradients_do_not_depend_on_the_budget(count: int, share: float) -> None:
    text, ids = tower(), texts(LENGTHS[:count])
    prompts = torch.randn(2, text.width, generator=torch.Generator().manual_seed(1)).requires_grad_()
    whole = text(ids, Scatter(prompts, torch.tensor([[1, 2]]).expand(count, -1)))
    found = encoded(text, ids, prompts, int(share * ids.numel() * COST * text.depth * text.width))
    torch.testing.assert_close(found, whole, atol=5e-6, rtol=1e-5)
    (wanted,), (got,) = (torch.autograd.grad(x.square().sum(), prompts) for x in (whole, found))
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-4)  # sums over texts, up to 500


def test_the_budget_decides_what_is_recomputed() -> None:
    text, ids = tower(), texts(LENGTHS[:64])
    cost = ids.numel() * COST * text.depth * text.width
    prompts = torch.zeros(2, text.width, requires_grad=True)
    again = {}
    for memory in (2 * cost, cost // 2, 0):
        calls: list[int] = []
        found = encoded(text, ids, prompts, memory, calls)
        first = len(calls)
        found.sum().backward()
        again[memory] = (len(calls) - first) / first
    assert again[2 * cost] == 0
    assert 0 < again[cost // 2] < 1
    assert again[0] == 1


def test_without_gradients_nothing_is_recomputed() -> None:
    text, ids = tower(), texts(LENGTHS)
    calls: list[int] = []
    with torch.no_grad():
        encoded(text, ids, torch.zeros(2, text.width), 10**9, calls)
    assert len(calls) == len(bucket_sizes(sorted(LENGTHS, reverse=True), MAX_BUCKET))


@given(st.lists(st.integers(3, 77), min_size=1, max_size=400), st.integers(1, MAX_BUCKET))
def test_buckets_hold_all_texts_and_are_neither_large_nor_needlessly_small(lengths: list[int], most: int) -> None:
    lengths = sorted(lengths, reverse=True)
    sizes = bucket_sizes(lengths, most)
    assert sum(sizes) == len(lengths)
    assert max(sizes) <= most
    assert all(size >= min(MIN_BUCKET, most) for size in sizes[:-1])


def test_buckets_end_with_their_longest_text() -> None:
    text, lengths = tower(), (4,) * MAX_BUCKET + (9,) * MIN_BUCKET
    calls: list[int] = []
    encoded(text, texts(lengths), torch.zeros(2, text.width, requires_grad=True), 10**9, calls)
    assert calls == [9, 4]


def test_a_tower_that_is_not_causal_reads_all_tokens() -> None:
    text = clip_towers(clip(text={"no_causal_mask": True}))[1]
    calls: list[int] = []
    ids = texts(LENGTHS)
    found = encoded(text, ids, torch.zeros(2, text.width), 10**9, calls)
    assert set(calls) == {ids.shape[1]}
    torch.testing.assert_close(
        found, text(ids, Scatter(torch.zeros(2, text.width), torch.tensor([[1, 2]]).expand(len(ids), -1)))
    )
