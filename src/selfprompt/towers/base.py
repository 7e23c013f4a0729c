"""The frozen transformer as a token stream: the only block loop of the library; knows no upstream family."""

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol, Self, get_args

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfprompt.tokens import Tokens

Pooling = Literal["native", "cls", "avg", "patches", "prompts"]
"""How the final tokens become one vector; see ``VisionTower.pool``."""

Update = Tensor | Callable[[Tensor], Tensor]
"""What is added to a block's stacked projection to q, k and v: to its weight, (3D, D), or to its output, as a function
of its input, (B, L, D) -> (B, L, 3D), where the two differ (dropout of the input)."""


class Prompter(Protocol):
    """What edits the token sequence on its way through a tower.

    ``layer`` receives the block as a callable, so it can edit before and after it. It calls
    ``block(tokens)``, ``block(tokens, temperature=t)`` to divide the attention logits, or
    ``block(tokens, update=u)`` to change the attention's projections.

    Attributes:
        reach: The last text position that it reads; the bound for cutting padded text. 0 for images.
    """

    reach: int

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

    def embed(self, inputs: Tensor) -> Tokens:
        """Turn inputs into tokens, up to the place where the papers insert prompts."""
        raise NotImplementedError

    def enter(self, tokens: Tokens) -> Tokens:
        """Do what upstream still does before block 0."""
        return tokens

    def block(
        self, index: int, tokens: Tokens, *, temperature: Tensor | None = None, update: Update | None = None
    ) -> Tokens:
        """Run one block.

        Args:
            index: Which block, from 0.
            tokens: Any sequence of this tower's width.
            temperature: Divides the attention logits; a scalar. None is upstream's own block.
            update: Added to the projection to queries, keys and values; the weights themselves stay as they are.

        Raises:
            TypeError: If a temperature or an update is given and this kind of block does not take one.
        """
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
        for index in range(self.depth):
            block: Callable[..., Tokens] = partial(self.block, index)
            step = block if prompter is None else partial(prompter.layer, index, block)
            tokens = checkpoint(step, tokens, use_reentrant=False) if recompute else step(tokens)
        return self.pool(tokens, inputs, pooling)

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
        self, index: int, tokens: Tokens, *, temperature: Tensor | None = None, update: Update | None = None
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
        raise NotImplementedError

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
