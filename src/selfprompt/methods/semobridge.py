"""SeMoBridge: image features sent back through the text projection, so that images are compared as texts are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_images_per_step, check_positive, check_views
from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.support import BATCH, balanced_parts, plain_and_random
from selfprompt.methods.traits import Traits

CUTOFF = 0.3  # singular values of the text projection that are not inverted
SMALL = 1e-6  # added to probabilities
DECAY, WARMUP = 0.01, 0.1  # weight decay, and the fraction of the steps in which the rate rises


@dataclass(frozen=True)
class SeMoBridgeOptions:
    """Options of SeMoBridge. The paper selects the weights per data set; these are where its search starts."""

    finetune: bool = False
    """Train the bridge and a bias a class (SeMoBridge-T), or nothing."""
    alpha: float = 1.0
    """Sharpness of the similarity of image and text."""
    beta: float = 1.0
    """Sharpness of the similarity of image and bridged class."""
    gamma: float = 1.0
    """Sharpness of the similarity of bridged image and class."""
    smoothness: float = 0.01
    """How much more a class counts that surprises zero-shot CLIP."""
    text_weight: float = 0.5
    """Weight of the first similarity."""
    class_weight: float = 0.5
    """Weight of the second similarity."""
    image_weight: float = 0.5
    """Weight of the third similarity."""
    rate: float = 1.5e-4
    """Learning rate of finetune."""
    iterations: int = 5000
    """Steps of finetune."""
    images_per_step: int = BATCH
    """Most images in a step of finetune; more images take turns. 0 reads all of them in each, as published."""
    views: int = 1
    """Random views of a training image, besides its evaluation view; each is a sample of its own."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(iterations=self.iterations)
        check_images_per_step(self.images_per_step)
        check_views(self.views)
        check_template(self.template)
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}.")


