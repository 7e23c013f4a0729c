"""Linear-probe CLIP: logistic regression on frozen features, with a penalty selected on validation images."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits

COARSE = (6, 4, 2, 0, -2, -4, -6)
STEPS = 8
WITHOUT_VALIDATION = 0.316  # CLIP's value for ImageNet


@dataclass(frozen=True)
class LPCLIPOptions:
    """Options of linear-probe CLIP."""

    inverse_penalty: float = 0.0
    """C, the inverse of the L2 penalty; 0 selects it on validation images, or takes 0.316 if there are none."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg, patches, or unprojected (before a CLIP's projection)."""

    def __post_init__(self) -> None:
        if self.inverse_penalty < 0:
            raise ValueError(f"inverse_penalty must be 0 (search) or above, got {self.inverse_penalty}.")


class LPCLIP(Method[LPCLIPOptions]):
    """``logits = W f + b`` on frozen features f, not normalised, of images under the evaluation transform.

    W and b minimise ``|W|^2 / 2 + C sum CE``, by L-BFGS in ``prepare``; there are no epochs. C is selected by the
    ``lpclip`` protocol: 1e6, 1e4, ... 1e-6, then 8 bisections of a decade to either side of the best (``search``).
    Before ``prepare``, W is random.

    Differs from the reference code: it works with any backbone, not only RN50; shots are drawn as for all methods.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 3.2 and appendix A.3; the protocol is Zhou et al.'s
    (arXiv 2109.01134).
    """

    Options = LPCLIPOptions

    @classmethod
    def traits_for(cls, options: LPCLIPOptions) -> Traits:
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
        """Fit the regression to the training images under the evaluation transform.

        Raises:
            ValueError: If a class has no training images.
        """
        features, labels = self._features(source.deterministic(), progress)
        missing = [name for label, name in enumerate(self.classes) if label not in labels]
        if missing:
            raise ValueError(f"No training images of: {', '.join(missing)}.")
        solve = cache(partial(regression, features, labels))
        strength = self.options.inverse_penalty or WITHOUT_VALIDATION
        if source.validation is not None and not self.options.inverse_penalty:
            val, val_labels = self._features(source.validation)

            def accuracy(power: float) -> float:
                weight, bias = solve(10.0**power)
                return float(((val @ weight.t() + bias).argmax(dim=1) == val_labels).float().mean())

            strength = 10.0 ** search(accuracy)
            self.selected = {"inverse_penalty": strength}
        weight, bias = solve(strength)
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)

    def _features(
        self, source: TrainingSource, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features, (N, E), and labels, (N,), of all images, on the CPU."""
        features: list[Tensor] = []
        labels: list[Tensor] = []
        for views in self.feature_views(source, 0):
            features.append(self.frozen_features(views).float().cpu())
            labels.append(views.labels.cpu())
            if progress:
                progress(sum(map(len, labels)), source.size)
        return torch.cat(features), torch.cat(labels)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.frozen_features(views))


def regression(features: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Fit a logistic regression with L2 penalty 1 / strength, in at most 1000 iterations.

    Args:
        features: (N, E), on the CPU.
        labels: (N,); each class 0..C-1 occurs.
        strength: Inverse of the penalty, ``C`` of scikit-learn.

    Returns:
        W, (C, E), and b, (C,).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the protocol stops after 1000 iterations
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # with one or two shots
        fit = LogisticRegression(C=strength, max_iter=1000).fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(fit.coef_).float(), torch.from_numpy(fit.intercept_).float()
    if len(weight) == 1:  # for two classes scikit-learn returns the difference
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias


def search(accuracy: Callable[[float], float]) -> float:
    """Select the power of ten of C by the protocol.

    The best of 6, 4, ... -6 is bracketed by one to either side; then, eight times, the better end is kept and the
    other moves to the middle. On a tie the larger of the coarse values wins, and the left end.

    Args:
        accuracy: From the power of ten of C to the accuracy on validation images.

    Returns:
        The end that the last step kept.
    """
    peak = max(COARSE, key=accuracy)
    left, right = float(peak - 1), float(peak + 1)
    best = left
    for _ in range(STEPS):
        middle = (left + right) / 2
        best = left if accuracy(left) >= accuracy(right) else right
        left, right = (left, middle) if best == left else (middle, right)
    return best
