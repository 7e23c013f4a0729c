"""Features of sets of images in a folder, for later processes: what a file's name stands for, reading, writing."""

import hashlib
import logging
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from selfprompt.data.dataset import IndexedSource, Item, Source
from selfprompt.data.loading.store import ImageStore
from selfprompt.data.loading.transforms import Transform
from selfprompt.utils.files import write_atomically

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batches

logger = logging.getLogger(__name__)

LIBRARIES = ("selfprompt", "torch", "pillow")
"""What decodes, resizes and computes: another version may give other bits."""


@dataclass(frozen=True)
class SetKey:
    """What the features of a set of images come from.

    Attributes:
        encoder: The encoder's key.
        transform: From image to pixels.
        view: Seed and draw of random views; empty where the transform has no randomness.
        batch_size: Images that are encoded together, which moves the last bits.
        sources: The images, in order.
    """

    encoder: str
    transform: Transform
    view: tuple[int, ...]
    batch_size: int
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, batches: "Batches", number: int, encoder: str) -> "SetKey":
        """The key of what batches show in an epoch."""
        view = (batches.seed, batches.draw(number)) if batches.transform.random else ()
        return cls(encoder, batches.transform, view, batches.batch_size, batches.sources)


class FeatureFolder:
    """A folder with one file for each set; several processes may use it at once, and any file may be deleted.

    A file's name is a hash of the key, of the versions of the libraries, and of what each image holds: the bytes of its
    file, or the pixels of an image that lives in an object. Reading bytes takes a fraction of the time of decoding; a
    time stamp would not tell whether the content changed.

    Raises:
        ValueError: If there is a file in the folder's place.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"feature_cache must be a folder, and {folder} is a file; choose another name.")
        self.folder = folder
        self._contents: dict[Source, bytes] = {}

    def read(self, key: SetKey, store: ImageStore) -> Tensor | None:
        """The features of a set, (N, E); None where they are not there, or (which is told) damaged."""
        path = self._path(key, store)
        if path is None or not path.exists():
            return None
        try:
            tensors = load(path.read_bytes())
            features = tensors["features"]
            if features.ndim != 2 or not features.is_floating_point():
                raise ValueError("it holds no features")
            if len(features) != len(key.sources) or int(tensors["checksum"]) != checksum(features):
                raise ValueError("its checksum does not fit")
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            logger.warning("%s is damaged (%s): the features are computed again.", path, error)
            return None
        return features

    def write(self, key: SetKey, store: ImageStore, features: Tensor) -> None:
        """Keep the features of a set, (N, E); a folder that cannot be written to is told, and the run goes on."""
        path = self._path(key, store)
        if path is None:
            return
        content = save({"features": features, "checksum": torch.tensor(checksum(features))})
        try:
            write_atomically(path, content, alone=False)
        except RuntimeError as error:
            logger.warning("%s", error)

    def _path(self, key: SetKey, store: ImageStore) -> Path | None:
        """Where the features of a set stand; None if an image's file cannot be read any more."""
        facts = (key.encoder, key.transform, key.view, key.batch_size, [(name, version(name)) for name in LIBRARIES])
        digest = hashlib.sha256(repr(facts).encode())
        try:
            for source in key.sources:
                digest.update(self._content(source, store))
        except OSError:
            return None
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def _content(self, source: Source, store: ImageStore) -> bytes:
        """A hash of what an image holds, made once."""
        if source not in self._contents:
            if isinstance(source, IndexedSource):
                image = store.get(Item(source, 0))
                held = repr(image.size).encode() + image.tobytes()
            else:
                held = source.read_bytes()
            self._contents[source] = hashlib.blake2b(held, digest_size=16).digest()
        return self._contents[source]


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes; safetensors has none of its own."""
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
