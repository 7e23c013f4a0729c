"""Logistic regression on standardised frozen features, its penalty selected by cross-validation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.heads import linear_head
from selfprompt.methods.softmax_regression import ONE_SHOT, cross_validated, logistic_regression
from selfprompt.methods.support import support_features
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class LogisticOptions:
    """Options of logistic regression."""

    inverse_penalty: float = 0.0
    """C, the inverse of the L2 penalty; 0 selects it by cross-validation, or is 10 / width at one shot."""
    pooling: str = "auto"
    """How tokens become features: auto, native, cls, avg, patches, or unprojected (before a CLIP's projection)."""
    views: int = 0
    """Random views of each training image, besides its evaluation view; 0 uses the evaluation view alone."""

    def __post_init__(self) -> None:
        check_views(self.views)
        if self.inverse_penalty < 0:
            raise ValueError(f"inverse_penalty must be 0 (select) or above, got {self.inverse_penalty}.")


class Logistic(Method[LogisticOptions]):
    """``logits = W (f - mean) / std + b``, stored as one linear layer on the frozen features f.

    W and b minimise ``|W|^2 / 2 + C sum CE`` on the standardised features, (N, E), of the training images under the
    evaluation transform. C is selected from 0.001, 0.01, ... 10 by the cross-entropy of up to three folds, of which the
    k-th leaves out the k-th image of every class, modulo the folds; the search ends when that stops falling. More than
    3,000 images need one fold. With one image a class there are no folds, and C is 10 / E. A constant channel has no
    weight. Until ``prepare`` has seen data, W is random.

    With V random views, the sum has 1 + V terms for each image. C is still selected on the evaluation views alone, and
    is divided by 1 + V.

    Differs from the reference code: there is none; the solver is SciPy's L-BFGS. The method ``lpclip`` is the published
    protocol, which needs validation images and does not standardise.

    Source: Bishop 2006, "Pattern recognition and machine learning", section 4.3.4.
    """

    Options = LogisticOptions

    @classmethod
    def traits_for(cls, options: LogisticOptions) -> Traits:
        return Traits(inputs="features", pooling=options.pooling, closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        self.head = linear_head(self.feature_size, len(self.classes), std=0.02, generator=generator)

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Solve the regression on the views of the training images.

        Raises:
            ValueError: If a class has no training images.
        """
        features, labels = support_features(self, source, self.options.views, progress)
        strength, start = self.options.inverse_penalty, None
        self.selected = {}
        if not strength and int(torch.bincount(labels).max()) == 1:
            strength = ONE_SHOT / features.shape[2]
        elif not strength:
            strength, start = cross_validated(features[0], labels)
            self.selected = {"inverse_penalty": strength}
        views = len(features)
        weight, bias = logistic_regression(features.flatten(0, 1), labels.repeat(views), strength / views, start)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.frozen_features(views))
