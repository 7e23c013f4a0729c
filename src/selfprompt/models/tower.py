"""The frozen transformer as a token stream: the only block loop of the library; knows no upstream family."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfprompt.models.block import Plain, QKVDelta, attention_weights, pick, run
from selfprompt.models.tokens import Tokens

Pooling = Literal["native", "cls", "avg", "patches", "prompts"]
"""How the final tokens become one vector; see ``VisionTower.pool``."""


class Prompter(Protocol):
    """What edits the token sequence on its way through a tower.

    ``layer`` receives the block as a callable, so it can edit before and after it. It calls
    ``block(tokens)``, ``block(tokens, temperature=t)`` to divide the attention logits,
    ``block(tokens, update=u)`` to change the attention's projections, or ``block(tokens, beside=p)`` for prompts that
    are attended to and give no output.
    """

    @property
    def reach(self) -> int:
        """The last text position that it reads; the bound for cutting padded text. 0 for images."""

    @property
    def needs_all_outputs(self) -> bool:
        """Whether it reads or edits what a block gave. Where it does not, the last block computes pooled tokens only.

        One that does not say so may.
        """

    def start(self, tokens: Tokens) -> Tokens:
        """Put prompts in, before ``Tower.enter``."""

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        """Run block ``index`` and edit the tokens around it."""


class Tower(nn.Module):
    """A frozen transformer, cut into embed, enter, block and pool.

    A tower always stays in eval mode: dropout and drop path of a frozen backbone are off. Building an adapter
    freezes the model it is given, in place.

    Attributes:
        depth: Number of blocks.
        width: Channels per token, D.
        features: Size of the pooled output, E.
    """

    depth: int
    width: int
    features: int

    def __init__(self) -> None:
        super().__init__()
        self.step: Callable[..., Tensor] = run

    def embed(self, inputs: Tensor) -> Tokens:
        """Turn inputs into tokens, up to the place where the papers insert prompts."""
        raise NotImplementedError

    def enter(self, tokens: Tokens) -> Tokens:
        """Do what upstream still does before block 0."""
        return tokens

    def plain(self, index: int) -> Plain | None:
        """The parts of a block, if it is of the plain kind; None where only upstream can run it."""
        raise NotImplementedError

    def upstream(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Upstream's own block, (B, L, D) -> (B, L, D)."""
        raise NotImplementedError

    def attention_mask(self, before: int, length: int) -> Tensor | None:
        """What is added to the attention's logits of ``length`` tokens that ask among ``before`` more and themselves.

        Returns:
            (length, before + length), or None where all see all.
        """
        return None

    def block(
        self,
        index: int,
        tokens: Tokens,
        *,
        temperature: Tensor | None = None,
        update: QKVDelta | None = None,
        beside: Tensor | None = None,
    ) -> Tokens:
        """Run one block.

        Args:
            index: Which block, from 0.
            tokens: Any sequence of this tower's width.
            temperature: Divides the attention logits; a scalar. None is upstream's own block.
            update: Added to the projection to queries, keys and values; the weights themselves stay as they are.
            beside: Tokens that are attended to and give no output, (P, D) or (B, P, D); in a causal text they stand
                before the others.

        Raises:
            TypeError: If a temperature or an update is given and this kind of block does not take one.
        """
        return self._block(index, tokens, None, temperature, update, beside)

    def _block(
        self,
        index: int,
        tokens: Tokens,
        rows: Tensor | None,
        temperature: Tensor | None = None,
        update: QKVDelta | None = None,
        beside: Tensor | None = None,
    ) -> Tokens:
        """As ``block``; with rows, (R,) or (B, R), only those tokens come out, in that order."""
        block = self.plain(index)
        beside = None if beside is None else beside.to(tokens.x.dtype)
        before = 0 if beside is None else beside.shape[-2]
        mask = self.attention_mask(before, tokens.x.shape[1])
        if block is not None:
            if mask is not None and rows is not None:
                mask = mask[rows][:, None]  # (B, 1, R, P + L)
            options = {"temperature": temperature, "update": update, "beside": beside, "rows": rows}
            return tokens._replace(x=self.step(block, tokens.x, mask, **options))
        if temperature is not None or update is not None:
            raise TypeError(f"Changing the attention {self.needs_plain(index)}; use a method that leaves it alone.")
        x = tokens.x
        if beside is not None:
            x = torch.cat([beside.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.upstream(index, x, self.attention_mask(0, x.shape[1]))[:, before:]
        return tokens._replace(x=x if rows is None else pick(x, rows))

    def needs_plain(self, index: int) -> str:
        """The end of the sentence that refuses a block: "needs timm's plain Block, got ..."."""
        raise NotImplementedError

    def last_block(
        self, tokens: Tokens, inputs: Tensor, pooling: Pooling, *, whole: bool = False, **changes: Any
    ) -> Tokens:
        """Run the last block, for those tokens alone that ``pool`` reads.

        Args:
            tokens: What enters it.
            inputs: The tower's inputs.
            pooling: How its outputs become features.
            whole: Compute all tokens.
            changes: A temperature, an update or tokens beside, as in ``block``.
        """
        rows = None if whole else self.pooled_rows(tokens, inputs, pooling)
        after = self._block(self.depth - 1, tokens, rows, **changes)
        return after if rows is None else Tokens(after.x, min(tokens.prefix, after.x.shape[1]))

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """The tokens that ``pool`` reads, (R,) or (B, R) indices into the stream; None for all."""
        raise NotImplementedError

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: Pooling = "native") -> Tensor:
        """Turn the tokens behind the last block into features, (B, E)."""
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        """What was built, beside the weights: everything that changes the output and fits into JSON."""
        raise NotImplementedError

    def forward(
        self,
        inputs: Tensor,
        prompter: Prompter | None = None,
        *,
        pooling: Pooling = "native",
        recompute: bool = False,
    ) -> Tensor:
        """Encode a batch.

        Args:
            inputs: Images (B, 3, H, W), normalised, or token ids (C, L).
            prompter: What edits the tokens; None is the backbone's own encoding.
            pooling: How the final tokens become features.
            recompute: Save memory: keep one sequence per block and compute the rest again for gradients.

        Returns:
            Features, (B, E).
        """
        tokens = self.embed(inputs)
        if prompter is not None:
            tokens = prompter.start(tokens)
        tokens = self.enter(tokens)
        whole = prompter is not None and getattr(prompter, "needs_all_outputs", True)
        for index in range(self.depth):
            block: Callable[..., Tokens] = partial(self.block, index)
            if index == self.depth - 1:
                block = partial(self.last_block, inputs=inputs, pooling=pooling, whole=whole)
            step = block if prompter is None else partial(prompter.layer, index, block)
            tokens = checkpoint(step, tokens, use_reentrant=False) if recompute else step(tokens)
        return self.pool(tokens, inputs, pooling)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let ``torch.compile`` make kernels for the blocks; needs a C++ compiler or a GPU, and a slow first step."""
        self.step = torch.compile(run, backend=backend)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked."""
        return super().train(False)

    def freeze(self) -> None:
        """Stop gradients into the weights and switch to eval mode; each adapter's last step of building."""
        self.requires_grad_(False)
        self.eval()


class VisionTower(Tower):
    """A frozen image transformer.

    Attributes:
        image_size: Height and width of the images it takes, in pixels.
        patch_size: Height and width of a patch, in pixels.
        prefix: Number of CLS and register tokens.
        class_token: Whether row 0 is a class token.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    prefix: int
    class_token: bool

    def patches(self, images: Tensor) -> Tensor:
        """Patch embedding alone: no prefix and no position embedding, (B, N, D)."""
        raise NotImplementedError

    def attention(
        self, index: int, tokens: Tokens, *, temperature: Tensor | None = None, update: QKVDelta | None = None
    ) -> Tensor:
        """The attention weights that a block computes from what enters it, to look at; ``block`` does not use this.

        Args:
            index: Which block, from 0.
            tokens: What enters the block.
            temperature: As the block was given it.
            update: As the block was given it.

        Returns:
            (B, heads, L, L); rows are those who ask, and sum to 1.

        Raises:
            TypeError: If the block's attention is not the softmax of scaled products.
        """
        block = self.plain(index)
        if block is None:
            raise TypeError(f"Looking at the attention {self.needs_plain(index)}.")
        return attention_weights(block, tokens.x, temperature, update)

    @property
    def native_prefix(self) -> bool:
        """Whether upstream's own features read no other tokens than the prefix."""
        raise NotImplementedError

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """The prefix where a class token is pooled, all but the prompts where patches are."""
        if pooling in ("avg", "prompts"):
            return None
        rows = torch.arange(tokens.x.shape[1], device=tokens.x.device)
        if pooling == "cls" or (pooling == "native" and self.native_prefix):
            return rows[: tokens.prefix]
        return torch.cat([rows[: tokens.prefix], rows[tokens.prefix + tokens.count :]]) if tokens.count else None

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: Pooling = "native") -> Tensor:
        """Turn the tokens behind the last block into features.

        Args:
            tokens: Behind the last block.
            inputs: Not used by images.
            pooling: "native": drop the prompts, then exactly upstream's features.
                "cls": final norm of the class token.
                "avg": mean over prompts and patches, then the final norm.
                "patches": as "avg", prompts dropped first. "prompts": as "avg", prompts only.
                A CLIP that normalises before it averages keeps that order, and its projection.

        Returns:
            Features, (B, E).

        Raises:
            ValueError: For an unknown pooling, "cls" without a class token, or "prompts" without prompts.
        """
        if pooling == "native":
            return self._native(tokens.others())
        return self._finish(self._rows(tokens, pooling))

    def _native(self, x: Tensor) -> Tensor:
        """Upstream's own end, (B, prefix + N, D) -> (B, E)."""
        raise NotImplementedError

    def _finish(self, rows: Tensor) -> Tensor:
        """Mean over rows, final norm, projection: (B, R, D) -> (B, E)."""
        raise NotImplementedError

    def _rows(self, tokens: Tokens, pooling: Pooling) -> Tensor:
        """The rows that a pooling averages, (B, R, D)."""
        if pooling == "cls":
            if not self.class_token:
                raise ValueError("Pooling 'cls' needs a class token, and this backbone has none; use 'avg'.")
            return tokens.x[:, :1]
        if pooling == "avg":
            return tokens.x[:, tokens.prefix :]
        if pooling == "patches":
            return tokens.body
        if pooling == "prompts":
            if tokens.count == 0:
                raise ValueError("Pooling 'prompts' needs prompts, and the sequence holds none.")
            return tokens.prompts
        raise ValueError(f"Unknown pooling {pooling!r}. Known: {', '.join(get_args(Pooling))}.")


