"""A method small enough to train in milliseconds, and images for it; for tests and the scripts they start."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform, train_transform
from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.traits import Traits
from selfprompt.models.backbone import Preprocess

SIZE = 8
PREPROCESS = Preprocess(
    size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), interpolation="bicubic", mode="shortest"
)


class TinyTower(nn.Linear):
    """A frozen layer in place of a vision tower; counts the images that it encoded."""

    def __init__(self) -> None:
        super().__init__(3 * SIZE * SIZE, 16)
        self.requires_grad_(False)
        self.seen = 0

    def check_pooling(self, pooling: str) -> None:
        """Accept any pooling."""

    def forward(self, images: Tensor, pooling: str = "native") -> Tensor:
        self.seen += len(images)
        return super().forward(images.flatten(1))


@dataclass(frozen=True)
class TinyOptions:
    """Options of the tiny method."""

    dropout: float = 0.0
    penalty: bool = False


class TinyMethod(Method[TinyOptions]):
    """Frozen features plus prompts, dropout, a head; ``unused`` never receives a gradient."""

    def __init__(self, dropout: float = 0.0, penalty: bool = False) -> None:
        backbone = SimpleNamespace(name="tiny", fingerprint="tiny", vision=TinyTower(), text=None, pooling="native")
        options, generator = TinyOptions(dropout, penalty), torch.Generator().manual_seed(0)
        super().__init__(backbone, ("red", "green", "blue"), options, generator)

    def build(self, generator: torch.Generator) -> None:
        self.prompts = nn.Parameter(torch.zeros(2, 16))
        self.head = nn.Linear(16, 3)
        self.unused = nn.Parameter(torch.ones(2, 2))
        self.epochs_seen: list[tuple[int, int]] = []
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "unused":
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def logits(self, views: Views) -> Tensor:
        features = torch.tanh(self.frozen_features(views) + self.prompts.sum(dim=0))
        return self.head(F.dropout(features, self.options.dropout, self.training))

    def loss(self, views: Views) -> LossTerms:
        logits = self.logits(views)
        terms = {"ce": F.cross_entropy(logits, views.labels)}
        if self.options.penalty:
            terms["size"] = self.prompts.square().mean()
        return LossTerms(terms, {"size": 0.5}, logits.detach())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        self.epochs_seen.append((epoch, epochs))


class FrozenMethod(TinyMethod):
    """The same method, which takes frozen features where they are known already."""

    @classmethod
    def traits_for(cls, options: TinyOptions) -> Traits:
        return Traits(inputs="features")


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
