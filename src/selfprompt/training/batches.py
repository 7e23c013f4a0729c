"""Batches as a method takes them: on its device, with frozen features of the images where they are kept."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from lightning_fabric import Fabric
from torch import Tensor

from selfprompt.data.loading.features import Encoder, with_features

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batches
    from selfprompt.methods.base import LossTerms, Method


class Part(NamedTuple):
    """A batch, or a part of one.

    Attributes:
        images: (B, 3, H, W), or (B, 0) where the method needs no pixels beside ``frozen``.
        labels: (B,).
        frozen: The frozen backbone's own features of the images, (B, E); None where the method runs it itself.
    """

    images: Tensor
    labels: Tensor
    frozen: Tensor | None

    def chunks(self, count: int) -> list["Part"]:
        """The batch in at most so many parts."""
        images, labels = self.images.chunk(count), self.labels.chunk(count)
        frozen = [None] * len(images) if self.frozen is None else self.frozen.chunk(count)
        return [Part(*part) for part in zip(images, labels, frozen, strict=True)]

    def first(self) -> Self:
        """Its first image alone."""
        return self._replace(
            images=self.images[:1], labels=self.labels[:1], frozen=None if self.frozen is None else self.frozen[:1]
        )

    def logits(self, method: "Method") -> Tensor:
        """The method's scores, (B, C)."""
        return method.logits(self.images) if self.frozen is None else method.logits(self.images, self.frozen)

    def loss(self, method: "Method") -> "LossTerms":
        """The method's loss."""
        if self.frozen is None:
            return method.loss(self.images, self.labels)
        return method.loss(self.images, self.labels, self.frozen)


def parts(method: "Method", batches: "Batches", number: int, fabric: Fabric) -> Iterator[Part]:
    """This process's parts of an epoch's batches, on its device."""

    def encoder() -> Encoder | None:
        with fabric.autocast():
            return method.frozen_encoder()

    for images, labels, _, frozen in with_features(batches, number, encoder, pixels=method.traits.inputs != "features"):
        yield Part(*cast(tuple[Tensor, Tensor, Tensor | None], fabric.to_device((images, labels, frozen))))
