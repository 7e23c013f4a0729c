"""IVLP: independent deep prompts in both CLIP towers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import init_text_prompts, names_and_sentences
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, deep_prompts, normal_prompts


@dataclass(frozen=True)
class IVLPOptions:
    """Options of IVLP."""

    text_prompts: int = 2
    """Prompt tokens per block in the text tower."""
    image_prompts: int = 2
    """Prompt tokens per block in the vision tower."""
    depth: int = 12
    """Number of blocks with prompts, from the first, in each tower; all blocks of a shorter tower."""
    init_text: str = "a photo of a"
    """Beginning of the class texts: its first tokens initialise the text prompts, the others stay. Empty: random."""

    def __post_init__(self) -> None:
        check_positive(text_prompts=self.text_prompts, image_prompts=self.image_prompts, depth=self.depth)


class IVLP(Method[IVLPOptions]):
    """``logits = scale cos(f, t_c)``, with separate prompts, (depth, P, D), in each tower.

    Before each block up to ``depth`` its prompts replace the outputs of the previous ones; later blocks pass them on.
    The first text prompts are initialised from a text, all others from N(0, 0.02^2).

    Source: the baseline "independent V-L prompting" of Khattak et al. 2023 (MaPLe, arXiv 2210.03117), section 4.2.
    """

    Options = IVLPOptions
    ids: Tensor

    @classmethod
    def traits_for(cls, options: IVLPOptions) -> Traits:
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        texts = names_and_sentences(self.descriptions)
        written, first = init_text_prompts(
            self.backbone, texts.texts, options.init_text, options.text_prompts, generator
        )
        self.register_texts(texts, written)
        self.text_prompts = deep_prompts(first, min(options.depth, self.text.depth), generator)
        layers = min(options.depth, self.vision.depth)
        self.image_prompts = normal_prompts(layers, options.image_prompts, self.vision.width, generator=generator)

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts_with_shared_prefix(Static(self.text_prompts, in_place=True)))

    def encode_images(self, views: Views) -> Tensor:
        """Compute unit features of images with prompts, (B, E)."""
        return unit(self.vision(views.pixels, Static(self.image_prompts)))
