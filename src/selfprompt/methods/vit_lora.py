"""LoRA in a vision transformer, under a head that starts as the logistic regression on frozen features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import linear_head
from selfprompt.methods.softmax_regression import ONE_SHOT, cross_validated, logistic_regression
from selfprompt.methods.support import check_all_classes, standardisation
from selfprompt.methods.traits import Traits
from selfprompt.prompts.low_rank import LowRankUpdates
from selfprompt.prompts.prototypes import BATCH_SIZE


@dataclass(frozen=True)
class ViTLoRAOptions:
    """Options of LoRA in a vision transformer."""

    rank: int = 4
    """Rank of each update."""
    alpha: float = 1.0
    """Updates are scaled by alpha / sqrt(rank)."""
    dropout: float = 0.0
    """Dropout on the input of the updates, in training."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg or patches."""

    def __post_init__(self) -> None:
        check_positive(rank=self.rank)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")


class ViTLoRA(Method[ViTLoRAOptions]):
    """``logits = W (f - mean) / std + b`` from a tower whose q, k and v projections have low-rank updates.

    ``prepare`` solves logistic regression on the standardised frozen features of the training images, with the penalty
    of the method ``logistic``; W and b start there and are trained with the updates, which start at zero. So the first
    step is that of the best linear classifier, and the updates do not have to wait for a head. A constant channel has
    no weight.

    Differs from the reference code: there is none. See docs/ours.md.
    """

    Options = ViTLoRAOptions
    mean: Tensor
    factor: Tensor

    @classmethod
    def traits_for(cls, options: ViTLoRAOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        scale = options.alpha / options.rank**0.5
        self.updates = LowRankUpdates(
            self.vision, options.rank, scale=scale, dropout=options.dropout, generator=generator
        )
        self.head = linear_head(self.feature_size, len(self.classes), std=0.02, generator=generator)
        self.register_buffer("mean", torch.zeros(self.feature_size))
        self.register_buffer("factor", torch.ones(self.feature_size))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Solve the regression on the evaluation views of the training images.

        Raises:
            ValueError: If a class has no training images.
        """
        check_all_classes(self, source)
        features, labels = self.plain_features(source, progress).cpu(), source.labels.cpu()
        mean, factor = standardisation(features.double())
        strength, start = ONE_SHOT / features.shape[1], None
        if int(torch.bincount(labels).max()) > 1:
            strength, start = cross_validated(features, labels)
        weight, bias = logistic_regression(features, labels, strength, start)
        self.selected = {"inverse_penalty": strength}
        self.mean.copy_(mean)
        self.factor.copy_(factor)
        self.head.bias.copy_(bias + weight @ mean)
        self.head.weight.copy_(torch.where(factor > 0, weight / factor, 0.0))

    def plain_features(self, source: TrainingSource, progress: Callable[[int, int], None] | None) -> Tensor:
        """Return the features of all images in the frozen tower, (N, E)."""
        plain, weight, features = source.deterministic(), next(self.vision.parameters()), []
        for start in range(0, source.size, BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, source.size))
            features.append(self.vision(plain.batch(rows).to(weight.device, weight.dtype), pooling=self.pooling))
            if progress:
                progress(rows.stop, source.size)
        return torch.cat(features)

    def logits(self, views: Views) -> Tensor:
        features = self.vision(views.pixels, self.updates, pooling=self.pooling)
        return self.head((features - self.mean) * self.factor)
