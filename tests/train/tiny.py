"""A method small enough to train in milliseconds, and images for it; for tests and the scripts they start."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.features import Encoder
from selfprompt.data.items import ImageTable, IndexedSource, Item
from selfprompt.data.loader import Batches, ImageStore
from selfprompt.data.transforms import eval_transform, train_transform

SIZE = 8
PREPROCESS = SimpleNamespace(
    size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic", mode="shortest"
)


@dataclass(frozen=True)
class Terms:
    """The same fields as the library's ``LossTerms``."""

    terms: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)
    logits: Tensor | None = None

    @property
    def total(self) -> Tensor:
        return torch.stack([self.weights.get(name, 1.0) * term for name, term in self.terms.items()]).sum()


class TinyMethod(nn.Module):
    """Frozen features plus prompts, dropout, a head; ``unused`` never receives a gradient."""

    def __init__(self, dropout: float = 0.0, penalty: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.backbone = nn.Linear(3 * SIZE * SIZE, 16).requires_grad_(False)
        self.prompts = nn.Parameter(torch.zeros(2, 16))
        self.head = nn.Linear(16, 3)
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.dropout = nn.Dropout(dropout)
        self.penalty = penalty
        self.epochs_seen: list[tuple[int, int]] = []
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "unused":
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def logits(self, images: Tensor) -> Tensor:
        features = torch.tanh(self.backbone(images.flatten(1)) + self.prompts.sum(dim=0))
        return self.head(self.dropout(features))

    def loss(self, images: Tensor, labels: Tensor) -> Terms:
        logits = self.logits(images)
        terms = {"ce": F.cross_entropy(logits, labels)}
        if self.penalty:
            terms["size"] = self.prompts.square().mean()
        return Terms(terms, {"size": 0.5}, logits.detach())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        self.epochs_seen.append((epoch, epochs))

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def adapter_state_dict(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.trainable().items()}


class FrozenMethod(TinyMethod):
    """The same method, which takes what its frozen layer gives; notes how many images that layer has seen."""

    needs_pixels = False
    seen = 0

    def frozen(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        with torch.no_grad():
            return self.backbone(images.flatten(1))

    def frozen_encoder(self) -> Encoder:
        return Encoder("tiny", self.frozen)

    def logits(self, images: Tensor, frozen: Tensor | None = None) -> Tensor:
        features = torch.tanh((self.frozen(images) if frozen is None else frozen) + self.prompts.sum(dim=0))
        return self.head(self.dropout(features))

    def loss(self, images: Tensor, labels: Tensor, frozen: Tensor | None = None) -> Terms:
        logits = self.logits(images, frozen)
        return Terms({"ce": F.cross_entropy(logits, labels)}, {}, logits.detach())


def items(count: int, seed: int = 0) -> list[Item]:
    """Noisy images whose class is their brightest channel."""
    rng = np.random.default_rng(seed)
    labels = [index % 3 for index in range(count)]
    pixels = rng.integers(0, 140, size=(count, SIZE + 2, SIZE, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., label] += 90
    table = ImageTable("tiny", lambda index: pixels[index])
    return [Item(IndexedSource(table, index), label) for index, label in enumerate(labels)]


def batches(count: int, batch_size: int = 8, *, augment: bool = True, **others: Any) -> Batches:
    """Shuffled and augmented training batches."""
    transform = train_transform(PREPROCESS, "crop-flip" if augment else "none")
    return Batches(items(count), ImageStore(), transform, batch_size, shuffle=True, seed=3, **others)


def validation(count: int = 20, **others: Any) -> Batches:
    """Other images, always in the same view."""
    return Batches(items(count, seed=1), ImageStore(), eval_transform(PREPROCESS), 8, shuffle=False, **others)


def state(method: TinyMethod) -> dict[str, Tensor]:
    """A copy of all tensors, frozen ones included."""
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}
