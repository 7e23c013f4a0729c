"""Encoding many texts within a memory budget: in buckets of similar length, recomputed for gradients where needed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfprompt.models.tower import Prompter, TextTower

Encode = Callable[[Tensor, Tensor], Tensor]
"""From the indices of some texts, (n,), and their token ids, (n, L), to features, (n, E)."""

MAX_BUCKET, MIN_BUCKET = 128, 16  # texts in a bucket: at most, to limit memory, and at least, for speed
SIMILAR = 0.85  # of the bucket's longest text: the least length that is padded to it
KEPT = 12
"""Floats kept for gradients, per token, channel and block: q, k, v, attention output, two norms, four of the MLP, and
room to spare."""


def encode_in_buckets(
    tower: TextTower,
    ids: Tensor,
    encode: Encode,
    *,
    min_length: int = 0,
    prefix_length: int = 0,
    memory: int,
    host_ids: Tensor | None = None,
) -> Tensor:
    """Encode texts in buckets of similar length.

    Each bucket is cut behind the end of its longest text, where the tower's layout allows it. Buckets keep what
    gradients need until the budget is used up; the others are recomputed in the backward pass.

    Args:
        tower: The tower that ``encode`` runs.
        ids: Token ids, (C, L).
        encode: Encodes some of the texts; the features of a text must not depend on the others.
        min_length: Positions that a prompter reads whatever the text (see ``TextLayout.lengths``).
        prefix_length: Tokens of the shared prefix, which are not run here.
        memory: Bytes that may be kept for gradients.
        host_ids: The same ids on the CPU: reading lengths from another device would wait for it in every step.

    Returns:
        Features, (C, E), in the order of ``ids``.
    """
    host_ids = ids if host_ids is None else host_ids
    longest = ids.shape[1] - prefix_length
    cost = 4 * KEPT * tower.depth * tower.width  # bytes per token
    fits = len(ids) * longest * cost <= memory or not torch.is_grad_enabled()
    if torch.compiler.is_compiling() or (fits and len(ids) <= MIN_BUCKET):
        return encode(torch.arange(len(ids), device=ids.device), ids)
    lengths, order = (tower.layout.lengths(host_ids, min_length) - prefix_length).sort(descending=True, stable=True)
    most = min(MAX_BUCKET, max(MIN_BUCKET, memory // (2 * cost * longest)))  # a recomputed bucket must fit, too
    sizes, left = bucket_sizes(lengths.tolist(), most), memory - most * longest * cost
    features = []
    for rows, ends in zip(order.to(ids.device).split(sizes), lengths.split(sizes), strict=True):
        bucket = ids[rows, : prefix_length + int(ends[0])]
        left -= len(rows) * int(ends[0]) * cost
        keep = left >= 0 or not torch.is_grad_enabled()
        features.append(encode(rows, bucket) if keep else checkpoint(encode, rows, bucket, use_reentrant=False))
    return torch.cat(features)[order.argsort().to(ids.device)]


def encode_with_shared_prefix(
    tower: TextTower,
    ids: Tensor,
    prompter: Prompter,
    *,
    throughout: bool = False,
    memory: int,
    host_ids: Tensor | None = None,
) -> Tensor:
    """Encode texts that begin with the same tokens; a causal tower runs the prefix that they share only once.

    Args:
        tower: The text tower.
        ids: Token ids, (C, L).
        prompter: Edits the same tokens in each text, and reads nothing behind them.
        throughout: Whether its ``layer`` also runs the tokens behind the prefix, without prompts there.
        memory: Bytes that may be kept for gradients.
        host_ids: The same ids on the CPU, see ``encode_in_buckets``.

    Returns:
        Features, (C, E).
    """
    host_ids = ids if host_ids is None else host_ids
    if not tower.causal or torch.compiler.is_compiling():  # the compiler needs lengths that do not depend on values
        return encode_in_buckets(
            tower, ids, lambda _, bucket: tower(bucket, prompter), memory=memory, host_ids=host_ids
        )
    alike = (host_ids == host_ids[:1]).all(dim=0).long().cumprod(dim=0).sum()
    length = int(alike.minimum(tower.layout.ends(host_ids).min()))  # each text keeps at least one token: its end
    prefix = tower.shared_prefix(ids[:1, :length], prompter)

    def encode(_: Tensor, bucket: Tensor) -> Tensor:
        return tower(bucket, prompter if throughout else None, shared_prefix=prefix)

    return encode_in_buckets(tower, ids, encode, prefix_length=length, memory=memory, host_ids=host_ids)


def bucket_sizes(lengths: Sequence[int], most: int) -> list[int]:
    """Divide texts, sorted by falling length, into buckets of similar lengths.

    Returns:
        Number of texts in each bucket: at most ``most`` and, apart from the last bucket, at least ``MIN_BUCKET``.
    """
    sizes, start = [], 0
    while start < len(lengths):
        stop = start + 1
        while stop < min(len(lengths), start + most) and (
            stop - start < MIN_BUCKET or lengths[stop] >= SIMILAR * lengths[start] or len(lengths) - stop < MIN_BUCKET
        ):
            stop += 1
        sizes.append(stop - start)
        start = stop
    return sizes
