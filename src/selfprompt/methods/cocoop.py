"""CoCoOp: CoOp whose context is shifted for each image by a small network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import add_prompts, embed_text, names_and_sentences
from selfprompt.methods.heads import linear_layer, unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, normal_prompts

TEXTS_AT_ONCE = 1024
"""Class texts encoded at once. Each image has its own text of every class, so this limits the memory."""


@dataclass(frozen=True)
class CoCoOpOptions:
    """Options of CoCoOp."""

    prompts: int = 4
    """Context tokens M."""
    init_text: str = "a photo of a"
    """Text that initialises the context; M is then its number of tokens. Empty: random."""
    reduction: int = 16
    """Ratio of the feature size to the width of the network's hidden layer."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, reduction=self.reduction)


class CoCoOp(Method[CoCoOpOptions]):
    """``logits = scale cos(f, t_c(f))``, where t_c(f) encodes the shifted context and the name of class c.

        v_m(f) = v_m + W2 relu(W1 f + b1) + b2        for each context token v_m and unit image features f

    All tokens and classes share the shift, but each image has its own, so each batch encodes B C texts.

    Source: Zhou et al. 2022 (arXiv 2203.05557), section 3.2.
    """

    Options = CoCoOpOptions
    ids: Tensor

    @classmethod
    def traits_for(cls, options: CoCoOpOptions) -> Traits:
        return Traits(edits=("text",), inputs="features", needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        if options.init_text:
            self.context = nn.Parameter(embed_text(self.backbone, options.init_text))
        else:
            self.context = normal_prompts(options.prompts, self.text.width, generator=generator)
        hidden = max(1, self.vision.features // options.reduction)
        self.network = nn.Sequential(
            linear_layer(self.vision.features, hidden, generator=generator),
            nn.ReLU(),
            linear_layer(hidden, self.text.width, generator=generator),
        )
        texts = names_and_sentences(self.descriptions)
        self.register_texts(texts, add_prompts(texts.texts, len(self.context)))

    def image_contexts(self, features: Tensor) -> Tensor:
        """Compute the contexts of images, (B, M, D), from unit features, (B, E)."""
        result: Tensor = self.context + self.network(features)[:, None]
        return result

    def encode_classes_for(self, features: Tensor) -> Tensor:
        """Compute the unit class features for each image, (B, C, E), from unit image features, (B, E)."""
        images, count = features.shape[0], len(self.ids)
        contexts = self.image_contexts(features).repeat_interleave(count, dim=0)  # (B T, M, D)
        ids = self.ids.repeat(images, 1)  # (B T, L)
        result: Tensor = unit(self.text(ids, Static(contexts[None], in_place=True))).unflatten(0, (images, count))
        return result if self.owners is None else unit(self.mean_of_texts(result))

    def logits(self, views: Views) -> Tensor:
        features = unit(self.frozen_features(views))
        if torch.compiler.is_compiling():  # a loop over chunks would fix the number of images
            return self._scores(features)
        chunks = features.split(max(1, TEXTS_AT_ONCE // len(self.ids)))
        return torch.cat([self._scores(chunk) for chunk in chunks])

    def _scores(self, features: Tensor) -> Tensor:
        """Compute the logits of unit image features, (B, E) to (B, C)."""
        cosines = torch.einsum("be,bce->bc", features, self.encode_classes_for(features))
        return self.backbone.scale * cosines + self.backbone.bias
