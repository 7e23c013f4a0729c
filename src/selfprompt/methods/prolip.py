"""ProLIP: the projection of a CLIP's image tower, tuned on its cached input and held near its start."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_images_per_step, check_positive, check_views
from selfprompt.methods.class_rows import view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.support import BATCH, balanced_parts
from selfprompt.methods.traits import Traits

EPS = 1e-4  # Adam's


@dataclass(frozen=True)
class ProLIPOptions:
    """Options of ProLIP. The numbers are the paper's for training without validation images."""

    rate: float = 1e-5
    """Peak learning rate."""
    strength: float = 0.0
    """lambda, the weight of the squared distance from the start; 0 takes 1 / K for K training images a class."""
    iterations: int = 300
    """Steps, each on one view of the training images."""
    images_per_step: int = BATCH
    """Most images in a step; more images take turns. 0 reads all of them in each, as published."""
    views: int = 10
    """Random views of a training image, encoded once and taken in turn; 0 uses its evaluation view."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)
        check_views(self.views)
        check_images_per_step(self.images_per_step)
        check_template(self.template)
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}.")
        if self.strength < 0:
            raise ValueError(f"strength must be 0 (1 / shots) or above, got {self.strength}.")


class ProLIP(Method[ProLIPOptions]):
    """``logits = scale cos(g W, t)``: g are pooled image features before the projection W, (U, E), and t class texts.

    ``loss = CE + lambda |W - W_0|^2``, a sum over all entries, where W_0 is the backbone's projection. ``prepare``
    trains W by Adam (eps 1e-4, no weight decay, cosine schedule to 0). A step reads all training images, or a part with
    images of all classes if there are more than ``images_per_step``; parts take turns. Step i, from 0, sees view i + 1
    mod V. Nothing is selected, and the last step counts. lambda is 1 / K for K shots, which is the mean number of
    training images a class where they differ. Classes without images are scored like all others.

    Differs from the reference code: 10 stored views in place of 300; many images take turns; the scale is the
    backbone's. The main table of the paper selects rate and lambda on validation images; these are its fixed values.

    Source: Fahes et al. 2024 (arXiv 2410.05270), section 3; released code astra-vision/ProLIP.
    """

    Options = ProLIPOptions
    texts: Tensor

    @classmethod
    def traits_for(cls, options: ProLIPOptions) -> Traits:
        return Traits(inputs="features", pooling="unprojected", needs_text=True, open_vocabulary=True, closed_form=True)

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        self.projection = nn.Parameter(self.vision.projection().detach().clone())

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Train the projection on the training images.

        Args:
            source: The training images.
            generator: Not used.
            progress: Called with the number of encoded views and steps, and of all of them.
        """
        options = self.options
        encoded = (options.views or 1) * source.size
        total = encoded + options.iterations
        report = progress or (lambda done, of: None)
        views = view_features(self, source, options.views, lambda done, _: report(done, total))
        projection = self.vision.projection().detach().clone()
        strength = options.strength or len(self.classes) / source.size
        labels, rates = source.labels.to(projection.device), cosine_rates(options.iterations, options.rate)
        parts = balanced_parts(source.labels.cpu(), options.images_per_step)
        weights = {"scale": self.backbone.scale, "strength": strength}
        steps = descend(projection, views, labels, self.texts, rates, parts, **weights)
        for done, _ in enumerate(steps, start=1):
            report(encoded + done, total)
        self.projection.data = projection

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.frozen_features(views) @ self.projection)

    def class_vectors(self) -> Tensor:
        return self.texts


def cosine_rates(steps: int, rate: float) -> list[float]:
    """Return the learning rate of each step, from ``rate`` towards 0."""
    return [rate / 2 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def descend(
    projection: Tensor,
    views: Tensor,
    labels: Tensor,
    texts: Tensor,
    rates: Sequence[float],
    parts: Sequence[Tensor] = (),
    *,
    scale: float,
    strength: float,
) -> Iterator[tuple[float, float]]:
    """Train a projection in place, and yield cross-entropy and squared distance from the start before each step.

    Args:
        projection: Where it starts, (U, E).
        views: Features before the projection, (V, N, U), on any device.
        labels: (N,).
        texts: Unit features of the classes, (C, E).
        rates: Learning rate of each step.
        parts: Indices of the images that a step reads, in turn; all of them if there are none.
        scale: Of the cosines.
        strength: lambda.
    """
    start = projection.clone()
    optimizer = torch.optim.Adam([projection.requires_grad_()], lr=rates[0], eps=EPS)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        features, targets = views[(step + 1) % len(views)], labels
        if len(parts) > 1:
            part = parts[(step + step // math.lcm(len(views), len(parts))) % len(parts)]  # each meets every view
            features, targets = features[part], labels[part.to(labels.device)]
        features = features.to(projection.device)
        with torch.enable_grad():
            entropy = F.cross_entropy(scale * unit(features @ projection) @ texts.t(), targets)
            distance = (projection - start).square().sum()
            (projection.grad,) = torch.autograd.grad(entropy + strength * distance, [projection])
        optimizer.step()
        yield float(entropy.detach()), float(distance.detach())
    projection.requires_grad_(False)
