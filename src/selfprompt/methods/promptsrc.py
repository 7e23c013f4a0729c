"""PromptSRC: IVLP regularised towards the frozen CLIP, with prompts averaged over the epochs."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms
from selfprompt.methods.class_texts import encode_template, fill_template, tokenize_for_tower
from selfprompt.methods.heads import unit
from selfprompt.methods.ivlp import IVLP, IVLPOptions
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class PromptSRCOptions(IVLPOptions):
    """Options of PromptSRC."""

    text_prompts: int = 4
    """Prompt tokens per block in the text tower."""
    image_prompts: int = 4
    """Prompt tokens per block in the vision tower."""
    depth: int = 9
    """Number of blocks with prompts, from the first, in each tower; all blocks of a shorter tower."""
    text_weight: float = 25.0
    """Weight of the distance of class features to the mean of 60 templates."""
    image_weight: float = 10.0
    """Weight of the distance of image features to those without prompts."""
    logits_weight: float = 1.0
    """Weight of the divergence of predictions from those of the frozen CLIP."""
    average_mean: float = 15.0
    """Epoch, from 1, with the largest weight in the average of the prompts."""
    average_std: float = 1.0
    """Standard deviation, in epochs, of the weights around it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average_std <= 0:
            raise ValueError(f"average_std must be above 0, got {self.average_std}.")


class PromptSRC(IVLP):
    """IVLP with three terms that regularise it towards the frozen CLIP, and prompts averaged over the epochs.

        loss = CE + w_t mean |t - t_frozen| + w_v mean |f - f_frozen| + w_l KL(p_frozen || p) / C

    f, t and p are unit image features, unit class features and predictions with prompts; t_frozen is the unit mean over
    60 templates, f_frozen the feature of the same view of the image, p_frozen the prediction from both. Both means are
    over all entries. The final prompts are ``sum_e w_e prompts_e`` over the ends of epochs 1..E, where w_e is
    proportional to the density of N(average_mean, average_std^2) at e and sums to 1.

    Differs from the reference code: only the prompts are averaged, in float32, not the frozen weights; a resumed run
    keeps its average.

    Source: Khattak et al. 2023 (arXiv 2307.06948), section 3.2.
    """

    Options = PromptSRCOptions
    options: PromptSRCOptions
    frozen_texts: Tensor | None

    @classmethod
    def traits_for(cls, options: IVLPOptions) -> Traits:
        return replace(super().traits_for(options), inputs="both", features_in_training_only=True)

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        self.register_buffer("frozen_texts", None, persistent=False)  # 60 texts per class, needed only in training
        for name, parameter in self.trainable().items():
            self.register_buffer(f"average_{name}", torch.zeros_like(parameter), persistent=False)

    @torch.no_grad()
    def text_targets(self) -> Tensor:
        """Return unit class features from 60 templates and the frozen text tower, (C, E); computed once."""
        if self.frozen_texts is None:
            with torch.autocast(self.ids.device.type, enabled=False):
                if self.has_descriptions:
                    self.frozen_texts = encode_template(self.backbone, templates(), self.descriptions)
                else:
                    texts = (tokenize_for_tower(self.backbone, fill_template(t, self.classes)) for t in templates())
                    self.frozen_texts = unit(torch.stack([self.text(ids) for ids, _ in texts]).mean(dim=0))
        return self.frozen_texts

    def loss(self, views: Views) -> LossTerms:
        features, texts = self.encode_images(views), self.class_features()
        with torch.no_grad():
            frozen, frozen_texts = unit(self.frozen_features(views)), self.text_targets()
            teacher = F.log_softmax(self.class_logits(frozen, frozen_texts), dim=-1)
        logits = self.class_logits(features, texts)
        divergence = F.kl_div(F.log_softmax(logits, dim=-1), teacher, log_target=True, reduction="batchmean")
        terms = {
            "ce": F.cross_entropy(logits, views.labels),
            "text": F.l1_loss(texts, frozen_texts),
            "image": F.l1_loss(features, frozen),
            "logits": divergence / len(self.classes),
        }
        weights = {
            "text": self.options.text_weight,
            "image": self.options.image_weight,
            "logits": self.options.logits_weight,
        }
        return LossTerms(terms, weights, logits.detach())

    def training_state(self) -> dict[str, Tensor]:
        """Return the averages so far."""
        return {f"average_{name}": self.get_buffer(f"average_{name}") for name in self.trainable()}

    @torch.no_grad()
    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Add the epoch's prompts to their average; after the last epoch the average replaces them."""
        weight = float(epoch_weights(epochs, self.options.average_mean, self.options.average_std)[epoch])
        for name, parameter in self.trainable().items():
            average = self.get_buffer(f"average_{name}")
            if epoch == 0:
                average.zero_()
            average.add_(parameter, alpha=weight)
            if epoch == epochs - 1:
                parameter.copy_(average)


def epoch_weights(epochs: int, mean: float, std: float) -> Tensor:
    """Return the weights of the epochs, (epochs,), float64: a normal density at 1..epochs, scaled to sum to 1."""
    steps = torch.arange(1, epochs + 1, dtype=torch.float64)
    return torch.softmax(-((steps - mean) ** 2) / (2 * std**2), dim=0)


def templates() -> list[str]:
    """Return the templates of the released code: the first 60 of CLIP's 80 templates for ImageNet."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES  # slow to import

    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES[:60]]
