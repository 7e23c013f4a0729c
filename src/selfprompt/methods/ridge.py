"""Ridge regression to one-hot targets on frozen features, its penalty selected by leave-one-out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.heads import linear_head
from selfprompt.methods.support import standardisation, support_features
from selfprompt.methods.traits import Traits

PENALTIES = tuple(10.0 ** (half / 2) for half in range(11))  # 1 to 1e5


@dataclass(frozen=True)
class RidgeOptions:
    """Options of ridge regression."""

    penalty: float = 0.0
    """L2 penalty; 0 selects it by leave-one-out on the training images, or is the width of the features at one shot."""
    pooling: str = "auto"
    """How tokens become features: auto, native, cls, avg, patches, or unprojected (before a CLIP's projection)."""
    views: int = 0
    """Random views of each training image, besides its evaluation view; 0 uses the evaluation view alone."""

    def __post_init__(self) -> None:
        check_views(self.views)
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 (select) or above, got {self.penalty}.")


class Ridge(Method[RidgeOptions]):
    """``logits = W (f - mean) / std + b``, stored as one linear layer on the frozen features f.

    W and b minimise ``|Y - Z W^T - b|^2 + penalty |W|^2`` for one-hot targets Y, (N, C), and the standardised features
    Z, (N, E), of the training images under the evaluation transform. Of 1, 3, 10, ... 1e5 the penalty with the least
    squared leave-one-out error, ``mean of ((Y - prediction) / (1 - leverage))^2``, is selected, without refits. With
    one image a class, leaving it out leaves nothing to learn the class from: then the penalty is E, the mean of |Z_i|^2
    over the images. A constant channel has no weight. Until ``prepare`` has seen data, W is random.

    With V random views, Z has 1 + V rows for each image. The penalty is still selected on the evaluation views alone,
    so that no view of an image helps to predict it, and is multiplied by 1 + V.

    Differs from the reference code: there is none; the solver is scikit-learn's ``RidgeCV``.

    Source: Hoerl and Kennard 1970, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 12;
    Rifkin and Lippert 2007, "Notes on regularized least squares", section 3, for the leave-one-out error.
    """

    Options = RidgeOptions

    @classmethod
    def traits_for(cls, options: RidgeOptions) -> Traits:
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
        one_shot = int(torch.bincount(labels).max()) == 1
        penalty = self.options.penalty or (float(features.shape[2]) if one_shot else 0.0)
        weight, bias, selected = ridge_regression(features[0], labels, [penalty] if penalty else PENALTIES)
        if len(features) > 1:
            rows, penalties = features.flatten(0, 1), [selected * len(features)]
            weight, bias, _ = ridge_regression(rows, labels.repeat(len(features)), penalties)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
        self.selected = {} if penalty else {"penalty": selected}

    def logits(self, views: Views) -> Tensor:
        return self.head(self.frozen_features(views))


def ridge_regression(features: Tensor, labels: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor, float]:
    """Fit one-hot targets on standardised features.

    Args:
        features: Not standardised, (N, E), on the CPU.
        labels: Every class 0..C-1 occurs, (N,).
        penalties: Candidates; the one with the least squared leave-one-out error is used.

    Returns:
        Weight, (C, E), and bias, (C,), for features that are not standardised, float64, and the penalty.
    """
    from sklearn.linear_model import RidgeCV

    features = features.double()
    mean, factor = standardisation(features)
    standardised, targets = ((features - mean) * factor).numpy(), F.one_hot(labels).double().numpy()
    fitted = RidgeCV(alphas=list(penalties)).fit(standardised, targets)
    weight = torch.from_numpy(fitted.coef_) * factor
    return weight, torch.from_numpy(fitted.intercept_) - weight @ mean, float(fitted.alpha_)
