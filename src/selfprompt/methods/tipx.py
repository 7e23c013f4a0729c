"""Tip-X: Tip-Adapter with a second affinity, by how alike zero-shot CLIP sees two images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.class_rows import unequal_rows, view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits

TEMPERATURE = 0.5
ROWS = 1024  # of a part of the matrix of all pairs of training images
MANY = 4096  # of more images, pairs are compared in float32, in half the time


@dataclass(frozen=True)
class TipXOptions:
    """Options of Tip-X. The paper selects alpha, beta and gamma on validation images; 1 is our choice."""

    alpha: float = 1.0
    """Weight of the affinity of features."""
    beta: float = 1.0
    """Sharpness of the affinity of features."""
    gamma: float = 1.0
    """Weight of the affinity of zero-shot distributions."""
    views: int = 10
    """Random views of a training image whose features are averaged to make its key; 0 uses its evaluation view."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_views(self.views)
        check_template(self.template)


class TipX(Method[TipXOptions]):
    """``logits = scale f . t + alpha exp(-beta (1 - f . K)) Y + gamma A Y`` with unit features f, texts t and keys K.

    Keys, (N, E), are unit features of the N training images, each the mean over random views; Y, (N, C), are their
    labels, one-hot. A compares the zero-shot distributions ``p = softmax(f . t / 0.5)`` of image and key: it falls
    linearly with ``KL(p_f, p_K)``, whose range is mapped to the range of the cosines. Until ``prepare`` has seen data
    the method is zero-shot CLIP.

    It takes no new class names: p, and with it A and its range, is a distribution over the trained classes, and the
    cache adds nothing to the score of a class without images.

    Differs from the reference code: both ranges are those of pairs of different training images, where the released
    code takes them from the test images at hand, so that a prediction depends on the others; A is 0 at the largest KL
    of the training images and positive below it, which for equally many images a class changes no prediction.

    Source: Udandarao et al. 2023 (arXiv 2211.16198), section 3.2; released code vishaal27/SuS-X.
    """

    Options = TipXOptions
    texts: Tensor
    support: Tensor
    labels: Tensor
    levels: Tensor
    kl_range: Tensor
    cosine_range: Tensor

    @classmethod
    def traits_for(cls, options: TipXOptions) -> Traits:
        return Traits(
            inputs="features", needs_text=True, closed_form=True, variable_length=("support", "labels", "levels")
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("support", texts.new_zeros(0, texts.shape[1]))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.register_buffer("levels", texts.new_zeros(0))
        self.register_buffer("kl_range", texts.new_tensor([0.0, 1.0]))
        self.register_buffer("cosine_range", texts.new_tensor([0.0, 1.0]))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the cache, and note the ranges of both affinities."""
        keys = unit(view_features(self, source, self.options.views, progress).double().mean(dim=0))
        texts = self.texts.double().cpu()
        if len(keys) > 1:
            pairs = (keys, texts) if len(keys) <= MANY else (keys.float(), texts.float())
            kl_range, cosine_range = pair_ranges(*pairs)
            self.kl_range.copy_(kl_range)
            self.cosine_range.copy_(cosine_range)
        self.support = keys.to(self.texts)
        self.labels = source.labels.to(self.texts.device)
        self.levels = level(scores(keys, texts)).to(self.texts)

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super().problems_with(tensors) or unequal_rows(tensors, "support", "labels", "levels", least=0)
        if problems or all(0 <= label < len(self.classes) for label in tensors["labels"].tolist()):
            return problems
        return [f"labels must be numbers from 0 to {len(self.classes) - 1}"]

    def logits(self, views: Views) -> Tensor:
        options, features = self.options, unit(self.frozen_features(views))
        values = F.one_hot(self.labels, len(self.classes)).to(features)
        cosines = features @ self.support.t()
        distance = divergence(features, self.support, self.levels, self.texts)
        alike = self.cosine_range[1] - rescale(distance, self.kl_range, self.cosine_range)
        cache = options.alpha * (options.beta * (cosines - 1)).exp() + options.gamma * alike
        return self.class_logits(features, self.texts) + cache @ values


def scores(features: Tensor, texts: Tensor) -> Tensor:
    """Return the logits of the zero-shot distributions, (N, C), within +-2."""
    return features @ texts.t() / TEMPERATURE


def level(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean exponential of logits, (N, C), as (N,); near 0, to lose no digits."""
    return logits.exp().mean(dim=1).log()


def divergence(features: Tensor, keys: Tensor, levels: Tensor, texts: Tensor) -> Tensor:
    """Return KL(p, q) of the zero-shot distributions p of images and q of keys, (B, N).

    With logits x of p and y of q it is ``p . (x - y) - level(x) + level(y)``, and y is linear in the key, so that the
    distributions of the keys need not be known.

    Args:
        features: Unit features of the images, (B, E).
        keys: (N, E).
        levels: ``level`` of the logits of the keys, (N,).
        texts: Unit features of the classes, (C, E).
    """
    logits = scores(features, texts)
    p = logits.softmax(dim=1)
    return ((p * logits).sum(dim=1) - level(logits))[:, None] - p @ texts / TEMPERATURE @ keys.t() + levels


def rescale(values: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Map values linearly so that the range ``source``, (2,), becomes ``target``, (2,)."""
    width = source[1] - source[0]
    return target[0] + (values - source[0]) * (target[1] - target[0]) / torch.where(width > 0, width, 1.0)


def pair_ranges(keys: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Return least and greatest KL, and least and greatest cosine, of all pairs of different keys, (2,) each."""
    kl, cosines, levels = [], [], level(scores(keys, texts))
    for rows in torch.arange(len(keys)).split(ROWS):
        other = rows[:, None] != torch.arange(len(keys))
        kl.append(torch.stack(divergence(keys[rows], keys, levels, texts)[other].aminmax()))
        cosines.append(torch.stack((keys[rows] @ keys.t())[other].aminmax()))
    ranges = torch.stack(kl), torch.stack(cosines)
    low, high = (torch.stack([part[:, 0].min(), part[:, 1].max()]) for part in ranges)
    return low, high
