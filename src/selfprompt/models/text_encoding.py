"""Encoding many texts within a memory budget: in chunks of like length, computed again for gradients where need be."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfprompt.models.tower import Prompter, TextTower

Encode = Callable[[Tensor, Tensor], Tensor]
"""From the numbers of some texts, (n,), and their token ids, (n, L), to features, (n, E)."""

CHUNK, FEW = 128, 16  # texts at most, for the memory's sake, and at least, for the speed's
LIKE = 0.85  # of the longest text in a chunk: the least length that is padded to it
KEPT = 12
"""Floats a token, channel and block that gradients need: q, k, v, their answer, two norms, the MLP's four; and room."""


def encode_in_buckets(
    tower: TextTower, ids: Tensor, encode: Encode, *, reach: int = 0, shared: int = 0, memory: int
) -> Tensor:
    """Features of texts, (C, E), in their order.

    Texts are sorted by length, and each chunk of a causal tower ends where its own texts stop mattering. While
    gradients are wanted, chunks keep what gradients need until the budget is used up; those behind it are computed
    again in the backward pass.

    Args:
        tower: What will encode them.
        ids: Token ids, (C, L).
        encode: Encodes some of them; a text's features must not depend on the other texts.
        reach: Positions that a prompter reads whatever the text (see ``text.useful_length``).
        shared: Tokens at the start that run only once for all.
        memory: Bytes that may be kept for gradients.
    """
    longest = ids.shape[1] - shared
    cost = 4 * KEPT * tower.depth * tower.width  # bytes per token
    fits = len(ids) * longest * cost <= memory or not torch.is_grad_enabled()
    if torch.compiler.is_compiling() or (fits and len(ids) <= FEW):
        return encode(torch.arange(len(ids), device=ids.device), ids)
    lengths = (tower.ends(ids) + 1).clamp(min=reach, max=ids.shape[1]) - shared
    lengths, order = (lengths if tower.causal else torch.full_like(lengths, longest)).sort(descending=True, stable=True)
    most = min(CHUNK, max(FEW, memory // (2 * cost * longest)))  # one being computed again must fit, too
    sizes, left = chunk_sizes(lengths.tolist(), most), memory - most * longest * cost
    found = []
    for rows, ends in zip(order.split(sizes), lengths.split(sizes), strict=True):
        part = ids[rows, : shared + int(ends[0])]
        left -= len(rows) * int(ends[0]) * cost
        keep = left >= 0 or not torch.is_grad_enabled()
        found.append(encode(rows, part) if keep else checkpoint(encode, rows, part, use_reentrant=False))
    return torch.cat(found)[order.argsort()]


def encode_with_shared_prefix(tower: TextTower, ids: Tensor, prompter: Prompter, *, memory: int) -> Tensor:
    """Features of texts, (C, E), that have the same prompts; a causal tower runs what they open with once for all.

    Args:
        tower: What will encode them.
        ids: Token ids, (C, L).
        prompter: It edits tokens that stand in all texts alike, and reads nothing behind them.
        memory: Bytes that may be kept for gradients.
    """
    if not tower.causal or torch.compiler.is_compiling():  # which wants lengths that depend on no number
        return encode_in_buckets(tower, ids, lambda _, part: tower(part, prompter), memory=memory)
    alike = (ids == ids[:1]).all(dim=0).long().cumprod(dim=0).sum()
    shared = int(alike.minimum(tower.ends(ids).min()))  # a text needs a token of its own, if only its end
    opening = tower.opening(ids[:1, :shared], prompter)
    return encode_in_buckets(tower, ids, lambda _, part: tower(part, after=opening), shared=shared, memory=memory)


def chunk_sizes(lengths: Sequence[int], most: int) -> list[int]:
    """Sizes of chunks of texts that are sorted from the longest on: alike in length, neither few nor too many."""
    sizes, start = [], 0
    while start < len(lengths):
        stop = start + 1
        while stop < min(len(lengths), start + most) and (
            stop - start < FEW or lengths[stop] >= LIKE * lengths[start] or len(lengths) - stop < FEW
        ):
            stop += 1
        sizes.append(stop - start)
        start = stop
    return sizes
