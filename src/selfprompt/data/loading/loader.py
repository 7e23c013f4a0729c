"""Batches of images: the same for any number of threads and processes, and resumable at any step."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from selfprompt.data.dataset import Item, Source
from selfprompt.data.loading.features import FeatureStore
from selfprompt.data.loading.image_files import BadImage, BadImageError
from selfprompt.data.loading.prefetch import prefetch
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.loading.transforms import Transform

__all__ = ["BadImage", "BadImageError", "Batch", "Batches", "ImageStore"]


class Batch(NamedTuple):
    """One step's images.

    Attributes:
        images: Normalised pixels, (B, 3, S, S), float32, on the batches' device; (B, 0) where none were asked for.
        labels: Class indices, (B,), int64, on the CPU.
        indices: Where the images stand in ``Batches.items``, (B,), int64, on the CPU.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class Batches:
    """The batches of every epoch.

    The order of epoch n depends on (seed, n) only, the random crop of an image on (seed, n, its index) only, or with
    fixed views on (seed, n mod views, its index). So nothing has to be saved to go on at step k of epoch n, and threads
    change nothing but the speed.

    With several processes each global batch is cut into ``world`` contiguous parts whose sizes differ by at
    most one; this process gets part ``rank``, which is empty, (0, 3, S, S), where a last batch has fewer
    images than processes.

    Args:
        items: The images.
        store: Where decoded images are looked up and kept.
        transform: From `transforms.eval_transform` or `transforms.train_transform`.
        batch_size: Images in a global batch, over all processes.
        shuffle: Whether an epoch has an order of its own; otherwise that of the items.
        seed: Seed of orders and crops; 0 is a seed.
        drop_last: Whether to leave out an incomplete last batch; "auto" only where there is a full one.
        rank: This process, 0 to world - 1.
        world: Number of processes.
        workers: Threads that prepare images; 0 prepares them in the calling thread.
        validation: Images of the same classes on which hyper-parameters may be chosen; None where there are none.
        views: Random views that an image has: epoch n shows view n mod views. 0: another one in every epoch.
        features: Where frozen features of the images are kept while their views repeat; None keeps none.
        device: Where the images are wanted. To a GPU they are sent as bytes, while it still computes.

    Raises:
        ValueError: If there are no images, no batch is left, or a number is out of range.
    """

    def __init__(
        self,
        items: Sequence[Item],
        store: ImageStore,
        transform: Transform,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool | Literal["auto"] = False,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        validation: "Batches | None" = None,
        views: int = 0,
        features: FeatureStore | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not items:
            raise ValueError("Batches need at least 1 image, got none.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if not 0 <= rank < world:
            raise ValueError(f"rank must lie in 0..world - 1, got rank {rank} of world {world}.")
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}.")
        if views < 0:
            raise ValueError(f"views must be 0 (a new one in every epoch) or a number of views, got {views}.")
        if drop_last not in (True, False, "auto"):
            raise ValueError(f"drop_last must be True, False or 'auto', got {drop_last!r}.")
        if drop_last is True and len(items) < batch_size:
            raise ValueError(f"drop_last leaves no batch: {len(items)} images, batch_size {batch_size} (try 'auto').")
        self.items = tuple(items)
        self.store = store
        self.transform = transform
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop = bool(drop_last) and len(items) >= batch_size
        self.rank = rank
        self.world = world
        self.workers = workers
        self.validation = validation
        self.views = views
        self.features = features
        self.device = torch.device(device)
        self.labels = torch.tensor([item.label for item in items])

    def __len__(self) -> int:
        """Steps in an epoch, the same in every process."""
        whole, rest = divmod(len(self.items), self.batch_size)
        return whole + (rest > 0 and not self.drop)

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.items)

    @property
    def classes(self) -> int:
        """Number of classes: the largest label plus one."""
        return int(self.labels.max()) + 1

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Where the images come from."""
        return tuple(item.source for item in self.items)

    @property
    def repeats(self) -> bool:
        """Whether other epochs show the same views again."""
        return not self.transform.random or self.views > 0

    @property
    def in_order(self) -> bool:
        """Whether an epoch is all images in the order of the items."""
        return not (self.shuffle or self.drop or self.world > 1)

    def draw(self, number: int) -> int:
        """Which random views epoch ``number`` shows."""
        return number % self.views if self.views else number

    def order(self, number: int) -> list[int]:
        """The indices of epoch ``number`` in the order of its batches, all of them."""
        if not self.shuffle:
            return list(range(self.size))
        return torch.randperm(self.size, generator=seeded(self.seed, number)).tolist()

    def epoch(self, number: int, start_step: int = 0, *, pixels: bool = True) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            number: Which epoch, from 0.
            start_step: How many steps to leave out at the start; they cost nothing.
            pixels: Whether images are wanted; without them none is decoded.

        Raises:
            ValueError: If either is negative or there are fewer steps.
            BadImageError: While iterating, if an image cannot be read.
        """
        if number < 0 or not 0 <= start_step <= len(self):
            raise ValueError(f"epoch() needs number >= 0, 0 <= start_step <= {len(self)}; got {number}, {start_step}.")
        order = self.order(number)
        starts = range(start_step * self.batch_size, len(self) * self.batch_size, self.batch_size)
        parts = [self._part(order[start : start + self.batch_size]) for start in starts]
        if not pixels:
            return (self._collate(part, None) for part in parts)
        return self._steps(parts, number)

    def batch(self, indices: Sequence[int] | Tensor, draw: int = 0) -> Tensor:
        """The images at given indices, in their order.

        Args:
            indices: Positions in ``items``, (B,); repeats are allowed.
            draw: Which random crops to take: those of epoch ``draw``. Means nothing to a deterministic
                transform.

        Returns:
            Normalised pixels, (B, 3, S, S), float32, on the batches' device.
        """
        chosen = [int(index) for index in indices]
        [pixels] = prefetch(lambda index: self._pixels(index, draw), [chosen], self.workers)
        return self.transform.batch(pixels, self.device)

    def plain(self) -> "Batches":
        """The same images under the evaluation transform, in their order; every process gets all of them."""
        return self._in_order(self.transform.deterministic())

    def ordered(self) -> "Batches":
        """The same views of the same images in their order; every process gets all of them."""
        return self._in_order(self.transform)

    def _in_order(self, transform: Transform) -> "Batches":
        return Batches(
            self.items,
            self.store,
            transform,
            self.batch_size,
            shuffle=False,
            seed=self.seed,
            workers=self.workers,
            views=self.views,
            features=self.features,
            device=self.device,
        )

    def _part(self, batch: list[int]) -> list[int]:
        """This process's part of a global batch."""
        share, rest = divmod(len(batch), self.world)
        start = self.rank * share + min(self.rank, rest)
        return batch[start : start + share + (self.rank < rest)]

    def _pixels(self, index: int, draw: int) -> Tensor:
        generator = seeded(self.seed, self.draw(draw), index) if self.transform.random else None
        return self.store.apply(lambda image: self.transform.pixels(image, generator), self.items[index])

    def _collate(self, indices: list[int], pixels: list[Tensor] | None) -> Batch:
        chosen = torch.tensor(indices, dtype=torch.int64)
        images = torch.empty(len(indices), 0) if pixels is None else self.transform.batch(pixels, self.device)
        return Batch(images, self.labels[chosen], chosen)

    def _steps(self, parts: list[list[int]], number: int) -> Iterator[Batch]:
        pixels = prefetch(lambda index: self._pixels(index, number), parts, self.workers)
        for part, cuts in zip(parts, pixels, strict=True):
            yield self._collate(part, cuts)


def seeded(*key: int) -> Generator:
    """A generator whose seed is a hash of the key: neighbouring keys give unrelated numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
