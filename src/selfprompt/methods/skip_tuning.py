"""Skip Tuning: the upper halves of both CLIP towers, trained with a part of the classes in each step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template, filled_templates, mean_of_texts
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.models.text_encoding import encode_with_shared_prefix
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Tower

TowerT = TypeVar("TowerT", bound=Tower)


@dataclass(frozen=True)
class SkipTuningOptions:
    """Options of Skip Tuning."""

    share: float = 0.5
    """Share of the classes, rounded up, that every step trains with."""
    most: int = 50
    """Number of classes that this share is limited to."""
    decay: float = 0.3
    """How slowly the probability of a further class falls with its rank."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(most=self.most)
        check_template(self.template)
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}.")
        if self.decay <= 0:
            raise ValueError(f"decay must be above 0, got {self.decay}.")


@dataclass(frozen=True)
class UpperHalf:
    """A prompter without prompts: blocks before ``first`` run without gradients."""

    first: int
    needs_all_outputs: ClassVar[bool] = False

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        if index >= self.first or not torch.is_grad_enabled():
            return block(tokens)
        with torch.no_grad():
            return block(tokens)


class SkipTuning(Method[SkipTuningOptions]):
    """``logits = scale cos(f, t_c)`` from copies of both towers, of which the upper half is trained.

    Trained are the blocks from depth / 2 on, and what follows the last: the norms and projections. Embeddings and the
    blocks before stay as they are, and are computed without gradients.

    In training, a step skips classes: they are ranked by the greatest cosine of their frozen text and an image of the
    batch, behind the labels of the batch. The first ``n = min(ceil(share C), most)`` are kept; the others with a
    probability that falls from 1 to 0 over the ranks, as ``exp(-x / decay)`` with x from 0 to 5, scaled. Which ranks
    are kept is drawn once, with the seed. The class of an image is always kept, even if a batch has more than n.

    Differs from the reference code: a batch has images of any classes (there of one, from four shots on), there is one
    template, and the tokens of the lower half are computed in each step instead of once in each epoch.

    Source: Wu et al. 2025 (arXiv 2412.11509, CVPR 2025), layer-wise and class-wise skipping; released code
    Koorye/SkipTuning.
    """

    Options = SkipTuningOptions
    texts: Tensor
    kept_ranks: Tensor

    @classmethod
    def traits_for(cls, options: SkipTuningOptions) -> Traits:
        return Traits(edits=("image", "text"), needs_text=True, open_vocabulary=True)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        self.register_texts(filled_templates([options.template], self.descriptions))
        pixels = self.ids.new_zeros(1, 3, *self.vision.image_size, dtype=torch.float32)
        self.image_half = UpperHalf(self.vision.depth // 2)
        self.text_half = UpperHalf(self.text.depth // 2)
        self.vision = copy_with_trained_half(self.vision, pixels, self.image_half)
        self.text = copy_with_trained_half(self.text, self.ids[:1], self.text_half)
        texts = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        kept_ranks = draw_kept_ranks(len(self.classes), options, generator).to(texts.device)
        self.register_buffer("kept_ranks", kept_ranks, persistent=False)

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.vision(views.pixels, self.image_half))

    def encode_classes(self) -> Tensor:
        return unit(self.encode_texts_with_shared_prefix(self.text_half, throughout=True))

    def encode_some_classes(self, classes: Tensor) -> Tensor:
        """Compute unit features of some classes, (n, E), from their rising indices, (n,)."""
        texts, owners = classes, None
        if self.owners is not None:
            texts = torch.isin(self.owners, classes).nonzero()[:, 0]
            owners = torch.searchsorted(classes, self.owners[texts])
        features = encode_with_shared_prefix(
            self.text,
            self.ids[texts],
            self.text_half,
            throughout=True,
            memory=self.text_cache_bytes,
            host_ids=self.host_ids[texts.cpu()],
        )
        return unit(mean_of_texts(features, owners, len(classes)))

    def loss(self, views: Views) -> LossTerms:
        """Compute the cross-entropy, in training over the classes that the batch keeps; others get logits of -inf."""
        if not self.training:
            return super().loss(views)
        images = self.encode_images(views)
        classes = kept_classes(images.detach() @ self.texts.t(), views.labels, self.kept_ranks).nonzero()[:, 0]
        logits = self.class_logits(images, self.encode_some_classes(classes))
        loss = F.cross_entropy(logits, torch.searchsorted(classes, views.labels))
        skipped = logits.new_full((len(images), len(self.classes)), -torch.inf)
        return LossTerms({"ce": loss}, logits=skipped.index_copy(1, classes, logits.detach()))


def draw_kept_ranks(classes: int, options: SkipTuningOptions, generator: torch.Generator) -> Tensor:
    """Draw which ranks of a step's classes are kept, (C,), bool."""
    sure = min(math.ceil(options.share * classes), options.most)
    falling = torch.exp(-torch.linspace(0, 5, classes - sure) / options.decay)
    least = math.exp(-5 / options.decay)
    drawn = torch.rand(classes - sure, generator=generator) < (falling - least) / (1 - least)
    return torch.cat([torch.ones(sure, dtype=torch.bool), drawn])


def kept_classes(cosines: Tensor, labels: Tensor, kept_ranks: Tensor) -> Tensor:
    """Return which classes a batch keeps, (C,), bool.

    Args:
        cosines: Of images and frozen class texts, (B, C).
        labels: Class of each image, (B,).
        kept_ranks: Which ranks are kept, (C,), bool.
    """
    order = cosines.amax(dim=0).index_fill(0, labels, torch.inf).argsort(descending=True, stable=True)
    return torch.empty_like(kept_ranks).index_copy(0, order, kept_ranks).index_fill(0, labels, True)


def copy_with_trained_half(tower: TowerT, inputs: Tensor, half: UpperHalf) -> TowerT:
    """Return a copy of a tower that trains the parameters that the blocks of the half and all behind them use.

    Args:
        tower: The tower.
        inputs: Any input of the tower.
        half: Where gradients begin.
    """
    copied = copy.deepcopy(tower).requires_grad_(True)
    parameters = list(copied.parameters())
    with torch.enable_grad():
        features = copied(inputs, half)
        gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return copied
