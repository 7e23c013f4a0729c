"""CLAP: a linear probe of cosines that starts at the class texts and is pulled towards them; ZS-LP without the pull."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_positive, check_views
from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows, view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits

BATCH = 256
MOMENTUM = 0.9
WARMUP_RATE = 1e-5  # of the first epoch


@dataclass(frozen=True)
class CLAPOptions:
    """Options of CLAP. The numbers are the paper's, for every data set."""

    pull: bool = True
    """Pull each class towards its text (CLAP), or leave it free (ZS-LP)."""
    views: int = 20
    """Random views of a training image, all encoded once; 0 uses its evaluation view."""
    iterations: int = 300
    """Passes of the probe over as many features as there are training images."""
    most_steps: int = 3000
    """Most steps; fewer passes are made where they would take more. 0 makes all passes, as published."""
    rate: float = 0.1
    """Peak learning rate of the probe; it suits text features that are not normalised, of norm 7 to 10."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)
        check_views(self.views)
        check_template(self.template)
        if self.most_steps < 0:
            raise ValueError(f"most_steps must be 0 (no limit) or above, got {self.most_steps}.")
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}.")


class CLAP(Method[CLAPOptions]):
    """``logits = scale cos(f, w_c)``: one vector w_c a class, which starts at the class's text feature t_c.

    ``loss = CE + mean_c lambda_c |w_c - t_c|^2``, where lambda_c is the mean probability that zero-shot CLIP gives to
    class c on its training images; it is fixed before training. A class without images has the mean of the others.
    t_c is not normalised: the gradient of a cosine shrinks with the norm of w_c, and with unit vectors the paper's
    learning rate is too large. ZS-LP is the same with lambda 0.

    ``prepare`` trains w on cached features by SGD with momentum 0.9 and a cosine schedule. Each pass reads a random
    part of the views, in batches of 256: as many as there are images. Nothing is selected, and the last step counts.
    Classes that were not trained are scored by their text.

    Differs from the reference code: the scale is the backbone's; a class has one template; from 2,816 images on there
    are fewer passes (``most_steps``).

    Source: Silva-Rodriguez et al. 2024 (arXiv 2312.12730), sections 3.2 and 4; released code jusiro/CLAP.
    """

    Options = CLAPOptions
    texts: Tensor
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: CLAPOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            open_vocabulary=True,
            closed_form=True,
            variable_length=("weight", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions, normalize=False)
        keys = name_keys(self.classes).to(texts.device)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("keys", keys, persistent=False)
        self.weight = nn.Parameter(texts.clone())
        self.register_buffer("known", keys.clone())

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train the classes' vectors on the training images.

        Args:
            source: The training images.
            generator: Of the order of the features.
            progress: Called with the number of encoded views and passes, and of all of them.
        """
        options, device = self.options, self.texts.device
        encoded = (options.views or 1) * source.size
        passes = number_of_passes(options.iterations, source.size, options.most_steps)
        total = encoded + passes
        report = progress or (lambda done, of: None)
        views = view_features(self, source, options.views, lambda done, _: report(done, total))
        features = unit(views.flatten(0, 1)).to(device)  # (V N, E)
        labels = source.labels.repeat(len(views)).to(device)
        weight, scale = self.texts.clone(), self.backbone.scale
        pulls = zero_shot_confidence(features, labels, unit(self.texts), scale) if options.pull else None
        orders = (random_rows(len(features), source.size, generator) for _ in range(passes))
        rates = cosine_rates(passes, options.rate)
        steps = descend(weight, features, labels, rates, orders, scale=scale, pulls=pulls)
        for done, _ in enumerate(steps, start=1):
            report(encoded + done, total)
        self.weight.data = weight
        self.known = self.keys.clone()

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return super().problems_with(tensors) or unequal_rows(tensors, "known", "weight")

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.frozen_features(views))

    def class_vectors(self) -> Tensor:
        return unit(rows_by_name(self.keys, self.known, self.weight, self.texts))


