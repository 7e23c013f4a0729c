"""LN-tuning: the gains and biases of the layer norms in the blocks, of both CLIP towers or of a ViT with a head."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import PHOTO, check_template, filled_templates
from selfprompt.methods.heads import linear_head, unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.tuned_weights import NORMS, TunedWeights


@dataclass(frozen=True)
class LNTuningOptions:
    """Options of LN-tuning."""

    head: Literal["text", "linear"] = "text"
    """text: both towers of a CLIP are tuned, and class texts are the classifier; linear: the vision tower of any
    backbone is tuned together with a linear head."""
    template: str = PHOTO
    """Text of a class; {} is the class name. Not used with a linear head."""
    pooling: str = "auto"
    """Pooling of the tokens with a linear head: auto, native, cls, avg or patches."""

    def __post_init__(self) -> None:
        check_template(self.template)


class LNTuning(Method[LNTuningOptions]):
    """``logits = scale cos(f, t_c)``, or ``W f + b``, with tuned gains and biases of both layer norms of every block.

    The norms outside the blocks (before the first, after the last) stay as they are. The frozen weights are not
    changed; the tuned ones are used in their place (``TunedWeights``).

    Source: as the first stage of Farina et al. 2025 (2SFS, arXiv 2503.11609), section 4; the linear head is ours.
    """

    Options = LNTuningOptions
    tuned: ClassVar[tuple[str, ...]] = NORMS

    @classmethod
    def traits_for(cls, options: LNTuningOptions) -> Traits:
        if options.head == "linear":
            return Traits(edits=("image",), pooling=options.pooling)
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        self.image_weights = TunedWeights(self.vision, self.tuned)
        if self.options.head == "linear":
            self.head = linear_head(self.feature_size, len(self.classes), std=0.02, generator=generator)
            return
        self.text_weights = TunedWeights(self.text, self.tuned)
        self.register_texts(filled_templates([self.options.template], self.descriptions))

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts_with_shared_prefix(self.text_weights, throughout=True))

    def image_features(self, views: Views) -> Tensor:
        """Return features of images from the tuned tower, not normalised, (B, E)."""
        return self.vision(views.pixels, self.image_weights, pooling=self.pooling)

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.image_features(views))

    @property
    def compares_vectors(self) -> bool:
        return self.options.head != "linear"

    def logits(self, views: Views) -> Tensor:
        return super().logits(views) if self.compares_vectors else self.head(self.image_features(views))