class TextTower(Tower):
    """A frozen text transformer over token ids (C, L); L may be anything up to ``context``.

    A text prompt's position is real: ``enter`` adds positions, so prompts replace placeholder tokens in place
    and are never dropped. Cutting padded text is the caller's work.

    Attributes:
        context: Greatest number of tokens.
        causal: Whether a token sees only those before it; only then cut text is exact.
    """

    context: int
    causal: bool

    def ends(self, ids: Tensor) -> Tensor:
        """The position whose token stands for the text, (C,)."""
        raise NotImplementedError

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """The one token that stands for the text, (C, 1)."""
        return self.ends(inputs)[:, None]

    def opening(self, ids: Tensor, prompter: Prompter | None = None) -> tuple[Tensor, ...]:
        """What many causal texts open with, run once for all of them.

        What stands at a position depends on nothing behind it, so the keys and values of an opening serve every text.

        Args:
            ids: Token ids of the opening, (1, S).
            prompter: It edits the opening of all texts alike, and reads nothing behind it.

        Returns:
            What enters each block, (S, D); for ``forward``'s ``after``.

        Raises:
            ValueError: If the tower is not causal.
        """
        if not self.causal:
            raise ValueError("Texts can share their opening in a causal text tower only.")
        streams: list[Tensor] = []

        def block(index: int, tokens: Tokens) -> Tokens:
            streams.append(tokens.x[0])
            return tokens if index == self.depth - 1 else self.block(index, tokens)

        tokens = self.embed(ids)
        tokens = self.enter(tokens if prompter is None else prompter.start(tokens))
        for index in range(self.depth):
            step = partial(block, index)
            tokens = step(tokens) if prompter is None else prompter.layer(index, step, tokens)
        return tuple(streams)

    def forward(
        self,
        inputs: Tensor,
        prompter: Prompter | None = None,
        *,
        pooling: Pooling = "native",
        recompute: bool = False,
        after: Sequence[Tensor] = (),
    ) -> Tensor:
        """Encode texts.

        Args:
            inputs: Token ids, (C, L).
            prompter: What edits the tokens; after an opening only tokens behind it, apart from ``start``.
            pooling: "native" alone.
            recompute: Save memory: keep one sequence per block and compute the rest again for gradients.
            after: From ``opening``: what all these texts begin with, shorter than any of them.

        Returns:
            Features, (C, E).
        """
        if not after:
            return super().forward(inputs, prompter, pooling=pooling, recompute=recompute)
        tokens, shared = self.embed(inputs), len(after[0])
        tokens = self.enter(tokens if prompter is None else prompter.start(tokens))
        tokens = Tokens(tokens.x[:, shared:], max(0, tokens.prefix - shared), tokens.count)
        whole, inputs = prompter is not None and getattr(prompter, "needs_all_outputs", True), inputs[:, shared:]
        for index, opening in enumerate(after):
            block: Callable[..., Tokens] = partial(self.block, index, beside=opening)
            if index == self.depth - 1:
                block = partial(self.last_block, inputs=inputs, pooling=pooling, whole=whole, beside=opening)
            tokens = block(tokens) if prompter is None else prompter.layer(index, block, tokens)
        return self.pool(tokens, inputs, pooling)
