"""Zero-shot CLIP: class names in hand-written templates, without training."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class ZeroShotOptions:
    """Options of zero-shot CLIP."""

    template: str = PHOTO
    """Text of a class; {} is the class name."""
    ensemble: Literal["none", "simple", "full"] = "none"
    """Average over CLIP's 7 (simple) or 80 (full) ImageNet templates instead of the template."""

    def __post_init__(self) -> None:
        check_template(self.template)


class ZeroShot(Method[ZeroShotOptions]):
    """``logits = scale cos(f, t_c)``; both towers are frozen.

    Ensembles average the unit features of their templates and normalise the mean.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.
    """

    Options = ZeroShotOptions
    texts: Tensor

    @classmethod
    def traits_for(cls, options: ZeroShotOptions) -> Traits:
        return Traits(inputs="features", needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        templates = [options.template] if options.ensemble == "none" else ensemble(options.ensemble)
        if len(templates) == 1 or self.has_descriptions:
            texts = encode_template(self.backbone, templates, self.descriptions)
        else:  # a template at a time, which holds the texts of one template in memory
            features = [encode_template(self.backbone, template, self.descriptions) for template in templates]
            texts = unit(torch.stack(features).mean(dim=0))
        self.register_buffer("texts", texts, persistent=False)

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.frozen_features(views))

    def class_vectors(self) -> Tensor:
        return self.texts


def ensemble(size: Literal["simple", "full"]) -> list[str]:
    """Return CLIP's 7 or 80 templates for ImageNet."""
    import open_clip  # slow to import

    templates = open_clip.SIMPLE_IMAGENET_TEMPLATES if size == "simple" else open_clip.OPENAI_IMAGENET_TEMPLATES
    return [template("{}") for template in templates]
