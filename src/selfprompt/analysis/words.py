"""Learned text prompts in words: the entries of the vocabulary that lie next to them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfprompt.methods.base import Method
from selfprompt.models.tower import TextTower

SPACING = 512
"""How many words say how far words lie from one another."""


@dataclass(frozen=True)
class Near:
    """A word of the vocabulary near a prompt.

    Attributes:
        word: The word; a piece of a word that others follow ends in a hyphen.
        distance: Euclidean, in the space of token embeddings.
    """

    word: str
    distance: float


def input_prompts(method: Method) -> dict[str, Tensor]:
    """Learned vectors that stand where words would, (P, D) each, by the class that they belong to ("" for all).

    They are the tuned tensors called ``context`` (CoOp and its line) and ``text_prompts`` (SEP, IVLP, MaPLe); those of
    deeper blocks are left out, because there no words stand beside them. Empty without text prompts.
    """
    tuned = method.trainable()
    if "text_prompts" in tuned:
        prompts = tuned["text_prompts"].detach()
        return {"": prompts[0] if prompts.ndim == 3 else prompts}  # (depth, P, D): those at the input
    if "context" not in tuned:
        return {}
    context = tuned["context"].detach()
    return dict(zip(method.classes, context, strict=True)) if context.ndim == 3 else {"": context}


@torch.no_grad()
def vocabulary(text: TextTower) -> Tensor:
    """The embedding of every token that the text tower knows, without positions, (V, D)."""
    ids = torch.arange(int(str(text.facts()["vocabulary"])), device=next(text.parameters()).device)
    return text.embed(ids[:, None]).x[:, 0].float()


def nearest(vectors: Tensor, words: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices, (P, count) each, of the words, (V, D), next to vectors, (P, D); nearest first."""
    distances = torch.cdist(vectors.double(), words.double())
    found = distances.topk(min(count, len(words)), dim=1, largest=False)
    return found.values, found.indices


def near_words(vectors: Tensor, words: Tensor, tokenizer: Callable[..., Any], count: int = 5) -> list[list[Near]]:
    """The words next to each vector, nearest first.

    Args:
        vectors: (P, D).
        words: From ``vocabulary``, (V, D).
        tokenizer: The backbone's.
        count: How many words.
    """
    rows = zip(*(part.tolist() for part in nearest(vectors, words, count)), strict=True)
    return [[Near(spelled(tokenizer, i), d) for d, i in zip(*row, strict=True)] for row in rows]


def spacing(words: Tensor) -> float:
    """How far a word's nearest other word typically is: the median over words spread evenly over the vocabulary."""
    some = words[:: max(1, len(words) // SPACING)]
    return float(nearest(some, words, 2)[0][:, -1].median())


def spelled(tokenizer: Callable[..., Any], number: int) -> str:
    """A token as a reader knows it: ``photo``, or ``pho-`` for a piece that others follow."""
    decode = getattr(tokenizer, "decode", None)
    if decode is None:
        return f"token {number}"
    text = str(decode([number]))
    if "\ufffd" in text or not text.strip():  # a part of a letter's bytes
        return f"token {number}"
    if text.startswith("<"):
        return text.strip()
    return text.strip() if text.endswith(" ") else f"{text}-"
