"""Encoding many texts within a memory budget: in chunks of like length, computed again for gradients where need be."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfprompt.towers.base import TextTower

Encode = Callable[[Tensor, Tensor], Tensor]
"""From the numbers of some texts, (n,), and their token ids, (n, L), to features, (n, E)."""

CHUNK = 128  # texts; enough for full speed, few enough to sort a thousand into like lengths
KEPT = (
    12  # floats per token, channel and block that gradients need: q, k, v, what they answer, two norms, the MLP's four
)


def encode_in_chunks(tower: TextTower, ids: Tensor, encode: Encode, *, reach: int = 0, memory: int) -> Tensor:
    """Features of texts, (C, E), in their order.

    A few texts are one chunk. Many are sorted by length, and each chunk of a causal tower ends where its own texts
    stop mattering. While gradients are wanted, chunks keep what gradients need until the budget is used up; those
    behind it are computed again in the backward pass.

    Args:
        tower: What will encode them.
        ids: Token ids, (C, L).
        encode: Encodes some of them; a text's features must not depend on the other texts.
        reach: Positions that a prompter reads whatever the text (see ``text.useful_length``).
        memory: Bytes that may be kept for gradients.
    """
    cost = 4 * KEPT * tower.depth * tower.width  # bytes per token
    fits = len(ids) * ids.shape[1] * cost <= memory or not torch.is_grad_enabled()
    if torch.compiler.is_compiling() or (fits and len(ids) <= CHUNK):
        return encode(torch.arange(len(ids), device=ids.device), ids)
    lengths = (tower.ends(ids) + 1).clamp(min=reach, max=ids.shape[1])
    lengths, order = (lengths if tower.causal else torch.full_like(lengths, ids.shape[1])).sort(stable=True)
    size = min(CHUNK, max(1, memory // (2 * cost * ids.shape[1])))  # one being computed again must fit, too
    left = memory - size * ids.shape[1] * cost
    found = []
    for rows, ends in zip(order.split(size), lengths.split(size), strict=True):
        part = ids[rows, : int(ends[-1])]
        left -= part.numel() * cost
        keep = left >= 0 or not torch.is_grad_enabled()
        found.append(encode(rows, part) if keep else checkpoint(encode, rows, part, use_reentrant=False))
    return torch.cat(found)[order.argsort()]
