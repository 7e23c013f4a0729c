"""Batches of images: the same for any number of threads and processes, and resumable at any step."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Generator, Tensor

from selfprompt.data.dataset import Item, Source
from selfprompt.data.loading.feature_cache import Encoder, FeatureStore, SetKey
from selfprompt.data.loading.image_files import BadImage, BadImageError
from selfprompt.data.loading.prefetch import prefetch
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.loading.transforms import Transform
from selfprompt.data.views import Views

__all__ = ["BadImage", "BadImageError", "Batches", "ImageStore"]


class Batches:
    """The batches of every epoch.

    The order of epoch n depends on (seed, n) only; the random crop of an image on (seed, n, its index) only, or with
    fixed views on (seed, n mod views, its index). So nothing has to be saved to resume at step k of epoch n, and
    threads change nothing but the speed.

    With several processes each global batch is cut into ``world`` contiguous parts whose sizes differ by at most one.
    This process gets part ``rank``, which is empty, (0, 3, S, S), if a last batch has fewer images than processes.

    Args:
        items: The images.
        store: Decodes images, and keeps them.
        transform: From `transforms.eval_transform` or `transforms.train_transform`.
        batch_size: Number of images in a global batch, over all processes.
        shuffle: Whether to draw a new order for each epoch; otherwise the order is that of the items.
        seed: Seed of orders and crops; 0 is a seed.
        drop_last: Whether to drop an incomplete last batch; "auto" only if there is a full one.
        rank: This process, 0 to world - 1.
        world: Number of processes.
        workers: Threads that prepare images; 0 prepares them in the calling thread.
        validation: Images of the same classes for selecting hyper-parameters; None if there are none.
        views: Number of random views per image: epoch n shows view n mod views. 0: a new view in every epoch.
        features: Keeps frozen features of the images while their views repeat; None keeps none.
        device: Device of the pixels. A GPU receives them as bytes, while it computes.

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
        """Sources of the images."""
        return tuple(item.source for item in self.items)

    @property
    def keeps_features(self) -> bool:
        """Whether ``epoch`` fills in features: there is a store, and the views repeat in other epochs."""
        return self.features is not None and (not self.transform.random or self.views > 0)

    def draw(self, number: int) -> int:
        """Return which random views epoch ``number`` shows."""
        return number % self.views if self.views else number

    def order(self, number: int) -> list[int]:
        """Return all indices in the order of epoch ``number``."""
        if not self.shuffle:
            return list(range(self.size))
        return torch.randperm(self.size, generator=seeded(self.seed, number)).tolist()

    def epoch(
        self, number: int, start_step: int = 0, *, encoder: Encoder | None = None, pixels: bool = True
    ) -> Iterator[Views]:
        """Yield the batches of one epoch. Pixels are on the batches' device, everything else on the CPU.

        Args:
            number: The epoch, from 0.
            start_step: Number of steps to skip; they cost nothing.
            encoder: Computes the features to fill in, if features are kept and there is room for them.
            pixels: Whether pixels are needed where features are filled in; if not, no image is decoded.

        Raises:
            ValueError: If a number is negative or there are fewer steps.
            BadImageError: While iterating, if an image cannot be read.
        """
        if number < 0 or not 0 <= start_step <= len(self):
            raise ValueError(f"epoch() needs number >= 0, 0 <= start_step <= {len(self)}; got {number}, {start_step}.")
        if encoder is None or not self.keeps_features:
            return self._pixels_of(number, start_step)
        return self._with_features(number, start_step, encoder, pixels)

    def batch(self, indices: Sequence[int] | Tensor, draw: int = 0) -> Tensor:
        """Return the pixels of the images with the given indices, in this order.

        Args:
            indices: Positions in ``items``, (B,); repeats are allowed.
            draw: Use the random crops of epoch ``draw``; has no effect on a deterministic transform.

        Returns:
            Normalised pixels, (B, 3, S, S), float32, on the batches' device.
        """
        positions = [int(index) for index in indices]
        [pixels] = prefetch(lambda index: self._decoded(index, draw), [positions], self.workers)
        return self.transform.batch(pixels, self.device)

    def deterministic(self) -> "Batches":
        """Return the same images under the evaluation transform, in order; every process gets all of them."""
        return self._in_order(self.transform.deterministic())

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

    def _steps(self, number: int, start_step: int) -> list[list[int]]:
        """Return the indices of this process's part of each batch of an epoch."""
        order = self.order(number)
        starts = range(start_step * self.batch_size, len(self) * self.batch_size, self.batch_size)
        return [self._part(order[start : start + self.batch_size]) for start in starts]

    def _part(self, batch: list[int]) -> list[int]:
        """Return this process's part of a global batch."""
        share, rest = divmod(len(batch), self.world)
        start = self.rank * share + min(self.rank, rest)
        return batch[start : start + share + (self.rank < rest)]

    def _decoded(self, index: int, draw: int) -> Tensor:
        generator = seeded(self.seed, self.draw(draw), index) if self.transform.random else None
        return self.store.apply(lambda image: self.transform.pixels(image, generator), self.items[index])

    def _pixels_of(self, number: int, start_step: int = 0) -> Iterator[Views]:
        """Yield the batches of an epoch with pixels only."""
        steps = self._steps(number, start_step)
        decoded = prefetch(lambda index: self._decoded(index, number), steps, self.workers)
        for step, pixels in zip(steps, decoded, strict=True):
            indices = torch.tensor(step, dtype=torch.int64)
            yield Views(self.transform.batch(pixels, self.device), None, self.labels[indices], indices)

    def _with_features(self, number: int, start_step: int, encoder: Encoder, pixels: bool) -> Iterator[Views]:
        """Yield the batches of an epoch with features, or with pixels only if the store has no room for the set."""
        assert self.features is not None
        key = self._feature_key(number, encoder)
        features = self.features.get(key, self.store)
        in_order = not (self.shuffle or self.drop or self.world > 1 or start_step)
        if features is None and in_order:
            yield from self._encoded(key, number, encoder)
            return
        if features is None:
            features = self._computed(key, number, encoder)
        if pixels or features is None:
            for views in self._pixels_of(number, start_step):
                yield views if features is None else views.with_features(features[views.indices])
        else:
            for step in self._steps(number, start_step):
                indices = torch.tensor(step, dtype=torch.int64)
                yield Views(None, features[indices], self.labels[indices], indices)

    def _feature_key(self, number: int, encoder: Encoder) -> SetKey:
        """Return the key of the features of an epoch's views."""
        view = (self.seed, self.draw(number)) if self.transform.random else ()
        return SetKey(encoder.key, self.transform, view, self.batch_size, self.sources)

    def _computed(self, key: SetKey, number: int, encoder: Encoder) -> Tensor | None:
        """Return the features of an epoch's views, (N, E); None, after the first batch, if they do not fit."""
        assert self.features is not None
        for views in self._in_order(self.transform)._encoded(key, number, encoder):
            if views.features is None or not self.features.has_room(self.size, views.features):
                return None
        return self.features.get(key, self.store)

    def _encoded(self, key: SetKey, number: int, encoder: Encoder) -> Iterator[Views]:
        """Yield the batches of an epoch in the order of the items, with features; keep these once all are computed."""
        assert self.features is not None
        kept, done = None, 0
        for views in self._pixels_of(number):
            features = encoder.encode(views.pixels)
            if done == 0 and self.features.has_room(self.size, features):
                with torch.inference_mode(False):  # training may need them later
                    kept = torch.empty(self.size, *features.shape[1:], dtype=features.dtype)
            if kept is not None:
                kept[done : done + len(features)] = features
            done += len(features)
            yield views.with_features(features)
        if kept is not None:
            self.features.put(key, self.store, kept)


def seeded(*key: int) -> Generator:
    """Return a generator seeded with a hash of the key: neighbouring keys give unrelated numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
