"""ProKeR: kernel ridge regression of what zero-shot CLIP lacks on the training images."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.class_rows import name_keys, rows_by_name, view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits

TRANSFERRED = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
"""beta and lambda by the number of shots."""
MAX_IMAGES = 16_000  # rows of the matrix that is solved: 2 GB in float64
MAX_SAMPLES = 8_000  # with several views of an image: seconds on a CPU


@dataclass(frozen=True)
class ProKeROptions:
    """Options of ProKeR."""

    beta: float = 0.0
    """Sharpness of the kernel; 0 takes the paper's value for the number of shots."""
    strength: float = 0.0
    """lambda, the weight of the correction and its ridge penalty in one; 0 takes the paper's value."""
    views: int = 10
    """Random views of a training image, each a sample of its own: at most 8,000 in all. 0 uses its evaluation view."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_views(self.views)
        check_template(self.template)
        for name in ("beta", "strength"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (the paper's value) or above, got {getattr(self, name)}.")


class ProKeR(Method[ProKeROptions]):
    """``logits = scale (z(f) + k(f, S) A)`` with cosines ``z(f) = f . t`` and ``k(x, y) = exp(-beta (1 - x . y))``.

    S, (N, E), are unit features of all views of the training images, Y, (N, C), their labels, one-hot, and
    ``A = (k(S, S) / lambda + I)^-1 (Y - z(S))``. So the correction is lambda times that of kernel ridge regression with
    the penalty lambda, which is both its weight and its penalty, as in the released code. Classes without images, and
    those that were not trained, have the scores of zero-shot CLIP; until ``prepare`` has seen data, all of them.

    beta and lambda are the paper's constants for 1, 2, 4, 8 and 16 shots, and for other numbers of training images a
    class those of the nearest one. They were found on ImageNet and are meant to be transferred; the paper's main
    results select both on the whole validation split of each data set instead.

    Differs from the reference code: all is multiplied by the backbone's scale, which changes no prediction.

    Source: Bendou et al. 2025 (arXiv 2501.11175), section 4; copy of the released code in omarnust/BReg-Adapter.
    """

    Options = ProKeROptions
    texts: Tensor
    support: Tensor
    values: Tensor
    beta: Tensor
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: ProKeROptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            open_vocabulary=True,
            closed_form=True,
            variable_length=("support", "values", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("support", texts.new_zeros(0, self.vision.features))
        self.register_buffer("values", texts.new_zeros(0))  # A, class by class
        self.register_buffer("keys", name_keys(self.classes).to(texts.device), persistent=False)
        self.register_buffer("known", torch.zeros(0, dtype=torch.int64, device=texts.device))
        self.register_buffer("beta", texts.new_tensor(self.options.beta))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Solve the regression on random views of the training images.

        Raises:
            ValueError: If there are more than 16,000 training images.
        """
        if source.size > MAX_IMAGES:
            raise ValueError(
                f"{self.name} solves a system with a row for each training image, at most {MAX_IMAGES:,}, "
                f"got {source.size:,}. Use fewer shots, or another method."
            )
        count = min(self.options.views, max(1, MAX_SAMPLES // source.size))
        views = view_features(self, source, count, progress)
        features, labels = unit(views.flatten(0, 1).double()), source.labels.cpu().repeat(len(views))
        transferred = transferred_constants(source.size / len(self.classes))
        beta, strength = self.options.beta or transferred[0], self.options.strength or transferred[1]
        values = regress(features, labels, self.texts.double().cpu(), beta, strength)
        self.support = features.to(self.texts)
        self.values = values.t().flatten().to(self.texts)
        self.known = self.keys.clone()
        self.beta.fill_(beta)

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super().problems_with(tensors)
        if problems or len(tensors["values"]) == len(tensors["known"]) * len(tensors["support"]):
            return problems
        return ["values must hold a number for each row of known and of support"]

    def logits(self, views: Views) -> Tensor:
        features = unit(self.frozen_features(views))
        zero_shot = self.class_logits(features, self.texts)
        if not len(self.known):
            return zero_shot
        values = self.values.view(len(self.known), len(self.support))
        values = rows_by_name(self.keys, self.known, values, values.new_zeros(len(self.keys), len(self.support)))
        return zero_shot + self.backbone.scale * kernel(features, self.support, self.beta) @ values.t()


def transferred_constants(shots: float) -> tuple[float, float]:
    """Return the paper's beta and lambda for a mean number of training images a class, in (0, inf)."""
    nearest = min(TRANSFERRED, key=lambda known: abs(math.log(known / shots)))
    return TRANSFERRED[nearest]


def kernel(features: Tensor, support: Tensor, beta: float | Tensor) -> Tensor:
    """Return exp(-beta (1 - x . y)) of unit features, (B, E) and (N, E), as (B, N)."""
    return (beta * (features @ support.t() - 1)).exp()


def regress(features: Tensor, labels: Tensor, texts: Tensor, beta: float, strength: float) -> Tensor:
    """Return A, (N, C), with columns of zeros for the classes without images.

    Args:
        features: Unit features of the training images, (N, E), float64 for a result that is exact in float32.
        labels: (N,).
        texts: Unit features of the classes, (C, E).
        beta: Sharpness of the kernel.
        strength: lambda.
    """
    targets = F.one_hot(labels, len(texts)).to(features)
    system = kernel(features, features, beta).div_(strength)
    system.diagonal().add_(1)
    solved = torch.cholesky_solve(targets - features @ texts.t(), torch.linalg.cholesky(system))
    return (solved * targets.any(dim=0)).contiguous()  # LAPACK's order is column by column
