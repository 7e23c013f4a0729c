"""Features from the frozen vision tower, computed once per set of images and kept in memory, optionally on disk.

A set is a list of images with one view each: under a transform without randomness, or one of the fixed views of
``Batches``. Its features are computed in the order of the images, in batches of ``batch_size``. They depend on no epoch
and on nothing computed before, so a resumed run sees the same bits.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from selfprompt.data.dataset import IndexedSource, Item, Source
from selfprompt.data.loading.store import ImageStore, parse_bytes
from selfprompt.data.loading.transforms import Transform
from selfprompt.utils.files import write_atomically

logger = logging.getLogger(__name__)

LIBRARIES = ("selfprompt", "torch", "pillow")
"""Libraries that decode, resize and compute: another version may give other bits."""


@dataclass(frozen=True)
class Encoder:
    """Maps images to frozen features.

    Attributes:
        key: Differs between encoders whose features differ: weights, pooling, precision, kind of device.
        encode: From preprocessed images, (B, 3, H, W), to features, (B, E), without gradients.
    """

    key: str
    encode: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SetKey:
    """Everything that the features of a set of images depend on.

    Attributes:
        encoder: The encoder's key.
        transform: From image to pixels.
        view: Seed and number of the random views; empty if the transform has no randomness.
        batch_size: Number of images encoded together, which changes the last bits.
        sources: The images, in order.
    """

    encoder: str
    transform: Transform
    view: tuple[int, ...]
    batch_size: int
    sources: tuple[Source, ...]


class FeatureStore:
    """Features of sets of images, kept while they fit into the budget. Nothing is evicted, as in ``ImageStore``.

    Args:
        budget: Bytes to keep in memory, or a string such as "2GB", "500MB", "0". An image takes E numbers per view.
        folder: Folder that also keeps the features, for later processes; None keeps them in memory only.

    Raises:
        ValueError: If the budget is negative or cannot be read, or the folder is a file.
    """

    def __init__(self, budget: int | str = "2GB", folder: str | Path | None = None) -> None:
        self.budget = parse_bytes(budget)
        self.used = 0
        self._folder = None if folder is None else FeatureFolder(Path(folder))
        self._kept: dict[SetKey, Tensor] = {}

    def __len__(self) -> int:
        """Number of images' features in memory."""
        return sum(map(len, self._kept.values()))

    def get(self, key: SetKey, images: ImageStore) -> Tensor | None:
        """Return the features of a set, (N, E), from memory or disk; None if they are not known."""
        features = self._kept.get(key)
        if features is None and self._folder is not None:
            features = self._folder.read(key, images)
            if features is not None:
                self._keep(key, features)
        return features

    def put(self, key: SetKey, images: ImageStore, features: Tensor) -> None:
        """Keep the features of a set, (N, E), on disk if there is a folder."""
        self._keep(key, features)
        if self._folder is not None:
            self._folder.write(key, images, features)

    def has_room(self, images: int, features: Tensor) -> bool:
        """Return whether features of ``images`` images fit into the budget; ``features`` are those of some of them."""
        return self.used + images * features[0].numel() * features.element_size() <= self.budget

    def _keep(self, key: SetKey, features: Tensor) -> None:
        if self.has_room(len(features), features):
            self._kept[key] = features
            self.used += features.numel() * features.element_size()


class FeatureFolder:
    """A folder with one file per set. Several processes may use it at once, and any file may be deleted.

    A file's name is a hash of the key, the versions of the libraries, and the content of each image: the bytes of its
    file, or the pixels of an image without one. Reading bytes takes a fraction of the time of decoding; a time stamp
    would not tell whether the content has changed.

    Raises:
        ValueError: If the path is a file.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"feature_cache must be a folder, and {folder} is a file; choose another name.")
        self.folder = folder
        self._contents: dict[Source, bytes] = {}

    def read(self, key: SetKey, images: ImageStore) -> Tensor | None:
        """Return the features of a set, (N, E); None if they are missing, or damaged, which is logged."""
        path = self._path(key, images)
        if path is None or not path.exists():
            return None
        try:
            tensors = load(path.read_bytes())
            features = tensors["features"]
            if features.ndim != 2 or not features.is_floating_point():
                raise ValueError("it holds no features")
            if len(features) != len(key.sources) or int(tensors["checksum"]) != checksum(features):
                raise ValueError("its checksum does not match")
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            logger.warning("%s is damaged (%s): the features are computed again.", path, error)
            return None
        return features

    def write(self, key: SetKey, images: ImageStore, features: Tensor) -> None:
        """Write the features of a set, (N, E). If the folder cannot be written to, log it and continue."""
        path = self._path(key, images)
        if path is None:
            return
        content = save({"features": features, "checksum": torch.tensor(checksum(features))})
        try:
            write_atomically(path, content, alone=False)
        except RuntimeError as error:
            logger.warning("%s", error)

    def _path(self, key: SetKey, images: ImageStore) -> Path | None:
        """Return the file for a set; None if the file of an image can no longer be read."""
        facts = (key.encoder, key.transform, key.view, key.batch_size, [(name, version(name)) for name in LIBRARIES])
        digest = hashlib.sha256(repr(facts).encode())
        try:
            for source in key.sources:
                digest.update(self._content(source, images))
        except OSError:
            return None
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def _content(self, source: Source, images: ImageStore) -> bytes:
        """Return a hash of an image's content, computed once."""
        if source not in self._contents:
            if isinstance(source, IndexedSource):
                image = images.get(Item(source, 0))
                content = repr(image.size).encode() + image.tobytes()
            else:
                content = source.read_bytes()
            self._contents[source] = hashlib.blake2b(content, digest_size=16).digest()
        return self._contents[source]


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes; safetensors has no checksum."""
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