class SeMoBridge(Method[SeMoBridgeOptions]):
    """``logits = scale (w_1 e(a, f . t) + w_2 e(b, f . u) v + w_3 e(g, h(f) . m) v)``, ``e(a, z) = exp(a (z - 1))``.

    The bridge ``h(f) = unit(f B) P`` takes the feature f of an image to the output of the text tower before its last
    projection P, (U, E), and projects it as a text. B, (E, U), is the pseudo-inverse of P without singular values up to
    0.3. All vectors that are compared have unit length: t_c are the class texts, u_c the means of the bridged training
    images of a class, m_c the means of their features, and ``v_c = exp(smoothness log2 (1 / q_c))`` for the probability
    q_c that ``softmax(m t^T)``, without a scale, gives to the class. Classes without images, and those that were not
    trained, have ``f . t`` in all three terms, and ``v_c = 1``.

    SeMoBridge-T (``finetune``) trains B, and a bias that is added to f B for the training images of its class, by
    AdamW; the rate rises over the first tenth of the steps. Its loss is ``CE(scale f . u) / 2 + (CE(u . t) + CE(s .
    t')) / 4 + CE(h(f) . u) / 10 + var |bias| / 10``, where s are the means of unit(f B) and t' the texts before the
    projection. A step reads all training images, or a part with images of all classes if there are more than
    ``images_per_step``. Nothing is selected, and the last step counts. Until ``prepare`` has seen data, the method is
    zero-shot CLIP.

    Differs from the reference code: the seven weights are not searched for, and the last step counts, where both are
    selected on the validation split, also without training; the random views are those of the training options, in
    place of a mirror image or ten crops; all is multiplied by the backbone's scale, which changes no prediction.

    Source: Timmermann et al. 2025 (arXiv 2509.26036); released code christti98/semobridge.
    """

    Options = SeMoBridgeOptions
    texts: Tensor
    keys: Tensor
    projection: Tensor
    inverse: Tensor
    bridged: Tensor
    means: Tensor
    weights: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: SeMoBridgeOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            open_vocabulary=True,
            closed_form=True,
            variable_length=("bridged", "means", "weights", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        projection = self.backbone.text_side()[0].projection().detach().to(texts)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("projection", projection, persistent=False)
        self.register_buffer("keys", name_keys(self.classes).to(texts.device), persistent=False)
        inverse = invert(projection.double().cpu()).to(texts)
        if self.options.finetune:
            self.inverse = nn.Parameter(inverse)
        else:
            self.register_buffer("inverse", inverse, persistent=False)
        self.register_buffer("bridged", texts.new_zeros(0, texts.shape[1]))
        self.register_buffer("means", texts.new_zeros(0, texts.shape[1]))
        self.register_buffer("weights", texts.new_zeros(0))
        self.register_buffer("known", torch.zeros(0, dtype=torch.int64, device=texts.device))

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Average the bridged training images, after training the bridge if ``finetune`` is set.

        Args:
            source: The training images.
            generator: Not used: nothing is random.
            progress: Called with the number of encoded views and steps, and of all of them.
        """
        options, device = self.options, self.texts.device
        encoded = (1 + options.views) * source.size
        steps = options.iterations if options.finetune else 0
        report = progress or (lambda done, of: None)
        views = plain_and_random(self, source, options.views, lambda done, _: report(done, encoded + steps))
        present, labels = source.labels.cpu().unique(return_inverse=True)
        features, labels, present = views.flatten(0, 1), labels.repeat(len(views)), present.to(device)
        inverse, bias = invert(self.projection.double().cpu()), None
        if options.finetune:
            template = self.options.template
            states = encode_template(self.backbone, template, self.descriptions, pooling="unprojected")
            inverse, bias = inverse.to(self.texts), self.texts.new_zeros(len(present), len(self.projection))
            towers = Texts(self.texts[present], states[present], self.projection)
            parts = [part.to(device) for part in balanced_parts(labels, options.images_per_step)]
            rows, scale, rates = features.to(device), self.backbone.scale, warmed_up(steps, options.rate)
            losses = descend(inverse, bias, rows, labels.to(device), towers, rates, parts, scale=scale)
            for done, _ in enumerate(losses, start=encoded + 1):
                report(done, encoded + steps)
            inverse, bias = inverse.double().cpu(), bias.double().cpu()
        self._store(features.double(), labels, inverse, bias, present)

    def _store(self, features: Tensor, labels: Tensor, inverse: Tensor, bias: Tensor | None, present: Tensor) -> None:
        """Store the rows of the classes that have images, solved in float64 on the CPU."""
        texts = self.texts[present].double().cpu()
        means = unit(class_means(features, labels, len(texts)))
        shifts = None if bias is None else bias[labels]
        bridged = unit(
            class_means(bridge(features, inverse, shifts), labels, len(texts)) @ self.projection.double().cpu()
        )
        self.bridged, self.means = bridged.to(self.texts), means.to(self.texts)
        self.weights = (self.options.smoothness * surprise_of(means, texts)).exp().to(self.texts)
        self.known = self.keys[present].clone()
        self.inverse.data = inverse.to(self.texts)

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        problems = super().problems_with(tensors)
        return problems or unequal_rows(tensors, "bridged", "means", "weights", "known", least=0)

    def logits(self, views: Views) -> Tensor:
        options, raw = self.options, self.frozen_features(views)
        features = unit(raw)
        text = features @ self.texts.t()
        similarities, weights = (text, text, text), torch.ones_like(text[0])
        if len(self.known):
            trained = torch.isin(self.keys, self.known)
            bridged, means = (
                rows_by_name(self.keys, self.known, rows, self.texts) for rows in (self.bridged, self.means)
            )
            image = unit(bridge(raw, self.inverse) @ self.projection) @ means.t()
            similarities = text, features @ bridged.t(), torch.where(trained, image, text)
            weights = rows_by_name(self.keys, self.known, self.weights[:, None], weights[:, None])[:, 0]
        sharpness = options.alpha, options.beta, options.gamma
        shares = options.text_weight, options.class_weight, options.image_weight
        return self.backbone.scale * blend(similarities, weights, sharpness, shares)


@dataclass(frozen=True)
class Texts:
    """The class texts that the training of the bridge reads.

    Attributes:
        features: Unit features, (C, E).
        states: Unit features before the last projection, (C, U).
        projection: The last projection, (U, E).
    """

    features: Tensor
    states: Tensor
    projection: Tensor


def invert(projection: Tensor) -> Tensor:
    """Return the pseudo-inverse, (E, U), of a projection, (U, E), without its small singular values."""
    largest = float(torch.linalg.matrix_norm(projection, 2))
    cutoff = CUTOFF if largest > CUTOFF else largest / 10  # a projection of another scale
    result: Tensor = torch.linalg.pinv(projection, atol=cutoff, rtol=0.0)
    return result


def bridge(features: Tensor, inverse: Tensor, shifts: Tensor | None = None) -> Tensor:
    """Return the unit vectors before the text projection, (N, U), of features that are not normalised, (N, E).

    Args:
        features: Of images.
        inverse: B, (E, U).
        shifts: Bias of the class of each image, (N, U).
    """
    return unit(features @ inverse if shifts is None else features @ inverse + shifts)


def class_means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of the rows, (N, E), of each class, (C, E); zero for a class without rows."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return rows.new_zeros(classes, rows.shape[1]).index_add(0, labels, rows) / counts[:, None]


def surprise_of(means: Tensor, texts: Tensor) -> Tensor:
    """Return -log2 of the probability that zero-shot CLIP without a scale gives to the mean of each class, (C,)."""
    probability = (means @ texts.t()).softmax(dim=1).diagonal()
    return ((1 + SMALL) / (probability + SMALL)).log2()


def blend(
    similarities: tuple[Tensor, Tensor, Tensor],
    weights: Tensor,
    sharpness: tuple[float, float, float],
    shares: tuple[float, float, float],
) -> Tensor:
    """Return the weighted sum of the exponentials of three cosines, (B, C).

    Args:
        similarities: Of image and text, of image and bridged class, of bridged image and class, (B, C) each.
        weights: v, the weights of the classes in the second and third term, (C,).
        sharpness: a, b and g.
        shares: The weights of the three terms.
    """
    text, bridged, image = (
        share * (sharp * (cosines - 1)).exp()
        for share, sharp, cosines in zip(shares, sharpness, similarities, strict=True)
    )
    return text + (bridged + image) * weights


def warmed_up(steps: int, rate: float) -> list[float]:
    """Return the learning rate of each step: it rises over the first tenth, and then stays."""
    warm = max(1, int(WARMUP * steps))
    return [rate * min(1.0, (step + 1) / warm) for step in range(steps)]


def descend(
    inverse: Tensor,
    bias: Tensor | None,
    features: Tensor,
    labels: Tensor,
    texts: Texts,
    rates: Sequence[float],
    parts: Sequence[Tensor] = (),
    *,
    scale: float,
) -> Iterator[float]:
    """Train a bridge in place, and yield the loss before each step.

    Args:
        inverse: Where B starts, (E, U).
        bias: Where the bias of each class starts, (C, U); None for no bias.
        features: Of the training images, not normalised, (N, E).
        labels: (N,).
        texts: The class texts.
        rates: Learning rate of each step.
        parts: Indices of the images that a step reads, in turn; all of them if there are none.
        scale: Of the cosines in the loss of the images.
    """
    trained = [inverse] if bias is None else [inverse, bias]
    optimizer = torch.optim.AdamW([tensor.requires_grad_() for tensor in trained], weight_decay=DECAY)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        part = parts[step % len(parts)] if len(parts) > 1 else slice(None)
        with torch.enable_grad():
            loss = bridge_loss(inverse, bias, features[part], labels[part], texts, scale)
        for tensor, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            tensor.grad = gradient
        optimizer.step()
        yield float(loss.detach())
    for tensor in trained:
        tensor.requires_grad_(False)


def bridge_loss(
    inverse: Tensor, bias: Tensor | None, features: Tensor, labels: Tensor, texts: Texts, scale: float
) -> Tensor:
    """Return the loss of SeMoBridge-T on training images, a scalar; the arguments are those of ``descend``."""
    count = len(texts.features)
    states = bridge(features, inverse, None if bias is None else bias[labels])
    images = states @ texts.projection
    bridged = F.normalize(class_means(images, labels, count), dim=1)
    means = F.normalize(class_means(states, labels, count), dim=1)
    classes = torch.arange(count, device=labels.device)
    to_images = F.cross_entropy(scale * F.normalize(features, dim=1) @ bridged.t(), labels)
    to_texts = F.cross_entropy(bridged @ texts.features.t(), classes) + F.cross_entropy(
        means @ texts.states.t(), classes
    )
    alike = F.cross_entropy(F.normalize(images, dim=1) @ bridged.t(), labels)
    loss = to_images / 2 + to_texts / 4 + alike / 10
    return loss if bias is None else loss + bias.norm(dim=1).var(correction=0) / 10
