"""MaPLe: deep text prompts, and image prompts computed from them by linear layers."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import init_text_prompts, names_and_sentences
from selfprompt.methods.heads import linear_layer, unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, deep_prompts


@dataclass(frozen=True)
class MaPLeOptions:
    """Options of MaPLe."""

    prompts: int = 2
    """Prompt tokens per block in each tower."""
    depth: int = 9
    """Number of blocks with prompts, from the first; at most those of the shorter tower."""
    init_text: str = "a photo of a"
    """Beginning of the class texts: its first tokens initialise the text prompts, the others stay. Empty: random."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, depth=self.depth)


class MaPLe(Method[MaPLeOptions]):
    """``logits = scale cos(f, t_c)``; block j has text prompts P_j, (P, D_text), and image prompts P_j W_j^T + b_j.

    Gradients of both towers reach the text prompts, (depth, P, D_text). The first ones are initialised from a text, the
    others from N(0, 0.02^2). Before each block up to ``depth`` its prompts replace the outputs of the previous ones.

    The coupling layers have PyTorch's initialisation; those after the first block start equal, as in the released code
    (the paper does not say).

    Source: Khattak et al. 2023 (arXiv 2210.03117), section 3.2.
    """

    Options = MaPLeOptions
    ids: Tensor

    @classmethod
    def traits_for(cls, options: MaPLeOptions) -> Traits:
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        layers = min(options.depth, self.text.depth, self.vision.depth)
        texts = names_and_sentences(self.descriptions)
        written, first = init_text_prompts(self.backbone, texts.texts, options.init_text, options.prompts, generator)
        self.register_texts(texts, written)
        self.text_prompts = deep_prompts(first, layers, generator)
        start, further = (linear_layer(self.text.width, self.vision.width, generator=generator) for _ in range(2))
        self.couplings = nn.ModuleList([start, *(copy.deepcopy(further) for _ in range(layers - 1))])

    def image_prompts(self) -> Tensor:
        """Compute the image prompts from the text prompts, (depth, P, D_vision)."""
        pairs = zip(self.couplings, self.text_prompts, strict=True)
        return torch.stack([couple(prompts) for couple, prompts in pairs])

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts_with_shared_prefix(Static(self.text_prompts, in_place=True)))

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, Static(self.image_prompts())))
