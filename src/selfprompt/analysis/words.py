"""The vocabulary entries nearest to learned text prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfprompt.methods.base import Method
from selfprompt.models.tower import TextTower

SPACING = 512
"""Number of words that ``spacing`` samples."""


@dataclass(frozen=True)
class NearWord:
    """A vocabulary entry near a prompt.

    Attributes:
        word: The word; a piece that does not end a word has a hyphen.
        distance: Euclidean distance of the token embeddings.
    """

    word: str
    distance: float


def input_prompts(method: Method) -> dict[str, Tensor]:
    """Return the prompts at the input of the text tower, where a text has words.

    These are the parameters called ``context`` (CoOp and its successors) or ``text_prompts`` (SEP, IVLP, MaPLe).
    Prompts of deeper blocks are left out, because word embeddings do not reach these blocks.

    Returns:
        Prompts, (P, D), by class name ("" for all classes); empty without text prompts.
    """
    parameters = method.trainable()
    if "text_prompts" in parameters:
        prompts = parameters["text_prompts"].detach()
        return {"": prompts[0] if prompts.ndim == 3 else prompts}  # (depth, P, D): those at the input
    if "context" not in parameters:
        return {}
    context = parameters["context"].detach()
    return dict(zip(method.classes, context, strict=True)) if context.ndim == 3 else {"": context}


@torch.no_grad()
def vocabulary(text: TextTower) -> Tensor:
    """Return the embeddings of all tokens of the text tower, without positions, (V, D)."""
    ids = torch.arange(int(str(text.facts()["vocabulary"])), device=next(text.parameters()).device)
    return text.embed(ids[:, None]).x[:, 0].float()


def nearest(vectors: Tensor, words: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices, (P, count) each, of the words, (V, D), nearest to vectors, (P, D), in order."""
    distances = torch.cdist(vectors.double(), words.double())
    smallest = distances.topk(min(count, len(words)), dim=1, largest=False)
    return smallest.values, smallest.indices


def nearest_words(
    vectors: Tensor, words: Tensor, tokenizer: Callable[..., Any], count: int = 5
) -> list[list[NearWord]]:
    """Return the words nearest to each vector, nearest first.

    Args:
        vectors: (P, D).
        words: From ``vocabulary``, (V, D).
        tokenizer: The backbone's tokenizer.
        count: Number of words per vector.
    """
    rows = zip(*(part.tolist() for part in nearest(vectors, words, count)), strict=True)
    return [[NearWord(spell(tokenizer, i), d) for d, i in zip(*row, strict=True)] for row in rows]


def spacing(words: Tensor) -> float:
    """Return the median distance from a word to the nearest other word, over an even sample of the vocabulary."""
    sample = words[:: max(1, len(words) // SPACING)]
    return float(nearest(sample, words, 2)[0][:, -1].median())


def spell(tokenizer: Callable[..., Any], number: int) -> str:
    """Return a token as text: ``photo``, or ``pho-`` for a piece that does not end a word."""
    decode = getattr(tokenizer, "decode", None)
    if decode is None:
        return f"token {number}"
    text = str(decode([number]))
    if "\ufffd" in text or not text.strip():  # some of the bytes of a letter
        return f"token {number}"
    if text.startswith("<"):
        return text.strip()
    return text.strip() if text.endswith(" ") else f"{text}-"
