"""APE: Tip-Adapter's cache in the channels that separate classes, its entries weighted by how they surprise CLIP."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.class_rows import unequal_rows, view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits

SMALL = 1e-6  # added to probabilities


@dataclass(frozen=True)
class APEOptions:
    """Options of APE. The paper selects all numbers per data set; these are where its search starts."""

    finetune: bool = False
    """Train a shift of each class in the selected channels (APE-T), or nothing."""
    channels: float = 0.7
    """Fraction of the channels that is selected."""
    variance_weight: float = 0.3
    """Weight of the texts' variance in the choice of channels, against that of the similarity of the classes."""
    alpha: float = 1.0
    """Weight of the cache."""
    beta: float = 1.0
    """Sharpness of the cache."""
    gamma: float = 0.1
    """How much more an entry counts that surprises zero-shot CLIP; not used with finetune."""
    views: int = 10
    """Random views of a training image whose features are averaged to make its key; 0 uses its evaluation view."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_views(self.views)
        check_template(self.template)
        if not 0 < self.channels <= 1:
            raise ValueError(f"channels must be above 0 and at most 1, got {self.channels}.")
        if not 0 <= self.variance_weight <= 1:
            raise ValueError(f"variance_weight must be in [0, 1], got {self.variance_weight}.")


class APE(Method[APEOptions]):
    """``logits = scale f . t + alpha exp(-beta (1 - f' . F')) diag(exp(gamma d)) Y`` with unit features.

    F, (N, E), are unit features of the N training images, each the mean over random views, Y, (N, C), their labels,
    one-hot, and t the texts. A prime restricts vectors to the selected channels and normalises them again; selected are
    those with the largest ``v var(t) - (1 - v) s``, where s is the mean product of members of different classes and the
    text and the keys of a class are its members. ``d = log2 (1 / q)`` for the probability q that ``softmax(F' t'^T)``,
    without a scale, gives to the label.

    APE-T (``finetune``) adds one trained shift a class in the selected channels to its text and its keys. All channels
    are compared, without normalising again, and an entry has a trained weight, from 1, in place of ``exp(gamma d)``.
    Its channels are selected by the texts alone.
    Nothing is selected on validation images. Until ``prepare`` has seen data the method is zero-shot CLIP.

    It takes no new class names. The cache adds to the score of each of its classes, whatever an image shows, and
    nothing to that of a class without images; and the channels are those that tell the trained texts apart.

    Differs from the reference code: all classes need not have equally many images; the texts are one template, without
    GPT-3's sentences; the scale is the backbone's.

    Source: Zhu et al. 2023 (arXiv 2304.01195), sections 3.2 to 3.4; released code yangyangyang127/APE.
    """

    Options = APEOptions
    texts: Tensor
    channels: Tensor
    support: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def traits_for(cls, options: APEOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            closed_form=not options.finetune,
            variable_length=("support", "labels", "weights"),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        count = max(1, int(self.options.channels * texts.shape[1]))
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("channels", torch.arange(count))
        self.register_buffer("support", texts.new_zeros(0, texts.shape[1] if self.options.finetune else count))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        if self.options.finetune:
            self.weights = nn.Parameter(texts.new_zeros(0))
            self.shift = nn.Parameter(texts.new_zeros(len(texts), count))
        else:
            self.register_buffer("weights", texts.new_zeros(0))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the cache, and select the channels."""
        options, texts, labels = self.options, self.texts.double().cpu(), source.labels.cpu()
        keys = unit(view_features(self, source, options.views, progress).double().mean(dim=0))
        members = 0 if options.finetune else len(keys)
        similarity = channel_similarity(keys[:members], labels[:members], texts)
        channels = select_channels(similarity, texts, options.variance_weight, len(self.channels))
        inside = unit(keys[:, channels])
        surprise = surprise_of(inside, labels, unit(texts[:, channels]))
        weights = torch.ones_like(surprise) if options.finetune else (options.gamma * surprise).exp()
        self.channels.copy_(channels)
        self.support = (keys if options.finetune else inside).to(self.texts)
        self.labels = labels.to(self.texts.device)
        self.weights.data = weights.to(self.texts)

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super().problems_with(tensors) or unequal_rows(tensors, "support", "labels", "weights", least=0)
        if problems:
            return problems
        for name, end in (("labels", len(self.classes)), ("channels", self.texts.shape[1])):
            if not all(0 <= number < end for number in tensors[name].tolist()):
                problems.append(f"{name} must be numbers from 0 to {end - 1}")
        return problems

    def logits(self, views: Views) -> Tensor:
        features, texts = unit(self.frozen_features(views)), self.texts
        if self.options.finetune:
            texts, keys = shifted(texts, self.support, self.labels, self.channels, self.shift)
            affinity = features @ keys.t()
        else:
            affinity = unit(features[:, self.channels]) @ self.support.t()
        values = F.one_hot(self.labels, len(self.classes)) * self.weights[:, None]
        return self.class_logits(features, texts) + self.options.alpha * cached(affinity, values, self.options.beta)


def channel_similarity(keys: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
    """Return the mean product of members of different classes in each channel, (E,).

    Args:
        keys: Unit features of the training images, (N, E).
        labels: (N,).
        texts: Unit features of the classes, (C, E); a class has its text and its keys as members.
    """
    sums = texts.index_add(0, labels, keys)
    members = 1 + torch.bincount(labels, minlength=len(texts)).to(texts)
    pairs = members.sum().square() - members.square().sum()
    return (sums.sum(dim=0).square() - sums.square().sum(dim=0)) / pairs


def select_channels(similarity: Tensor, texts: Tensor, variance_weight: float, count: int) -> Tensor:
    """Return the best channels, best first, (count,): where classes are unlike each other and texts vary."""
    score = variance_weight * texts.var(dim=0) - (1 - variance_weight) * similarity
    return score.argsort(descending=True, stable=True)[:count]


def surprise_of(keys: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
    """Return -log2 of the probability of each key's label in zero-shot CLIP without a scale, (N,)."""
    probability = (keys @ texts.t()).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return ((1 + SMALL) / (probability + SMALL)).log2()


def shifted(texts: Tensor, keys: Tensor, labels: Tensor, channels: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return texts, (C, E), and keys, (N, E), with the shift of their class, (C, Q), added in the channels, (Q,)."""
    wide = torch.zeros_like(texts).index_copy(1, channels, shift)
    return texts + wide, keys + wide[labels]


def cached(affinity: Tensor, values: Tensor, beta: float) -> Tensor:
    """Return the scores of the cache, (B, C), from cosines, (B, N), and values, (N, C)."""
    return (beta * (affinity - 1)).exp() @ values
