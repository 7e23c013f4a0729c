"""LP++: a linear probe whose class vectors are blended with the class texts; its step sizes follow from the data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_images_per_step, check_positive
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import linear_head, unit
from selfprompt.methods.support import BATCH, balanced_parts, support_features
from selfprompt.methods.traits import Traits

AlphaGradient = Literal["current", "accumulated"]

MOMENTUM = 0.9
ALPHA_EVERY = 10  # iterations between two steps of alpha
ALPHA_START = 250.0


@dataclass(frozen=True)
class LPPPOptions:
    """Options of LP++. The number of iterations is that of the paper."""

    iterations: int = 300
    """Steps of gradient descent."""
    images_per_step: int = BATCH
    """Most images in an iteration; more images take turns. 0 reads all of them in each, as published."""
    alpha_gradient: AlphaGradient = "current"
    """Gradient of a step of alpha: that of the iteration (the paper), or the sum of all so far (the released code)."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)
        check_images_per_step(self.images_per_step)
        check_template(self.template)


class LPPP(Method[LPPPOptions]):
    """``logits_c = f . (w_c + alpha_c t_c) + b_c`` with unit features f of an image and t_c of a class text.

    There is no scale. w, b and alpha minimise the mean cross-entropy on the N training images, by gradient descent
    whose step sizes are bounds of Lipschitz constants: ``4 N / lambda_max(F^T F)`` for w and b, with momentum 0.9, and
    ``N / (4 max_c sum_i (f_i . t_c)^2)`` for alpha, at every tenth iteration. Start: w_c is the sum of the class's
    features, b is 0, and alpha_c is 250 times the mean over classes of the mean f . t_c of their own images. An
    iteration reads all images, or a part with images of all classes if there are more than ``images_per_step``; parts
    take turns. Images are seen in the evaluation view, nothing is selected, and the last iteration counts. One linear
    layer stores w + alpha t and b. Until ``prepare`` has seen data, it is random.

    Differs from the reference code: alpha follows the gradient of its iteration, where the released code never clears
    the gradient (``alpha_gradient="accumulated"``); b does not start at random; many images take turns; the released
    code keeps the iteration that is best on validation images, and derives the number of classes from that of shots, so
    that it needs as many images of each class.

    Source: Huang et al. 2024 (arXiv 2404.02285), section 3; released code
    FereshteShakeri/FewShot-CLIP-Strong-Baseline.
    """

    Options = LPPPOptions

    @classmethod
    def traits_for(cls, options: LPPPOptions) -> Traits:
        return Traits(inputs="features", needs_text=True, closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        self.head = linear_head(self.vision.features, len(self.classes), std=0.02, generator=generator)

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Descend on the training images.

        Args:
            source: Training images.
            generator: Not used: nothing is random.
            progress: Takes the number of images and iterations done so far, and of all.

        Raises:
            ValueError: If a class has no training images.
        """
        options, total = self.options, source.size + self.options.iterations
        report = progress or (lambda done, of: None)
        features, labels = support_features(self, source, 0, lambda done, _: report(done, total))
        texts = encode_template(self.backbone, options.template, self.descriptions).float().cpu()
        parts = balanced_parts(labels, options.images_per_step)
        steps = descend(unit(features[0]), labels, texts, options.iterations, options.alpha_gradient, parts=parts)
        for done, step in enumerate(steps, start=source.size + 1):
            probe = step
            report(done, total)
        self.head.weight.copy_(probe.weight + probe.alpha[:, None] * texts)
        self.head.bias.copy_(probe.bias)

    def logits(self, views: Views) -> Tensor:
        return self.head(unit(self.frozen_features(views)))


@dataclass(frozen=True)
class Probe:
    """State of the descent.

    Attributes:
        weight: w, (C, E).
        bias: b, (C,).
        alpha: Weights of the texts, (C,).
        loss: Mean cross-entropy before the step that led here.
    """

    weight: Tensor
    bias: Tensor
    alpha: Tensor
    loss: Tensor


def step_sizes(features: Tensor, texts: Tensor) -> tuple[float, float]:
    """Return the step sizes of w and b, and of alpha, from unit features, (N, E), and texts, (C, E)."""
    count = len(features)
    gram = features.t() @ features if count > features.shape[1] else features @ features.t()
    largest = float(torch.linalg.eigvalsh(gram)[-1])
    return 4 * count / largest, count / (4 * float((features @ texts.t()).square().sum(dim=0).max()))


def start(features: Tensor, labels: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first w, (C, E), and alpha, (C,); every class must have a feature."""
    sums = torch.zeros_like(texts).index_add_(0, labels, features)
    matches = (sums * texts).sum(dim=1) / torch.bincount(labels, minlength=len(texts))
    return sums, (ALPHA_START * matches.mean()).expand(len(texts))


def descend(
    features: Tensor,
    labels: Tensor,
    texts: Tensor,
    iterations: int,
    alpha_gradient: AlphaGradient = "current",
    *,
    bias: Tensor | None = None,
    parts: Sequence[Tensor] | None = None,
) -> Iterator[Probe]:
    """Yield the probe after each iteration.

    Args:
        features: Unit features, (N, E).
        labels: Every class 0..C-1 occurs, (N,).
        texts: Unit features of the classes, (C, E).
        iterations: Number of steps of w and b.
        alpha_gradient: "current" or "accumulated".
        bias: First b, (C,); zeros if None.
        parts: Indices of the images that an iteration reads, in turn; all of them if None.
    """
    rate, alpha_rate = step_sizes(features, texts)
    weight, alpha = start(features, labels, texts)
    bias = texts.new_zeros(len(texts)) if bias is None else bias
    moving_weight, moving_bias, total = (torch.zeros_like(tensor) for tensor in (weight, bias, alpha))
    batches = [(features, labels)] if parts is None else [(features[part], labels[part]) for part in parts]
    for iteration, (rows, targets) in enumerate(islice(cycle(batches), iterations), start=1):
        logs = torch.addmm(bias, rows, (weight + alpha[:, None] * texts).t()).log_softmax(dim=1)
        loss = F.nll_loss(logs, targets)
        errors = logs.exp_().div_(len(rows))  # (N, C), the gradient of the logits
        errors[torch.arange(len(rows)), targets] -= 1 / len(rows)
        slope = errors.t() @ rows  # (C, E), the gradient of w
        gradient = (slope * texts).sum(dim=1)
        total = total + gradient
        moving_weight = MOMENTUM * moving_weight + slope
        moving_bias = MOMENTUM * moving_bias + errors.sum(dim=0)
        weight, bias = weight - rate * moving_weight, bias - rate * moving_bias
        if iteration % ALPHA_EVERY == 0:
            alpha = alpha - alpha_rate * (total if alpha_gradient == "accumulated" else gradient)
        yield Probe(weight, bias, alpha, loss)
