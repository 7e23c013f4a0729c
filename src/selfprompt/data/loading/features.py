"""Frozen features of images, computed once: one tensor a set, in memory and by wish on disk; knows no models.

A set is a list of images in one view each: under a transform without randomness, or as one of the fixed views of
``Batches``. Its features are computed in the order of the images, in batches of ``batch_size``. So they depend on no
epoch and on nothing that was computed before: a resumed run meets the same bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfprompt.data.loading.feature_files import FeatureFolder, SetKey
from selfprompt.data.loading.store import parse_bytes

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batch, Batches


@dataclass(frozen=True)
class Encoder:
    """A frozen model's way from images to features.

    Attributes:
        key: Tells apart encoders whose features differ: weights, pooling, precision, kind of device.
        encode: Preprocessed images, (B, 3, H, W), to features, (B, E), without a gradient.
    """

    key: str
    encode: Callable[[Tensor], Tensor]


def matmul_precision(kind: str) -> str:
    """How float32 matrices are multiplied on a kind of device, in torch's words: "highest", "high" or "medium".

    ``torch.get_float32_matmul_precision`` raises where somebody has used torch's newer switches, as in
    ``torch.backends.cuda.matmul.fp32_precision = "tf32"``; so these are read where torch has them.
    """
    switches = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    newer = getattr(getattr(switches.get(kind), "matmul", None), "fp32_precision", None)
    if newer is None:
        return torch.get_float32_matmul_precision() if kind in switches else "highest"
    return {"none": "highest", "ieee": "highest", "tf32": "high", "bf16": "medium"}.get(newer, newer)


class FeatureStore:
    """Features of sets of images, each computed once and kept while the budget lasts, others on demand.

    Nothing is ever thrown out, as in ``ImageStore`` and for the same reason.

    Args:
        budget: Bytes to keep in memory, or a string such as "2GB", "500MB", "0". An image takes E numbers a view.
        folder: Where features are kept for later processes, too; None keeps them in memory alone.

    Raises:
        ValueError: If the budget is negative or cannot be read, or the folder is a file.
    """

    def __init__(self, budget: int | str = "2GB", folder: str | Path | None = None) -> None:
        self.budget = parse_bytes(budget)
        self.used = 0
        self._files = None if folder is None else FeatureFolder(Path(folder))
        self._kept: dict[SetKey, Tensor] = {}

    def __len__(self) -> int:
        """Number of features kept."""
        return sum(map(len, self._kept.values()))

    def epoch(
        self, batches: "Batches", number: int, encoder: Encoder, *, pixels: bool = True
    ) -> Iterator[tuple["Batch", Tensor | None]]:
        """The batches of one epoch with the features of their images.

        Args:
            batches: Their views repeat.
            number: Which epoch, from 0.
            encoder: Runs over the whole set if its features are not known yet.
            pixels: Whether pixels are wanted beside features; without them no image is decoded.

        Yields:
            A batch and its features, (B, E); None, and the pixels, where the budget has no room for the set.
        """
        key = SetKey.of(batches, number, encoder.key)
        kept = self._known(key, batches)
        if kept is None and batches.in_order:
            yield from self._computed(key, batches, number, encoder)
            return
        if kept is None:
            kept = self._filled(key, batches.ordered(), number, encoder)
        for batch in batches.epoch(number, pixels=pixels or kept is None):
            yield batch, None if kept is None else kept[batch.indices]

    def _known(self, key: SetKey, batches: "Batches") -> Tensor | None:
        """The features of a set from memory, or from disk."""
        kept = self._kept.get(key)
        if kept is None and self._files is not None:
            kept = self._files.read(key, batches.store)
            if kept is not None:
                self._keep(key, kept)
        return kept

    def _filled(self, key: SetKey, ordered: "Batches", number: int, encoder: Encoder) -> Tensor | None:
        """The features of a set after a pass over it; None, after its first batch, if there is no room for them."""
        for _, features in self._computed(key, ordered, number, encoder):
            if not self._room(ordered.size, features):
                return None
        return self._kept[key]

    def _computed(
        self, key: SetKey, batches: "Batches", number: int, encoder: Encoder
    ) -> Iterator[tuple["Batch", Tensor]]:
        """The batches of an epoch in the order of the images with their features, kept once all have been seen."""
        whole, done = None, 0
        for batch in batches.epoch(number):
            features = encoder.encode(batch.images)
            if done == 0 and self._room(batches.size, features):
                with torch.inference_mode(False):  # training may need them later
                    whole = torch.empty(batches.size, *features.shape[1:], dtype=features.dtype)
            if whole is not None:
                whole[done : done + len(features)] = features
            done += len(features)
            yield batch, features
        if whole is not None:
            self._keep(key, whole)
            if self._files is not None:
                self._files.write(key, batches.store, whole)

    def _room(self, images: int, features: Tensor) -> bool:
        """Whether that many images' features fit in beside what is kept."""
        return self.used + images * features[0].numel() * features.element_size() <= self.budget

    def _keep(self, key: SetKey, features: Tensor) -> None:
        if self._room(len(features), features):
            self._kept[key] = features
            self.used += features.numel() * features.element_size()


def with_features(
    source: Any, number: int, encoder: Callable[[], Encoder | None], *, pixels: bool = True
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """One epoch of any source of batches, with frozen features where they are kept.

    Args:
        source: ``Batches``, or whatever has an ``epoch``.
        number: Which epoch, from 0.
        encoder: Gives the encoder, or None for no features; asked only if the source keeps features at all.
        pixels: Whether pixels are wanted beside features.

    Yields:
        Images, labels and indices as ``source.epoch`` gives them, and features, (B, E), or None. Where there are
        features and no pixels are wanted, images may be (B, 0).
    """
    store = getattr(source, "features", None)
    made = encoder() if store is not None and source.repeats else None
    if store is None or made is None:
        for batch in source.epoch(number):
            yield (*batch, None)
        return
    for batch, features in store.epoch(source, number, made, pixels=pixels):
        yield (*batch, features)
