"""ProGrad: CoOp with gradients that do not conflict with zero-shot CLIP."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms
from selfprompt.methods.class_texts import PHOTO, check_template, embed_text, encode_template
from selfprompt.methods.coop import CoOp, CoOpOptions


@dataclass(frozen=True)
class ProGradOptions(CoOpOptions):
    """Options of ProGrad."""

    init_text: str = ""
    """Text that initialises the last context tokens, the others being zero (as released). Empty: random."""
    template: str = PHOTO
    """Text of a class for zero-shot CLIP, the teacher."""
    temperature: float = 1.0
    """Temperature T that divides the logits of student and teacher in their comparison."""
    strength: float = 1.0
    """Fraction lambda of the conflict that is removed from the gradient; 0 is CoOp."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template(self.template)
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}.")
        if self.strength < 0:
            raise ValueError(f"strength must be 0 (CoOp) or more, got {self.strength}.")


class ProGrad(CoOp):
    """CoOp with the gradient of the cross-entropy, without its component against zero-shot CLIP.

    With g_d the gradient of the cross-entropy, g_g that of ``T^2 KL(teacher || student)`` and u = g_g / |g_g|, the
    gradient of a tensor is

        g_d                          if g_d . u >= 0
        g_d - lambda (g_d . u) u     otherwise

    The KL term has weight 0 in the loss: ``loss().total`` is the cross-entropy.

    Differs from the reference code: ``init_text`` is counted in tokens, not words; the KL divergence replaces the soft
    cross-entropy, which has the same gradient; a zero gradient g_g changes nothing.

    Source: Zhu et al. 2023 (arXiv 2205.14865), section 3.2.
    """

    Options = ProGradOptions
    options: ProGradOptions
    frozen_texts: Tensor

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        frozen = encode_template(self.backbone, self.options.template, self.descriptions)
        self.register_buffer("frozen_texts", frozen, persistent=False)

    def init_context(self, generator: torch.Generator) -> nn.Parameter:
        text, count = self.options.init_text, self.options.prompts
        if not text:
            return super().init_context(generator)
        start = embed_text(self.backbone, text)
        if len(start) > count:
            raise ValueError(f"init_text {text!r} is {len(start)} tokens, but there are {count} prompts.")
        return nn.Parameter(F.pad(start, (0, 0, count - len(start), 0)))

    def loss(self, views: Views) -> LossTerms:
        features = self.encode_images(views)
        logits = self.class_logits(features, self.class_features())
        temperature = self.options.temperature
        student, teacher = (
            F.log_softmax(scores / temperature, dim=-1)
            for scores in (logits, self.class_logits(features, self.frozen_texts))
        )
        divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
        terms = {"ce": F.cross_entropy(logits, views.labels), "kl": temperature**2 * divergence}
        return LossTerms(terms, {"kl": 0.0}, logits.detach())

    def set_gradients(self, terms: LossTerms, mean: Callable[[Tensor], Tensor]) -> None:
        """Set the projected gradient of each parameter; gradients are averaged over the processes first.

        Args:
            terms: Returned by ``loss``, with their graph.
            mean: Averages a tensor over the processes.
        """
        parameters = list(self.trainable().values())
        domain = torch.autograd.grad(terms.terms["ce"], parameters, retain_graph=True)
        general = torch.autograd.grad(terms.terms["kl"], parameters)
        for parameter, pair in zip(parameters, zip(domain, general, strict=True), strict=True):
            average_domain, average_general = mean(torch.stack(pair))
            parameter.grad = without_conflict(average_domain, average_general, self.options.strength)


def without_conflict(domain: Tensor, general: Tensor, strength: float = 1.0) -> Tensor:
    """Return a gradient without its component against another one.

    Args:
        domain: Gradient to follow, any shape.
        general: Gradient that must not be opposed, same shape; a zero gradient is never opposed.
        strength: Fraction of the conflict to remove; with 1 the result never opposes ``general``.
    """
    direction = F.normalize(general.flatten(), dim=0).view_as(general)
    conflict = (domain * direction).sum().clamp(max=0)
    return domain - strength * conflict * direction
