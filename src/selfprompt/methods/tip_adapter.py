"""Tip-Adapter: zero-shot CLIP with a cache of training features; Tip-Adapter-F trains the cache's keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method, TrainingSource
from selfprompt.methods.checks import check_views
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits

ALPHAS, BETAS = 20, 200  # steps of the search


@dataclass(frozen=True)
class TipAdapterOptions:
    """Options of Tip-Adapter, with the released values for ImageNet."""

    finetune: bool = False
    """Whether to train the keys (Tip-Adapter-F); otherwise nothing is trained."""
    alpha: float = 1.17
    """Weight of the cache in training, and in predictions if there are no validation images to select it on."""
    beta: float = 1.0
    """Sharpness of the cache, used like alpha."""
    alpha_limit: float = 3.0
    """Upper limit of the search for alpha, which begins at 0.1."""
    beta_limit: float = 7.0
    """Upper limit of the search for beta, which begins at 0.1."""
    views: int = 10
    """Random views of each training image; the key is the mean of their features. 0 uses its evaluation view."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_views(self.views)
        check_template(self.template)
        for name in ("alpha_limit", "beta_limit"):
            if getattr(self, name) <= 0.1:
                raise ValueError(f"{name} must be above 0.1, where the search begins; got {getattr(self, name)}.")


class TipAdapter(Method[TipAdapterOptions]):
    """``logits = scale f . t + alpha exp(-beta (1 - f . K)) V``, with unit image features f and class features t.

    Keys K, (N, E), are unit features of the N training images, each the mean over random views; values V are their
    labels, one-hot. alpha and beta are selected on the validation images from a grid of 20 x 200 (the first best);
    Tip-Adapter-F trains the keys with the given alpha and beta and selects after each epoch. Before ``prepare`` the
    cache is empty, and the method is zero-shot CLIP.

    It takes no new class names: the cache adds to the score of each of its classes, whatever an image shows, and
    nothing to that of a class without images.

    Differs from the reference code: the scale is the backbone's; nothing is selected on test images, while the released
    code reports the best test accuracy over epochs and searches.

    Source: Zhang et al. 2022 (arXiv 2207.09519), section 3.
    """

    Options = TipAdapterOptions
    keys: Tensor
    labels: Tensor
    alpha: Tensor
    beta: Tensor
    texts: Tensor

    @classmethod
    def traits_for(cls, options: TipAdapterOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            variable_length=("keys", "labels"),
            repeat_prepare=options.finetune,  # the validation features are in no checkpoint
        )

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        texts = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        keys = torch.zeros(0, self.vision.features)
        if options.finetune:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.register_buffer("alpha", torch.tensor(options.alpha))
        self.register_buffer("beta", torch.tensor(options.beta))
        self.validation: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fill the cache, and select alpha and beta."""
        device, views = self.texts.device, self.options.views or 1
        epochs = source if self.options.views else source.deterministic()
        sums = torch.zeros(source.size, self.vision.features, device=device)
        done = 0
        for view in range(views):
            for batch in self.feature_views(epochs, view):
                sums[batch.indices] += self.frozen_features(batch)
                done += len(batch)
                if progress:
                    progress(done, views * source.size)
        self.keys.data = unit(sums)
        self.labels = source.labels.to(device)
        if source.validation is not None:
            batches = list(self.feature_views(source.validation, 0))
            features = torch.cat([self.frozen_features(batch) for batch in batches])
            self.validation = unit(features), torch.cat([batch.labels for batch in batches])
        self._select()

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super().problems_with(tensors)
        if problems:
            return problems
        keys, labels, classes = len(tensors["keys"]), tensors["labels"], len(self.classes)
        if len(labels) == keys and all(0 <= label < classes for label in labels.tolist()):
            return []
        return [f"the cache has {keys} keys, and its labels must be as many numbers from 0 to {classes - 1}"]

    @torch.no_grad()
    def _select(self) -> None:
        """Select alpha and beta on the validation images, if there are any."""
        if self.validation is None:
            return
        features, labels = self.validation
        affinity, zero_shot = features @ self.keys.t(), self.class_logits(features, self.texts)
        alphas, betas = grid(self.options.alpha_limit, ALPHAS), grid(self.options.beta_limit, BETAS)
        alpha, beta = search(zero_shot, affinity, self.values(), labels, alphas, betas)
        self.alpha.fill_(alpha)
        self.beta.fill_(beta)
        self.selected = {"alpha": alpha, "beta": beta}

    def values(self) -> Tensor:
        """Return the labels of the cache, one-hot, (N, C)."""
        return F.one_hot(self.labels, len(self.classes)).to(self.texts.dtype)

    def _scores(self, features: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        features = unit(features)
        cached = (-beta * (1 - features @ self.keys.t())).exp() @ self.values()
        return self.class_logits(features, self.texts) + alpha * cached

    def logits(self, views: Views) -> Tensor:
        return self._scores(self.frozen_features(views), self.alpha, self.beta)

    def loss(self, views: Views) -> LossTerms:
        """Compute the cross-entropy with the given alpha and beta, not the selected ones."""
        logits = self._scores(self.frozen_features(views), self.options.alpha, self.options.beta)
        return LossTerms({"ce": F.cross_entropy(logits, views.labels)}, logits=logits.detach())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Select alpha and beta for the current keys."""
        self._select()


def grid(limit: float, steps: int) -> list[float]:
    """Return evenly spaced values from 0.1, without the limit."""
    return [0.1 + step * (limit - 0.1) / steps for step in range(steps)]


def search(
    zero_shot: Tensor,
    affinity: Tensor,
    values: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
) -> tuple[float, float]:
    """Return the alpha and beta of the highest accuracy; on a tie the first, with alpha in the inner loop.

    Args:
        zero_shot: Scaled cosines of images and classes, (V, C).
        affinity: Cosines of images and keys, (V, N).
        values: One-hot labels of the keys, (N, C).
        labels: Labels of the images, (V,).
        alphas: Values of alpha to try.
        betas: Values of beta to try.
    """
    most, best = -1, (alphas[0], betas[0])
    for beta in betas:
        cached = (-beta * (1 - affinity)).exp() @ values
        for alpha in alphas:
            hits = int(((zero_shot + alpha * cached).argmax(dim=1) == labels).sum())
            if hits > most:
                most, best = hits, (alpha, beta)
    return best