def zero_shot_confidence(features: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Return the mean zero-shot probability of each class on its own images, lambda, (C,).

    Args:
        features: Unit features of images, (N, E).
        labels: Their classes, (N,).
        texts: Unit features of the classes, (C, E).
        scale: Of the cosines.

    Returns:
        A class without images has the mean of the others.
    """
    sums, counts = texts.new_zeros(len(texts)), texts.new_zeros(len(texts))
    for rows in torch.arange(len(features), device=features.device).split(4096):
        confidence = (scale * features[rows] @ texts.t()).softmax(dim=1).gather(1, labels[rows][:, None])[:, 0]
        sums.index_add_(0, labels[rows], confidence)
        counts.index_add_(0, labels[rows], torch.ones_like(confidence))
    means = sums / counts.clamp(min=1)
    return torch.where(counts > 0, means, means.sum() / (counts > 0).sum())


def number_of_passes(iterations: int, images: int, most_steps: int) -> int:
    """Return how many passes over the images take at most ``most_steps`` steps, at least one; all if it is 0."""
    steps = max(1, images // BATCH)
    return min(iterations, max(1, most_steps // steps)) if most_steps else iterations


def cosine_rates(epochs: int, rate: float) -> list[float]:
    """Return the learning rate of each pass: one of warm-up, then a cosine of period ``epochs``."""
    cosine = [rate / 2 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs - 1)]
    return [WARMUP_RATE, *cosine]


def random_rows(rows: int, images: int, generator: torch.Generator) -> list[Tensor]:
    """Return the batches of a pass: as many full ones as the images have, at least one, of random rows."""
    size = min(BATCH, rows)
    order = torch.randperm(rows, generator=generator)
    return list(order[: max(1, images // BATCH) * size].split(size))


def descend(
    weight: Tensor,
    features: Tensor,
    labels: Tensor,
    rates: Sequence[float],
    orders: Iterator[Sequence[Tensor]],
    *,
    scale: float,
    pulls: Tensor | None = None,
) -> Iterator[list[float]]:
    """Train the vectors of the classes in place, and yield the losses of each pass.

    Args:
        weight: Where the vectors start, (C, E); the pull is towards these values.
        features: Unit features, (N, E).
        labels: (N,).
        rates: Learning rate of each pass.
        orders: The batches of each pass, as rows of the features.
        scale: Of the cosines.
        pulls: lambda of each class, (C,); None for no pull.
    """
    start, moving, size = weight.clone(), torch.zeros_like(weight), len(weight)
    pull = None if pulls is None else pulls[:, None] / size
    for rate, batches in zip(rates, orders, strict=True):
        losses = []
        for rows in batches:
            rows = rows.to(features.device)
            loss, slope = cosine_gradient(weight, features[rows], labels[rows], scale)
            moving.mul_(MOMENTUM).add_(slope)
            if pull is not None:
                away = weight - start
                loss = loss + (pull * away.square()).sum()
                moving.addcmul_(away, pull, value=2)
            weight.sub_(moving, alpha=rate)
            losses.append(loss)
        yield torch.stack(losses).tolist()


def cosine_gradient(weight: Tensor, features: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of ``scale cos(f, w)`` and its gradient, (C, E), without autograd's copies.

    Args:
        weight: w, (C, E).
        features: f, unit vectors, (B, E).
        labels: (B,).
        scale: Of the cosines.
    """
    norm = weight.norm(dim=1)
    logs = (features @ weight.t() * (scale / norm)).log_softmax(dim=1)
    loss, count = F.nll_loss(logs, labels), len(labels)
    errors = logs.exp_()  # the gradient of the logits, but for the factor scale / B
    errors[torch.arange(count, device=labels.device), labels] -= 1
    slope = errors.t() @ features
    along = (slope * weight).sum(dim=1) / norm.square()  # a cosine does not change along w
    return loss, slope.sub_(along[:, None] * weight).mul_((scale / count / norm)[:, None])
