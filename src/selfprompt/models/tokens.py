"""The token sequence of a transformer and the edits that prompts make to it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A token sequence laid out as ``prefix | prompts | body``.

    A block without a mask is permutation-equivariant, so prompts always follow the prefix. Text prompts have real
    positions, directly behind the ids that start a text (SOS in CLIP, none in SigLIP), which is the same layout.

    Attributes:
        x: The sequence, (B, L, D).
        prefix: Number of CLS and register tokens, or of those that start a text.
        count: Number of prompts, 0 before any are inserted.
        padding: Which tokens no token attends to, (B, L), bool; None if there are none of this kind.
    """

    x: Tensor
    prefix: int
    count: int = 0  # type: ignore[assignment]  # a tuple's own count() is not used
    padding: Tensor | None = None

    @property
    def prompts(self) -> Tensor:
        """The prompts, (B, P, D)."""
        return self.x[:, self.prefix : self.prefix + self.count]

    @property
    def body(self) -> Tensor:
        """Patch tokens, or class-name words, EOT and padding, (B, N, D)."""
        return self.x[:, self.prefix + self.count :]

    def others(self) -> Tensor:
        """Return all tokens but the prompts, (B, prefix + N, D)."""
        return self._without_prompts(self.x)

    def insert(self, prompts: Tensor) -> "Tokens":
        """Insert prompts between prefix and body.

        Args:
            prompts: (P, D), shared by the batch, or (B, P, D).

        Raises:
            ValueError: If the sequence has prompts already, or their width differs.
        """
        if self.count:
            raise ValueError(f"The sequence holds {self.count} prompts already; use replace().")
        return self._with(prompts)

    def replace(self, prompts: Tensor) -> "Tokens":
        """Replace the prompts by as many others.

        Args:
            prompts: (P, D) or (B, P, D) with P equal to ``count``.

        Raises:
            ValueError: If the number or the width differs.
        """
        if prompts.shape[-2] != self.count:
            raise ValueError(f"replace() needs {self.count} prompts, got {prompts.shape[-2]}.")
        return self._with(prompts)

    def drop(self) -> "Tokens":
        """Remove the prompts."""
        padding = None if self.padding is None else self._without_prompts(self.padding)
        return Tokens(self.others(), self.prefix, padding=padding)

    def mark(self, count: int) -> "Tokens":
        """Declare the first ``count`` body tokens to be prompts (the placeholders of a text).

        Raises:
            ValueError: If the sequence has prompts already, or fewer body tokens.
        """
        if self.count:
            raise ValueError(f"The sequence holds {self.count} prompts already.")
        if count > self.body.shape[1]:
            raise ValueError(f"{count} prompts need as many body tokens, and there are {self.body.shape[1]}.")
        return self._replace(count=count)

    def _with(self, prompts: Tensor) -> "Tokens":
        if prompts.shape[-1] != self.x.shape[-1]:
            raise ValueError(f"Prompts have width {prompts.shape[-1]}, the tokens {self.x.shape[-1]}.")
        prompts = prompts.to(self.x.dtype).expand(self.x.shape[0], -1, -1)
        padding = self.padding
        if padding is not None:
            padding = self._with_rows(padding, padding.new_zeros(prompts.shape[:2]))
        return Tokens(self._with_rows(self.x, prompts), self.prefix, prompts.shape[1], padding)

    def _with_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return a sequence laid out as this one with other rows in the place of the prompts."""
        return torch.cat([x[:, : self.prefix], rows, x[:, self.prefix + self.count :]], dim=1)

    def _without_prompts(self, x: Tensor) -> Tensor:
        return x if self.count == 0 else torch.cat([x[:, : self.prefix], x[:, self.prefix + self.count :]], dim=1)
