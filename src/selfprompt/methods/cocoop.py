"""CoCoOp: CoOp whose context is moved by each image, through a small network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import add_placeholders, check_placeholders, embed_text, tokenize_for_tower
from selfprompt.methods.heads import linear_layer, unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, normal_prompts

TEXTS_AT_ONCE = 1024
"""Class texts that are encoded together; an image needs one of each class, so this bounds the memory."""


@dataclass(frozen=True)
class CoCoOpOptions:
    """Options of CoCoOp."""

    prompts: int = 4
    """Context tokens M."""
    init_text: str = "a photo of a"
    """Start from this text; then M is its number of tokens. Empty starts at random."""
    reduction: int = 16
    """How many times narrower than an image feature the network's hidden layer is."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, reduction=self.reduction)


class CoCoOp(Method[CoCoOpOptions]):
    """``logits = scale cos(f, t_c(f))``, where t_c(f) encodes the context moved by the image, and the name of class c.

        v_m(f) = v_m + W2 relu(W1 f + b1) + b2        for each context token v_m, f of length 1

    The movement is the same for all tokens and classes, and another one for each image, so that all classes are encoded
    for each image: B C texts a batch.

    Source: Zhou et al. 2022 (arXiv 2203.05557), section 3.2.
    """

    Options = CoCoOpOptions
    ids: Tensor

    @classmethod
    def traits_for(cls, options: CoCoOpOptions) -> Traits:
        return Traits(inputs="features", needs_text=True, open_vocabulary=True)

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
        count = len(self.context)
        self.register_buffer(
            "ids", tokenize_for_tower(self.backbone, add_placeholders(self.classes, count)), persistent=False
        )
        check_placeholders(self.ids, 1 + torch.arange(count, device=self.ids.device).expand(len(self.ids), -1))

    def image_contexts(self, features: Tensor) -> Tensor:
        """The contexts that images ask for, (B, M, D), from unit features, (B, E)."""
        return self.context + self.network(features)[:, None]

    def encode_classes_for(self, features: Tensor) -> Tensor:
        """Unit features of the classes as images see them, (B, C, E), from unit features of images, (B, E)."""
        images, classes = features.shape[0], len(self.ids)
        contexts = self.image_contexts(features).repeat_interleave(classes, dim=0)  # (B C, M, D)
        ids = self.ids.repeat(images, 1)  # (B C, L)
        return unit(self.text(ids, Static(contexts[None], in_place=True))).unflatten(0, (images, classes))

    def logits(self, views: Views) -> Tensor:
        features = unit(self.frozen_features(views))
        if torch.compiler.is_compiling():  # a loop over parts would fix the number of images
            return self._scores(features)
        parts = features.split(max(1, TEXTS_AT_ONCE // len(self.ids)))
        return torch.cat([self._scores(part) for part in parts])

    def _scores(self, features: Tensor) -> Tensor:
        """Logits of unit image features, (B, E) to (B, C)."""
        cosines = torch.einsum("be,bce->bc", features, self.encode_classes_for(features))
        return self.backbone.scale * cosines + self.backbone.bias
