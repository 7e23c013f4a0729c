"""TCP: class-aware text prompts, computed from hand-written class texts and inserted into a late text block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import (
    PHOTO,
    PromptedText,
    check_template,
    encode_template,
    filled_templates,
)
from selfprompt.methods.heads import linear_layer, unit
from selfprompt.methods.traits import Traits
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.static import normal_prompts


@dataclass(frozen=True)
class TCPOptions:
    """Options of TCP."""

    prompts: int = 4
    """Context tokens M, and class-aware tokens."""
    text: str = ""
    """Text after the context, such as "{}, a type of pet."; empty: the template without its first M words."""
    template: str = PHOTO
    """Hand-written text of a class: source of the class-aware tokens, and target of the learned class features."""
    layer: int = 0
    """Block, counted from 0, before which class-aware tokens enter; 0 means at two thirds (8 of 12)."""
    reduction: int = 4
    """Ratio of the feature size to the width of the embedding's hidden layer."""
    weight: float = 8.0
    """Weight of the distance to the template."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, reduction=self.reduction)
        check_template(self.template)
        if self.text:
            check_template(self.text)
        if self.layer < 0:
            raise ValueError(f"layer must be 0 (at two thirds) or a block's number, got {self.layer}.")


@dataclass(frozen=True)
class Exchange:
    """Text prompts after SOS that class-specific prompts replace before one block.

    Attributes:
        context: Prompts at the input, (M, D).
        class_prompts: Prompts from that block on, (C, M, D).
        index: The block, at least 1.
    """

    context: Tensor
    class_prompts: Tensor
    index: int
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        return tokens.mark(len(self.context)).replace(self.context)

    def layer(self, index: int, block: Callable[[Tokens], Tokens], tokens: Tokens) -> Tokens:
        return block(tokens.replace(self.class_prompts) if index == self.index else tokens)


class TCP(Method[TCPOptions]):
    """``logits = scale cos(f, t_c)``, where t_c encodes a learned context, the name of class c, and tokens for c.

    With t_c_frozen the unit feature of class c's template, the textual knowledge embedding

        T_c = W2 qgelu(W1 t_c_frozen + b1) + b2        M tokens

    replaces the context before one block, and ``loss = CE + weight (1 - mean_c cos(t_c, t_c_frozen))``.

    Differs from the reference code: its fixed weights are options here.

    Source: Yao et al. 2024 (arXiv 2311.18231), section 3.
    """

    Options = TCPOptions
    ids: Tensor
    frozen_texts: Tensor

    @classmethod
    def traits_for(cls, options: TCPOptions) -> Traits:
        return Traits(edits=("text",), inputs="features", needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        self.layer = insertion_block(options.layer, self.text.depth)
        count, width = options.prompts, self.text.width
        self.context = normal_prompts(count, width, generator=generator)
        hidden = max(1, self.text.features // options.reduction)
        self.down = linear_layer(self.text.features, hidden, generator=generator)
        self.up = linear_layer(hidden, count * width, generator=generator)
        texts = filled_templates(
            [options.text or skip_words(options.template, count)],
            self.descriptions,
            adapt=lambda template: skip_words(template, count),
        )
        self.register_texts(texts, [PromptedText((count, text)) for text in texts.texts])
        frozen = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("frozen_texts", frozen, persistent=False)

    def class_tokens(self) -> Tensor:
        """Compute the class-aware tokens, (C, M, D)."""
        hidden = self.down(self.frozen_texts)
        result: Tensor = self.up(hidden * torch.sigmoid(1.702 * hidden)).unflatten(
            1, (self.options.prompts, self.text.width)
        )
        return result

    def encode_classes(self) -> Tensor:
        tokens = self.class_tokens()

        def encode(rows: Tensor, ids: Tensor) -> Tensor:
            own = rows if self.owners is None else self.owners[rows]
            result: Tensor = self.text(ids, Exchange(self.context, tokens[own], self.layer))
            return result

        return unit(self.encode_texts(encode))

    def encode_images(self, views: Views) -> Tensor:
        """Return unit features of images from the frozen tower, (B, E)."""
        return unit(self.frozen_features(views))

    def loss(self, views: Views) -> LossTerms:
        texts = self.class_features()
        logits = self.class_logits(self.encode_images(views), texts)
        terms = {
            "ce": F.cross_entropy(logits, views.labels),
            "text": 1 - (texts * self.frozen_texts).sum(dim=-1).mean(),
        }
        return LossTerms(terms, {"text": self.options.weight}, logits.detach())


def skip_words(template: str, count: int) -> str:
    """Return a template without its first ``count`` words, or without all before the class name if there are fewer."""
    before, name, after = template.partition("{}")
    return " ".join([*before.split()[count:], name]) + after


def insertion_block(layer: int, depth: int) -> int:
    """Return the block that the option ``layer`` names; 0 is the one at two thirds of the depth, at least block 1.

    Raises:
        ValueError: If the tower has no such block, or has only one.
    """
    index = layer or max(1, 2 * depth // 3)
    if index >= depth:
        raise ValueError(f"layer names block {index}, but the text tower has blocks 0 to {depth - 1}.")
    return index
