"""VPT on CLIP: prompts in the vision tower, and hand-written class texts as the classifier."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, normal_prompts


@dataclass(frozen=True)
class VPTCLIPOptions:
    """Options of VPT on CLIP."""

    prompts: int = 8
    """Prompt tokens (per block, if deep)."""
    deep: bool = True
    """Whether every block has prompts, or only the first."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts)
        check_template(self.template)


class VPTCLIP(Method[VPTCLIPOptions]):
    """``logits = scale cos(f, t_c)``, with image prompts, (1, P, D) or (depth, P, D), and frozen t_c.

    Deep prompts replace those of the previous block. All are drawn from N(0, 0.02^2).

    Source: Jia et al. 2022 (arXiv 2203.12119), as the vision-only baseline of Khattak et al. 2023 (MaPLe,
    arXiv 2210.03117), section 4.2.
    """

    Options = VPTCLIPOptions
    texts: Tensor

    @classmethod
    def traits_for(cls, options: VPTCLIPOptions) -> Traits:
        return Traits(edits=("image",), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        layers = self.vision.depth if options.deep else 1
        self.prompts = normal_prompts(layers, options.prompts, self.vision.width, generator=generator)
        texts = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, Static(self.prompts)))

    def class_vectors(self) -> Tensor:
        return self.texts
