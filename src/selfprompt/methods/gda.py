"""GDA: zero-shot CLIP plus a linear classifier of Gaussian classes that share one shrunk covariance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.support import leave_out_folds, support_features
from selfprompt.methods.traits import Traits

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
ONE_SHOT = 1e-3  # most often the best with one shot in the released logs, which are of validation images
MOST_FOLDS = 16
NEIGHBOURS = 64  # training features that represent a class known by name only
TEXT_REPEATS = 16  # weight of its text, in such features


@dataclass(frozen=True)
class GDAOptions:
    """Options of GDA."""

    alpha: float = 0.0
    """Weight of the Gaussian classifier; 0 selects it by leave-one-shot-out, or is 0.001 at one shot."""
    views: int = 10
    """Random views of a training image, each a sample of its own; 0 uses its evaluation view."""
    new_names: bool = True
    """Store the training features, which new class names need: 2 kB a view at a width of 512."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_views(self.views)
        check_template(self.template)
        if self.alpha < 0:
            raise ValueError(f"alpha must be 0 (select) or above, got {self.alpha}.")


class GDA(Method[GDAOptions]):
    """``logits_c = scale f . t_c + alpha (f . w_c - m_c . w_c / 2 - log C)`` with ``w_c = P m_c``.

    f and t_c are unit features of image and class text, m_c is the mean of f over the training views of class c, and
    ``P = E (S + tr(S) / (N - 1) I)^-1`` with the scatter S, (E, E), of the N training views around the means of their
    classes. Where S is zero, with one evaluation view a class say, P is zero and the method is zero-shot CLIP.

    alpha is 1e-4, 1e-3, ... or 100, whichever scores most training images right, in their evaluation view, when the
    k-th image of every class is left out with all its views (the smallest of equals); more than 16 images a class share
    16 folds.

    Of a new class name with text t, the k = min(64, N) training features nearest to t represent the class: m is the
    mean of them and 16 t, and P the mean over the new classes of ``E (S_t + tr(S_t) / (k - 1) I)^-1`` with the scatter
    around t. Trained names keep their rows, so their scores and those of new names come from different covariances.
    Until ``prepare`` has seen data, the method is zero-shot CLIP.

    Differs from the reference code: alpha is selected on the training images, not on the validation split, nor on test
    images as for ImageNet; with new names, trained classes keep their shrunk covariance, where the released code
    averages those of the classes, which one image a class leaves undefined; k may be below 64, and E other than 512;
    the scale is the backbone's.

    Source: Wang et al. 2024 (arXiv 2402.04087), section 3; released code mrflogs/ICLR24.
    """

    Options = GDAOptions
    texts: Tensor
    keys: Tensor
    class_weight: Tensor
    class_bias: Tensor
    weight: Tensor
    bias: Tensor
    known: Tensor
    support: Tensor
    alpha: Tensor

    @classmethod
    def traits_for(cls, options: GDAOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            open_vocabulary=options.new_names,
            closed_form=True,
            variable_length=("weight", "bias", "known", *(["support"] if options.new_names else [])),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        keys = name_keys(self.classes).to(texts.device)
        zeros = {"weight": torch.zeros_like(texts), "bias": texts.new_zeros(len(texts))}
        for name, tensor in {"texts": texts, "keys": keys}.items():
            self.register_buffer(name, tensor, persistent=False)
        for name, tensor in zeros.items():  # of these classes, and of those that were trained
            self.register_buffer(f"class_{name}", tensor.clone(), persistent=False)
            self.register_buffer(name, tensor)
        self.register_buffer("known", keys.clone())
        self.register_buffer("alpha", texts.new_tensor(self.options.alpha))
        if self.options.new_names:
            self.register_buffer("support", texts.new_zeros(0, self.vision.features))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Solve for the classifier, and select alpha.

        Raises:
            ValueError: If a class has no training images.
        """
        raw, labels = support_features(self, source, self.options.views, progress)
        plain, views = unit(raw[0].double()), unit(raw[min(1, self.options.views) :].double())
        folds = leave_out_folds(labels, MOST_FOLDS)
        alpha, self.selected = self.options.alpha, {}
        if not alpha and int(folds.max()) < 0:
            alpha = ONE_SHOT
        elif not alpha:
            zero_shot = self.backbone.scale * plain @ self.texts.double().cpu().t()
            alpha = select_alpha(views, labels, plain, zero_shot, folds)
            self.selected = {"alpha": alpha}
        features, labels = views.flatten(0, 1), labels.repeat(len(views))
        moments = Moments.of(features, labels, len(self.classes))
        weight, bias = gaussian_head(moments.means, moments.precision)
        self.weight, self.bias = weight.to(self.texts), bias.to(self.texts)
        self.known = self.keys.clone()
        self.alpha.fill_(alpha)
        if self.options.new_names:
            self.support = features.to(self.texts)
        self._set_class_rows()

    def load_adapter_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_adapter_state_dict(tensors)
        self._set_class_rows()

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return super().problems_with(tensors) or unequal_rows(tensors, "known", "weight", "bias")

    @torch.no_grad()
    def _set_class_rows(self) -> None:
        """Gather the rows of trained names, and solve for those of new ones."""
        new = ~torch.isin(self.keys, self.known)
        weight, bias = torch.zeros_like(self.texts), self.texts.new_zeros(len(self.texts))
        if self.options.new_names and len(self.support) and new.any():
            means, precision = new_classes(self.texts[new].double().cpu(), self.support.double().cpu())
            rows, offsets = gaussian_head(means, precision)
            weight[new], bias[new] = rows.to(weight), offsets.to(bias)
        self.class_weight = rows_by_name(self.keys, self.known, self.weight, weight)
        self.class_bias = rows_by_name(self.keys, self.known, self.bias[:, None], bias[:, None])[:, 0]

    def logits(self, views: Views) -> Tensor:
        features = unit(self.frozen_features(views))
        gaussian = features @ self.class_weight.t() + self.class_bias - math.log(len(self.classes))
        return self.class_logits(features, self.texts) + self.alpha * gaussian


@dataclass(frozen=True)
class Moments:
    """Sums over unit features, float64, which can be subtracted to leave features out.

    Attributes:
        counts: Number of features of each class, (C,).
        sums: Their sums, (C, E).
        products: Sum of the outer products of all features, (E, E).
    """

    counts: Tensor
    sums: Tensor
    products: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> "Moments":
        """Return the moments of unit features, (N, E), float64, with labels, (N,)."""
        sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
        return cls(torch.bincount(labels, minlength=classes), sums, features.t() @ features)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.counts - other.counts, self.sums - other.sums, self.products - other.products)

    @property
    def means(self) -> Tensor:
        """Means of the classes, (C, E)."""
        return self.sums / self.counts[:, None]

    @property
    def precision(self) -> Tensor:
        """Inverse of the shrunk covariance that all classes share, P, (E, E); zero where the features do not vary."""
        count, width = int(self.counts.sum()), len(self.products)
        scatter = self.products - self.means.t() @ self.sums
        trace = float(scatter.trace())
        if trace < 1e-12 * count:  # rounding of the sums: each class has one feature, or copies of one
            return torch.zeros_like(scatter)
        scatter.diagonal().add_(trace / (count - 1))
        return width * torch.cholesky_inverse(torch.linalg.cholesky(scatter))


def gaussian_head(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight, (C, E), and bias, (C,), without the prior, of Gaussian classes with one precision, (E, E)."""
    weight = means @ precision
    return weight, -(weight * means).sum(dim=1) / 2


def hits(zero_shot: Tensor, gaussian: Tensor, labels: Tensor) -> list[int]:
    """Return how many images each of ``ALPHAS`` scores right, from scores, (N, C), and labels, (N,)."""
    return [int(((zero_shot + alpha * gaussian).argmax(dim=1) == labels).sum()) for alpha in ALPHAS]


def select_alpha(views: Tensor, labels: Tensor, plain: Tensor, zero_shot: Tensor, folds: Tensor) -> float:
    """Return the alpha that scores most images right when their fold is left out; the smallest of equals.

    Args:
        views: Unit features to learn from, (V, N, E), float64.
        labels: Of the images, (N,).
        plain: Unit features of the evaluation views, which are scored, (N, E), float64.
        zero_shot: Their scaled cosines with the class texts, (N, C).
        folds: Fold that leaves each image out, (N,); -1 for none.
    """
    classes, totals = zero_shot.shape[1], [0] * len(ALPHAS)
    whole = Moments.of(views.flatten(0, 1), labels.repeat(len(views)), classes)
    for fold in range(int(folds.max()) + 1):
        left = folds == fold
        rest = whole - Moments.of(views[:, left].flatten(0, 1), labels[left].repeat(len(views)), classes)
        weight, bias = gaussian_head(rest.means, rest.precision)
        correct = hits(zero_shot[left], plain[left] @ weight.t() + bias, labels[left])
        totals = [total + number for total, number in zip(totals, correct, strict=True)]
    return ALPHAS[totals.index(max(totals))]


def new_classes(texts: Tensor, support: Tensor, neighbours: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """Return the means, (C, E), and the precision, (E, E), of classes that are known by their texts.

    Args:
        texts: Unit features of the classes, (C, E), float64.
        support: Unit features of the training views, (N, E), N at least 2, float64.
        neighbours: Number of training features that represent a class.
    """
    count, width = min(neighbours, len(support)), texts.shape[1]
    means, total = [], texts.new_zeros(width, width)
    for part in texts.split(64):  # (B, E)
        nearest = support[(part @ support.t()).topk(count, dim=1).indices]  # (B, k, E)
        means.append((nearest.sum(dim=1) + TEXT_REPEATS * part) / (count + TEXT_REPEATS))
        spread = nearest - part[:, None]
        shrinkage = spread.square().sum(dim=(1, 2)) / (count - 1)  # (B,)
        # Woodbury: (X^T X + s I)^-1 = (I - X^T (X X^T + s I)^-1 X) / s, with k rows instead of E
        small = spread @ spread.mT + shrinkage[:, None, None] * torch.eye(count, dtype=texts.dtype)
        inner = torch.linalg.solve(small, spread) / shrinkage[:, None, None]
        total.diagonal().add_((1 / shrinkage).sum())
        total -= spread.flatten(0, 1).t() @ inner.flatten(0, 1)
    return torch.cat(means), width * total / len(texts)
