"""CoOp: learned context tokens around the class names of a frozen CLIP."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import add_prompts, embed_text, names_and_sentences
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Scatter, normal_prompts


@dataclass(frozen=True)
class CoOpOptions:
    """Options of CoOp."""

    prompts: int = 16
    """Context tokens M."""
    init_text: str = ""
    """Text that initialises the context, such as "a photo of a"; M is then its number of tokens. Empty: random."""
    class_specific: bool = False
    """Whether each class has its own context; the classifier then accepts no new class names."""
    class_token_position: Literal["end", "middle", "front"] = "end"
    """Position of the class name: after the context, in its middle, or before it."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts)
        if self.init_text and self.class_specific:
            raise ValueError("init_text and class_specific exclude each other: it initialises one shared context.")


class CoOp(Method[CoOpOptions]):
    """``logits = scale cos(f, t_c)``, where t_c encodes the learned context and the name of class c.

    The context is (M, D), shared by the classes, or (C, M, D); a random one is drawn from N(0, 0.02^2).

    Source: Zhou et al. 2022 (arXiv 2109.01134), section 3.2; ``init_text``: Zhou et al. 2022 (arXiv 2203.05557).
    """

    Options = CoOpOptions
    ids: Tensor
    slots: Tensor

    @classmethod
    def traits_for(cls, options: CoOpOptions) -> Traits:
        return Traits(edits=("text",), inputs="features", needs_text=True, open_vocabulary=not options.class_specific)

    def build(self, generator: torch.Generator) -> None:
        self.context = self.init_context(generator)
        count = self.context.shape[-2]
        position, texts = self.options.class_token_position, names_and_sentences(self.descriptions)
        positions = self.register_texts(texts, add_prompts(texts.texts, count, position))
        self.register_buffer("slots", positions, persistent=False)

    def init_context(self, generator: torch.Generator) -> nn.Parameter:
        """Return the initial context: embeddings of ``init_text``, or random values."""
        if self.options.init_text:
            return nn.Parameter(embed_text(self.backbone, self.options.init_text))
        shape = (len(self.classes),) if self.options.class_specific else ()
        return normal_prompts(*shape, self.options.prompts, self.text.width, generator=generator)

    @property
    def has_shared_prefix(self) -> bool:
        """Whether all texts begin with the same tokens, which then run only once."""
        return self.text.causal and self.options.class_token_position == "end" and not self.options.class_specific

    def encode_classes(self) -> Tensor:
        if self.has_shared_prefix:
            return unit(self.encode_texts_with_shared_prefix(Scatter(self.context, self.slots[:1])))

        def encode(rows: Tensor, ids: Tensor) -> Tensor:
            own = rows if self.owners is None else self.owners[rows]
            context = self.context[own] if self.options.class_specific else self.context
            result: Tensor = self.text(ids, Scatter(context, self.slots[rows]))
            return result

        return unit(self.encode_texts(encode))

    def encode_images(self, views: Views) -> Tensor:
        """Return unit features of images from the frozen tower, (B, E)."""
        return unit(self.frozen_features(views))
