"""SimpleShot: the nearest class mean of frozen features, which may be centred and brought to unit length."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.heads import linear_head, unit
from selfprompt.methods.support import support_features
from selfprompt.methods.traits import Traits

Transform = Literal["UN", "L2N", "CL2N"]


@dataclass(frozen=True)
class SimpleShotOptions:
    """Options of SimpleShot."""

    transform: Transform = "CL2N"
    """UN: features as they are; L2N: of unit length; CL2N: minus the mean training feature, then of unit length."""
    pooling: str = "auto"
    """How tokens become features: auto, native, cls, avg, patches, or unprojected (before a CLIP's projection)."""
    views: int = 0
    """Random views of each training image, besides its evaluation view; 0 uses the evaluation view alone."""

    def __post_init__(self) -> None:
        check_views(self.views)


class SimpleShot(Method[SimpleShotOptions]):
    """``logits_c = 2 g . m_c - |m_c|^2``, which is ``|g|^2 - |g - m_c|^2``: the nearest class mean wins.

    g is the transformed feature of an image, m_c the mean of g over the training images of class c under the evaluation
    transform, and over their random views if ``views`` is not 0; the means are not brought to unit length. Stored are m
    as a linear layer, and the mean feature of CL2N. Until ``prepare`` has seen data, the layer is random.

    Differs from the reference code: CL2N subtracts the mean of the training images, where the paper has that of base
    classes with many images; logits are squared distances, negated, so that they are linear in g.

    Source: Wang et al. 2019 (arXiv 1911.04623), section 3.
    """

    Options = SimpleShotOptions
    mean: Tensor

    @classmethod
    def traits_for(cls, options: SimpleShotOptions) -> Traits:
        return Traits(inputs="features", pooling=options.pooling, closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        self.head = linear_head(self.feature_size, len(self.classes), std=0.02, generator=generator)
        if self.options.transform == "CL2N":
            self.register_buffer("mean", torch.zeros(self.feature_size))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Take the class means of the training images.

        Raises:
            ValueError: If a class has no training images.
        """
        features, labels = support_features(self, source, self.options.views, progress)
        rows, labels = features.flatten(0, 1), labels.repeat(len(features))
        mean, class_means = centroids(rows, labels, self.options.transform)
        if self.options.transform == "CL2N":
            self.mean.copy_(mean)
        weight, bias = nearest_mean_head(class_means)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def logits(self, views: Views) -> Tensor:
        features = self.frozen_features(views)
        mean = self.mean if self.options.transform == "CL2N" else None
        return self.head(transformed(features, self.options.transform, mean))


def transformed(features: Tensor, transform: Transform, mean: Tensor | None = None) -> Tensor:
    """Return transformed features, (N, E); CL2N subtracts the mean, (E,)."""
    if transform == "UN":
        return features
    return unit(features if mean is None else features - mean)


def centroids(features: Tensor, labels: Tensor, transform: Transform) -> tuple[Tensor, Tensor]:
    """Return the mean feature, (E,), and the means of the transformed features of each class, (C, E), both float64.

    Args:
        features: Not transformed, (N, E).
        labels: Every class 0..C-1 occurs, (N,).
        transform: UN, L2N or CL2N.
    """
    features = features.double()
    mean = features.mean(dim=0)
    rows = transformed(features, transform, mean if transform == "CL2N" else None)
    counts = torch.bincount(labels)
    sums = torch.zeros(len(counts), features.shape[1], dtype=features.dtype).index_add_(0, labels, rows)
    return mean, sums / counts[:, None]


def nearest_mean_head(class_means: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight, (C, E), and bias, (C,), of the linear scores whose largest is that of the nearest mean."""
    return 2 * class_means, -class_means.square().sum(dim=1)
