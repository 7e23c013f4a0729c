"""The records of a data set: labelled images, and splits of them with class names."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from zipfile import ZipFile

from PIL import Image

from selfprompt.data.class_description import ClassDescription, Described
from selfprompt.data.loading.image_files import BadImage, BadImageError, decode, error_reason, open_image
from selfprompt.data.loading.image_inputs import read_image
from selfprompt.data.loading.memory_limit import Reserve, unbounded

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(eq=False)
class ImageTable:
    """Images in an object, fetched by index and one at a time, because few such objects are thread-safe.

    Attributes:
        name: The object's name, for messages.
        fetch: Index -> an image of any kind that `image_inputs.read_image` accepts.
        in_memory: Whether fetching is nearly free, so that images can be compared before they are needed.
    """

    name: str
    fetch: Callable[[int], Any]
    in_memory: bool = False
    lock: Lock = field(default_factory=Lock, repr=False)

    def image(self, index: int, reserve: Reserve = unbounded) -> Image.Image:
        """Return one image as 8-bit RGB.

        Args:
            index: Index of the image in the object.
            reserve: Called with the bytes that the image will take, before it is decoded.

        Raises:
            BadImageError: If the image cannot be read.
        """
        try:
            with self.lock:
                value = self.fetch(index)
            return read_image(value, reserve)
        except Exception as error:  # whatever the object's own code raises
            raise BadImageError(BadImage(f"{self.name}[{index}]", error_reason(error))) from None


@dataclass(frozen=True)
class IndexedSource:
    """A lazy reference to image ``index`` of a table; equal if both refer to the same image of one object."""

    table: ImageTable
    index: int

    def __str__(self) -> str:
        return f"{self.table.name}[{self.index}]"


@dataclass(frozen=True)
class ImageArchive:
    """A zip file of images, opened on first use; equal if both refer to the same file."""

    path: Path

    @cached_property
    def file(self) -> ZipFile:
        """The open archive; threads may share it."""
        return ZipFile(self.path)


@dataclass(frozen=True)
class ArchivedFile:
    """An image file in an archive; as text, the path it would have if the archive were unpacked in its folder."""

    archive: ImageArchive
    name: str

    def __str__(self) -> str:
        return str(self.archive.path.parent / self.name)

    @property
    def size(self) -> int:
        """Size of the uncompressed file in bytes."""
        return self.archive.file.getinfo(self.name).file_size

    def read_bytes(self) -> bytes:
        """Return the content of the file."""
        return self.archive.file.read(self.name)


Source = Path | IndexedSource | ArchivedFile
"""A reference to one image."""


@dataclass(frozen=True)
class Item:
    """One image and the index of its class."""

    source: Source
    label: int

    def load(self, reserve: Reserve = unbounded) -> Image.Image:
        """Return the image as 8-bit RGB.

        Args:
            reserve: Called with the bytes that the image will take, before it is decoded.

        Raises:
            BadImageError: If the image cannot be read.
        """
        if isinstance(self.source, Path):
            return open_image(self.source, reserve)
        if isinstance(self.source, ArchivedFile):
            try:
                return decode(BytesIO(self.source.read_bytes()), Path(self.source.name).suffix, reserve)
            except Exception as error:  # zip files and decoders raise nearly every kind
                raise BadImageError(BadImage(str(self.source), error_reason(error))) from None
        return self.source.table.image(self.source.index, reserve)


@dataclass(frozen=True)
class Dataset:
    """Three splits of labelled images.

    Attributes:
        name: A short name for results.
        classes: Cleaned class names; an item's label is an index into them.
        train, val, test: The items of each split; each may be empty.
        notes: Every decision made for the user, one sentence each.
        ids: Unique ids of the classes if a published list repeats a name (ImageNet's WordNet ids); empty otherwise.
        held_out: Whether the test images were drawn from the training images by `holdout.hold_out`.
        descriptions: What the user says about each class besides one name; empty if there is nothing.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Item, ...] = ()
    val: tuple[Item, ...] = ()
    test: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()
    ids: tuple[Hashable, ...] = ()
    held_out: bool = False
    descriptions: tuple[ClassDescription, ...] = ()

    @property
    def described_classes(self) -> tuple[Described, ...]:
        """The classes as methods read them: their descriptions, or else their names."""
        return self.descriptions or self.classes

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """Unique keys of the classes: their ids, or else their names."""
        return self.ids or self.classes

    def select(self, split: Split | Literal["all"]) -> tuple[Item, ...]:
        """Return the items of one split, or of all three."""
        if split == "all":
            return self.train + self.val + self.test
        if split not in SPLITS:
            raise ValueError(f"Unknown split {split!r}. Known: {', '.join(SPLITS)}, all.")
        return {"train": self.train, "val": self.val, "test": self.test}[split]

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """Return a row for each split: name, images, classes with images, fewest and most images of these classes."""
        rows: list[tuple[str, int, int, int, int]] = []
        for split in SPLITS:
            counts = Counter(item.label for item in self.select(split)).values()
            rows.append((split, sum(counts), len(counts), min(counts, default=0), max(counts, default=0)))
        return rows
