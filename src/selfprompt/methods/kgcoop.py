"""KgCoOp: CoOp with class features that stay close to those of a hand-written template."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.coop import CoOp, CoOpOptions


@dataclass(frozen=True)
class KgCoOpOptions(CoOpOptions):
    """Options of KgCoOp."""

    prompts: int = 4
    """Context tokens M."""
    init_text: str = "a photo of a"
    """Text that initialises the context; M is then its number of tokens. Empty: random."""
    template: str = PHOTO
    """Hand-written text of a class, whose features the learned ones stay close to."""
    weight: float = 8.0
    """Weight of the distance to the template."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template(self.template)


class KgCoOp(CoOp):
    """CoOp with ``loss = CE + weight (1 - mean_c cos(t_c, t_c_frozen))``.

    t_c are the learned class features, t_c_frozen those of the template.

    Differs from the paper, like its released code: the paper has the squared distance, which is twice this term.

    Source: Yao et al. 2023 (arXiv 2303.13283), section 3.2.
    """

    Options = KgCoOpOptions
    options: KgCoOpOptions
    frozen_texts: Tensor

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        frozen = encode_template(self.backbone, self.options.template, self.descriptions)
        self.register_buffer("frozen_texts", frozen, persistent=False)

    def loss(self, views: Views) -> LossTerms:
        texts = self.class_features()
        logits = self.class_logits(self.encode_images(views), texts)
        terms = {
            "ce": F.cross_entropy(logits, views.labels),
            "text": 1 - (texts * self.frozen_texts).sum(dim=-1).mean(),
        }
        return LossTerms(terms, {"text": self.options.weight}, logits.detach())
