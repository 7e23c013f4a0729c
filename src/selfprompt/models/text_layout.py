"""Where the words of a text stand among its tokens, and which of them a text tower reads."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFormat:
    """What a tokenizer does with a text before and after the words of its vocabulary.

    Attributes:
        start: Ids before the words.
        end: Id behind the words; may be ``pad`` itself.
        pad: Id that fills a text up to the context, on the right.
        clean: Name of the rule by which the text is cleaned.
    """

    start: tuple[int, ...]
    end: int
    pad: int
    clean: str


@dataclass(frozen=True)
class TextLayout:
    """Token ids as ``start | words | end | padding``, and what a text tower reads of them; the defaults are CLIP's.

    Attributes:
        start: Number of ids before the words.
        end: Id behind the words, at its first position; None for the greatest id of a text, as in CLIP.
        pad: Id of the padding; may be ``end`` itself.
        cut: Why positions behind the end of a text can be cut off: "end" because a causal tower pools there, "mask"
            because no token attends to padding; "never" if padding has an influence.
        reads: The token that becomes the features, or the mean of all but padding.
    """

    start: int = 1
    end: int | None = None
    pad: int = 0
    cut: Literal["end", "mask", "never"] = "end"
    reads: Literal["end", "last", "start", "mean"] = "end"

    def ends(self, ids: Tensor) -> Tensor:
        """Return the position of the end of each text, (C,)."""
        return (ids if self.end is None else (ids == self.end).int()).argmax(dim=-1)

    def lengths(self, ids: Tensor, min_length: int = 0) -> Tensor:
        """Return how many positions of each text have an influence, (C,); later ones can be cut off.

        Args:
            ids: Token ids, (C, L).
            min_length: Positions that a prompter reads, padding included.
        """
        if self.cut == "never":
            return torch.full_like(ids[:, 0], ids.shape[1])
        return (self.ends(ids) + 1).clamp(min=min_length, max=ids.shape[1])

    def read_positions(self, ids: Tensor) -> Tensor | None:
        """Return the position of the token that becomes the features of each text, (C,); None for a mean."""
        if self.reads == "mean":
            return None
        if self.reads == "end":
            return self.ends(ids)
        return torch.full_like(ids[:, 0], 0 if self.reads == "start" else ids.shape[1] - 1)
