"""A frozen transformer as a stream of tokens: the only block loop of the library, whichever library built the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.block import BlockParts, QKVDelta, Weights, attention_weights, pick, run_block
from selfprompt.models.text_layout import TextLayout
from selfprompt.models.tokens import Tokens

Pooling = Literal["native", "cls", "avg", "patches", "prompts", "unprojected"]
"""How the final tokens become one vector; see ``VisionTower.pool``."""


class Prompter(Protocol):
    """Edits the token sequence on its way through a tower.

    ``layer`` receives the block as a callable, so it can edit the tokens before and after it. It calls
    ``block(tokens)``, ``block(tokens, temperature=t)`` to divide the attention logits, ``block(tokens, qkv_delta=d)``
    to change the attention's projections, ``block(tokens, weights=w)`` to replace weights and biases, or
    ``block(tokens, extra_kv=p)`` for prompts that are attended to and give no output.
    """

    @property
    def needs_all_outputs(self) -> bool:
        """Whether it reads or edits the output of blocks; if not, the last block computes the pooled tokens alone.

        A prompter without this attribute counts as one that does.
        """

    def start(self, tokens: Tokens) -> Tokens:
        """Insert prompts, before ``Tower.enter``."""

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        """Run block ``index`` and edit the tokens around it."""


@dataclass(frozen=True)
class NoPrompts:
    """The prompter that changes nothing."""

    needs_all_outputs: bool = False

    def start(self, tokens: Tokens) -> Tokens:
        """Return the tokens as they are."""
        return tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        """Run the block."""
        return block(tokens)


class Tower(nn.Module):
    """A frozen transformer, cut into embed, enter, block and pool.

    A tower always stays in eval mode: dropout and drop path of a frozen backbone are off. An adapter freezes the
    model that it wraps, in place.

    Attributes:
        depth: Number of blocks.
        width: Channels per token, D.
        features: Size of the pooled output, E.
    """

    __call__: Callable[..., Tensor]  # PyTorch declares Any
    depth: int
    width: int
    features: int

    def __init__(self) -> None:
        super().__init__()
        self._derived: dict[str, Any] = {}

    def forward(
        self,
        inputs: Tensor,
        prompter: Prompter | None = None,
        *,
        pooling: Pooling = "native",
        shared_prefix: Sequence[Tensor] = (),
    ) -> Tensor:
        """Encode a batch.

        Args:
            inputs: Images, (B, 3, H, W), normalised, or token ids, (C, L).
            prompter: Edits the tokens; None for the backbone's own encoding.
            pooling: How the final tokens become features; texts have "native" and "unprojected" alone.
            shared_prefix: Of texts, from ``TextTower.shared_prefix``: what all of them begin with, shorter than each.
                The prompter's ``layer`` then edits only the tokens behind it.

        Returns:
            Features, (B, E) or (C, E).
        """
        prompter = NoPrompts() if prompter is None else prompter
        tokens = self.enter(prompter.start(self.embed(inputs)))
        if shared_prefix:
            tokens, inputs = _behind(len(shared_prefix[0]), tokens, inputs)
        for index in range(self.depth):
            block: Callable[..., Tokens] = partial(self.block, index)
            if index == self.depth - 1:
                whole = getattr(prompter, "needs_all_outputs", True)
                block = partial(self.last_block, inputs=inputs, pooling=pooling, whole=whole)
            if shared_prefix:
                block = partial(block, extra_kv=shared_prefix[index])
            tokens = prompter.layer(index, block, tokens)
        return self.pool(tokens, inputs, pooling)

    def embed(self, inputs: Tensor) -> Tokens:
        """Turn inputs into tokens, up to the point where the papers insert prompts."""
        raise NotImplementedError

    def enter(self, tokens: Tokens) -> Tokens:
        """Apply what upstream does between there and block 0."""
        return tokens

    def block(
        self,
        index: int,
        tokens: Tokens,
        *,
        temperature: Tensor | None = None,
        qkv_delta: QKVDelta | None = None,
        weights: Weights | None = None,
        extra_kv: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tokens:
        """Run one block.

        Args:
            index: Number of the block, from 0.
            tokens: Any sequence of this tower's width.
            temperature: Divides the attention logits; a scalar.
            qkv_delta: Added to the projection to queries, keys and values; the weights themselves stay as they are.
            weights: Used in place of the block's own of the same names and shapes (see ``block_weights``).
            extra_kv: Tokens that are attended to and give no output, (P, D) or (B, P, D); a causal text tower places
                them before the others.
            rows: Compute these tokens alone, (R,) or (B, R), in this order; prefix and count of the result stay those
                of ``tokens``.

        Raises:
            TypeError: If temperature, qkv_delta or weights is given and only upstream can run this kind of block.
            ValueError: If weights has a name that this block does not have.
        """
        parts = self.block_parts(index, weights)
        extra_kv = None if extra_kv is None else extra_kv.to(tokens.x.dtype)
        before = 0 if extra_kv is None else extra_kv.shape[-2]
        if parts is not None:
            mask = self._mask(before, tokens, rows)
            x = run_block(
                parts, tokens.x, mask, temperature=temperature, qkv_delta=qkv_delta, extra_kv=extra_kv, rows=rows
            )
            return tokens._replace(x=x)
        if temperature is not None or qkv_delta is not None or weights is not None:
            raise TypeError(f"Changing a block {self.requirement(index)}; use a method that leaves it alone.")
        x = tokens.x
        if extra_kv is not None:
            x = torch.cat([extra_kv.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.upstream_block(index, x, self.attention_mask(0, x.shape[1]))[:, before:]
        return tokens._replace(x=x if rows is None else pick(x, rows))

    def last_block(
        self, tokens: Tokens, inputs: Tensor, pooling: Pooling, *, whole: bool = False, **changes: Any
    ) -> Tokens:
        """Run the last block, computing only the tokens that ``pool`` reads.

        Args:
            tokens: The input of the last block.
            inputs: The tower's inputs.
            pooling: How the outputs become features.
            whole: Compute all tokens.
            changes: temperature, qkv_delta, weights and extra_kv, as in ``block``.
        """
        rows = None if whole else self.pooled_rows(tokens, inputs, pooling)
        outputs = self.block(self.depth - 1, tokens, rows=rows, **changes)
        return outputs if rows is None else Tokens(outputs.x, min(tokens.prefix, outputs.x.shape[1]))

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts | None:
        """Return the parts of a block for ``run_block``, some with other weights; None if only upstream can run it."""
        raise NotImplementedError

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights and biases of a block that ``block`` can replace, by the names of ``Weights``.

        Raises:
            TypeError: If only upstream can run this kind of block.
        """
        raise NotImplementedError

    def upstream_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run upstream's own block, (B, L, D) -> (B, L, D)."""
        raise NotImplementedError

    def requirement(self, index: int) -> str:
        """Return the end of the message that refuses a block: "needs timm's plain Block, got ..."."""
        raise NotImplementedError

    def derived(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what was computed from the frozen weights under this name before, or compute and keep it."""
        if name not in self._derived:
            self._derived[name] = compute()
        return self._derived[name]

    def attention_mask(self, before: int, length: int) -> Tensor | None:
        """Return the mask of ``length`` tokens that attend to ``before`` earlier tokens and to themselves.

        Returns:
            What is added to the attention logits, (length, before + length) or (heads, length, before + length); None
            if every token sees all.
        """
        return None

    def _mask(self, before: int, tokens: Tokens, rows: Tensor | None) -> Tensor | None:
        """Return what is added to the attention logits of some rows, padding included; see ``run_block``."""
        mask = self.attention_mask(before, tokens.x.shape[1])
        if mask is not None and rows is not None:
            mask = mask.view(-1, *mask.shape[-2:])[:, rows].transpose(0, 1)  # (B, 1 or heads, R, P + L)
        if tokens.padding is None:
            return mask
        hidden = F.pad(tokens.padding, (before, 0))[:, None, None]  # (B, 1, 1, P + L)
        keys = torch.zeros_like(hidden, dtype=tokens.x.dtype).masked_fill(hidden, float("-inf"))
        return keys if mask is None else mask + keys

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """Return the indices of the tokens that ``pool`` reads, (R,) or (B, R); None for all."""
        raise NotImplementedError

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: Pooling = "native") -> Tensor:
        """Turn the output of the last block into features, (B, E)."""
        raise NotImplementedError

    def facts(self) -> dict[str, object]:
        """Return what was built, apart from the weights: everything that changes the output, as JSON values."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever ``mode`` is."""
        return super().train(False)

    def freeze(self) -> None:
        """Turn off the weights' gradients and switch to eval mode; each adapter's constructor ends with this."""
        self.requires_grad_(False)
        self.eval()


def _behind(count: int, tokens: Tokens, ids: Tensor) -> tuple[Tokens, Tensor]:
    """Return texts without their first ``count`` tokens."""
    padding = None if tokens.padding is None else tokens.padding[:, count:]
    return Tokens(tokens.x[:, count:], max(0, tokens.prefix - count), tokens.count, padding), ids[:, count:]


class VisionTower(Tower):
    """A frozen image transformer.

    Attributes:
        image_size: Height and width of the input images, in pixels.
        patch_size: Height and width of a patch, in pixels.
        prefix: Number of CLS and register tokens.
        class_token: Whether token 0 is a class token.
        unprojected_features: Size of the features of the pooling "unprojected".
        has_blocks: Whether prompters can edit its tokens and blocks; if not, only its features are known.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    prefix: int
    class_token: bool
    unprojected_features: int
    has_blocks = True

    def patches(self, images: Tensor) -> Tensor:
        """Embed the patches, without prefix and position embedding, (B, N, D)."""
        raise NotImplementedError

    def attention(
        self,
        index: int,
        tokens: Tokens,
        *,
        temperature: Tensor | None = None,
        qkv_delta: QKVDelta | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """Return the attention weights of a block from its input; for analysis only, ``block`` does not use this.

        Args:
            index: Number of the block, from 0.
            tokens: The input of the block.
            temperature: As given to the block.
            qkv_delta: As given to the block.
            weights: As given to the block.

        Returns:
            (B, heads, L, L); the last dimension runs over the keys and sums to 1.

        Raises:
            TypeError: If the block's attention is not the softmax of scaled products.
        """
        parts = self.block_parts(index, weights)
        if parts is None:
            raise TypeError(f"Looking at the attention {self.requirement(index)}.")
        return attention_weights(parts, tokens.x, temperature, qkv_delta)

    @property
    def native_prefix(self) -> bool:
        """Whether upstream's own features read the prefix alone."""
        raise NotImplementedError

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """Return the prefix where a class token is pooled, all tokens but the prompts where patches are."""
        if pooling in ("avg", "prompts"):
            return None
        rows = torch.arange(tokens.x.shape[1], device=tokens.x.device)
        if pooling == "cls" or (pooling in ("native", "unprojected") and self.native_prefix):
            return rows[: tokens.prefix]
        return torch.cat([rows[: tokens.prefix], rows[tokens.prefix + tokens.count :]]) if tokens.count else None

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: Pooling = "native") -> Tensor:
        """Turn the output of the last block into features.

        Args:
            tokens: Output of the last block.
            inputs: Not used for images.
            pooling: "native": without the prompts, exactly upstream's features.
                "cls": final norm of the class token.
                "avg": mean over prompts and patches, then the final norm.
                "patches": as "avg", without the prompts. "prompts": as "avg", prompts only.
                "unprojected": as "native", before the projection of a CLIP.
                A CLIP that normalises before it averages keeps that order, and its projection.

        Returns:
            Features, (B, E).

        Raises:
            ValueError: For an unknown pooling, "cls" without a class token, or "prompts" without prompts.
        """
        if pooling == "unprojected":
            return self._pool_native(tokens.others())
        if pooling == "native":
            return self.project(self._pool_native(tokens.others()))
        return self.project(self._pool_mean(self._rows(tokens, pooling)))

    def set_image_size(self, size: int) -> str:
        """Take square images of another size from now on; call it at most once, before anything is computed.

        Positions are resampled from the grid that the weights were read with (bicubic, with antialiasing), rotary ones
        are computed anew; all other weights stay as they are.

        Args:
            size: Height and width in pixels.

        Returns:
            A remark for the user, or an empty text.

        Raises:
            ValueError: If the size is not a multiple of the patch size, or belongs to the weights.
        """
        raise NotImplementedError

    def check_pooling(self, pooling: Pooling) -> None:
        """Raise ValueError for a pooling that this tower does not have, whatever the images and prompts."""
        if pooling == "cls" and not self.class_token:
            raise ValueError("Pooling 'cls' needs a class token, and this backbone has none; use 'avg'.")

    def unprojected_prompts(self, tokens: Tokens) -> Tensor:
        """Pool the output of the last block as "prompts" does, but before the projection of a CLIP: (B, U)."""
        return self._pool_mean(self._rows(tokens, "prompts"))

    def project(self, pooled: Tensor) -> Tensor:
        """Apply what follows upstream's pooling and final norm: (B, U) -> (B, E)."""
        raise NotImplementedError

    def projection(self) -> Tensor:
        """Return the matrix of ``project``, (U, E): "unprojected" features times it are the "native" ones.

        Raises:
            ValueError: If ``project`` is not the product with one matrix.
        """
        raise ValueError("A CLIP is needed whose pooled image features are multiplied by one matrix and nothing else.")

    def feature_size(self, pooling: Pooling) -> int:
        """Return the size of the features of a pooling: E, or U of the "unprojected" ones."""
        return self.unprojected_features if pooling == "unprojected" else self.features

    def _pool_native(self, x: Tensor) -> Tensor:
        """Apply upstream's own pooling and final norm, (B, prefix + N, D) -> (B, U)."""
        raise NotImplementedError

    def _pool_mean(self, rows: Tensor) -> Tensor:
        """Apply mean over rows and final norm: (B, R, D) -> (B, U)."""
        raise NotImplementedError

    def _rows(self, tokens: Tokens, pooling: Pooling) -> Tensor:
        """Return the tokens that a pooling averages, (B, R, D)."""
        self.check_pooling(pooling)
        if pooling == "cls":
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
    """A frozen text transformer over token ids (C, L) with L up to ``context``.

    Text prompts occupy real positions: ``enter`` adds position embeddings, so prompts replace placeholder tokens and
    are never dropped. Cutting off padding is up to the caller.

    Attributes:
        context: Greatest number of tokens.
        causal: Whether a token attends only to those before it.
        layout: Where the words of a text stand, and what the tower reads of it.
    """

    context: int
    causal: bool
    layout: TextLayout

    def projection(self) -> Tensor:
        """Return the last matrix, (U, E): "unprojected" features times it are the "native" ones.

        Raises:
            ValueError: If the features are not the product with one matrix.
        """
        raise ValueError("A CLIP is needed whose pooled text features are multiplied by one matrix and nothing else.")

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor | None:
        """Return the position of the one token that represents each text, (C, 1); None if all do."""
        positions = self.layout.read_positions(inputs)
        return None if positions is None else positions[:, None]

    def shared_prefix(self, ids: Tensor, prompter: Prompter | None = None) -> tuple[Tensor, ...]:
        """Encode the first tokens of many causal texts once for all of them.

        In a causal tower a token depends on nothing behind it, so the prefix has the same keys and values in each text.

        Args:
            ids: Token ids of the prefix, (1, S).
            prompter: Edits the prefix in the same way in each text, and reads nothing behind it.

        Returns:
            The input of each block, (S, D); for the argument ``shared_prefix`` of ``forward``.

        Raises:
            ValueError: If the tower is not causal.
        """
        if not self.causal:
            raise ValueError("Texts can share a prefix in a causal text tower only.")
        streams: list[Tensor] = []

        def block(index: int, tokens: Tokens, **changes: Any) -> Tokens:
            streams.append(tokens.x[0])
            return tokens if index == self.depth - 1 else self.block(index, tokens, **changes)

        prompter = NoPrompts() if prompter is None else prompter
        tokens = self.enter(prompter.start(self.embed(ids)))
        for index in range(self.depth):
            tokens = prompter.layer(index, partial(block, index), tokens)
        return tuple(streams)
