"""Images inside tar and Parquet files, read one after another; names inside are never used as paths.

A member or row that is no readable image is still an image, whose ``read`` raises the reason. So is the rest of a
damaged file.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from selfprompt.data.loading.image_formats import EXTENSIONS, HEADER_BYTES, detect_format
from selfprompt.utils.wording import listing

MAX_IMAGE_BYTES = 100_000_000
"""Largest member of a tar file or cell of a Parquet file; it is checked before a member is read."""
MAX_HEADER_BYTES = 1 << 20
"""Bytes of headers before a member of a tar file, where long names are, and whatever a hostile file puts there."""
ROWS = 1000
"""Rows of a Parquet file that are worth a range of their own."""
ROWS_AT_A_TIME = 8


@dataclass(frozen=True)
class Columns:
    """Columns of Parquet files.

    Attributes:
        image: Column of the images: bytes of image files, or Hugging Face's struct with a field "bytes".
        key: Column of the images' names; None names them by file and row.
    """

    image: str = "image"
    key: str | None = None


@dataclass(frozen=True)
class ArchivedImage:
    """An image in a file of images; has the interface of an open file.

    Attributes:
        name: File and member, or row: ``photos.tar/cat/1.jpg``, ``photos.parquet/17``; or the key of the row.
        content: The bytes; where they are; or why there are none.
    """

    name: str
    content: "bytes | Slice | str"

    @property
    def held_bytes(self) -> int:
        """Bytes in memory until it is read."""
        return len(self.content) if isinstance(self.content, bytes) else 0

    def read(self) -> bytes:
        """Return the bytes of the image file.

        Raises:
            ValueError: If there are none, or too many.
            OSError: If the file cannot be read.
        """
        if isinstance(self.content, str):
            raise ValueError(self.content)
        if isinstance(self.content, bytes):
            return self.content
        return self.content.read()


@dataclass(frozen=True)
class Slice:
    """A member of a tar file by its place, so that threads read it when it is needed."""

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Return the bytes; raises ValueError if they are too many, or the file ends before."""
        _check_size(self.size)
        with self.path.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError("the tar file ends in the middle of it")
        return content


def _check_size(size: int) -> None:
    if size > MAX_IMAGE_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {MAX_IMAGE_BYTES:,}")


def images_in_tar(path: Path) -> Iterator[ArchivedImage]:
    """Yield the images of a tar file that is not compressed, such as a shard of a WebDataset, in order.

    Members are images as files in a folder are: by their extension, or else by their first bytes; not if hidden.
    """
    found = False
    try:
        for image in _tar_members(path):
            found = True
            yield image
        fault = "" if found else "the tar file has no images"
    except (OSError, ValueError, RecursionError, tarfile.TarError) as error:
        fault = getattr(error, "strerror", None) or f"damaged or compressed: {error}"
    if fault:
        yield ArchivedImage(str(path), fault)


def _tar_members(path: Path) -> Iterator[ArchivedImage]:
    with path.open("rb") as file:
        bounded = _BoundedFile(file)
        with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:  # type: ignore[call-overload]
            while True:
                bounded.left = MAX_HEADER_BYTES
                member = tar.next()
                if member is None:
                    break
                tar.members.clear()  # a tar file may have any number of them
                if member.isreg() and _is_image(member, bounded):
                    place = Slice(path, member.offset_data, member.size)
                    name = f"{path}/{member.name.removeprefix('./')}"
                    yield ArchivedImage(name, "a sparse file" if member.issparse() else place)
            file.seek(tar.offset)  # tarfile takes whatever is no header for the end
            block = file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or any(block):
                raise ValueError(f"no header and no end mark at byte {tar.offset:,}")


def _is_image(member: tarfile.TarInfo, file: "_BoundedFile") -> bool:
    name = member.name.rpartition("/")[2]
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return False
    if suffix in EXTENSIONS:
        return True
    file.seek(member.offset_data)
    return detect_format(file.read(min(HEADER_BYTES, member.size)), suffix) is not None


class _BoundedFile:
    """A file of which only a number of bytes may be read before somebody allows more."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read; raises ValueError if that is more than is left."""
        if not 0 <= size <= self.left:
            raise ValueError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        self.left -= size
        return self.file.read(size)

    def seek(self, offset: int) -> int:
        """Go to a place."""
        return self.file.seek(offset)

    def tell(self) -> int:
        """Return the place."""
        return self.file.tell()


def row_ranges(path: Path, columns: Columns) -> list[tuple[int, int]]:
    """Return ranges of the row groups of a Parquet file, first and last, of about `ROWS` rows or one group each.

    Raises:
        ValueError: If it cannot be read, or has not these columns.
        ImportError: If pyarrow is not installed.
    """
    file = _open_parquet(path)
    try:
        _check_columns(path, file.schema_arrow, columns)
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    finally:
        file.close()
    ranges, first, rows = list[tuple[int, int]](), 0, 0
    for number, size in enumerate(sizes):
        rows += size
        if rows >= ROWS or number == len(sizes) - 1:
            ranges.append((first, number))
            first, rows = number + 1, 0
    return ranges


def images_in_parquet(path: Path, groups: tuple[int, int], columns: Columns) -> Iterator[ArchivedImage]:
    """Yield the images in a range of row groups, first to last, in order; raises ImportError without pyarrow."""
    import pyarrow

    try:
        yield from _parquet_rows(path, groups, columns)
    except (OSError, ValueError, IndexError, pyarrow.ArrowException) as error:
        yield ArchivedImage(str(path), f"damaged: {' '.join(str(error).split())}")


def _parquet_rows(path: Path, groups: tuple[int, int], columns: Columns) -> Iterator[ArchivedImage]:
    file = _open_parquet(path)
    try:
        _check_columns(path, file.schema_arrow, columns)
        if groups[1] >= file.num_row_groups:
            raise ValueError(f"it has {file.num_row_groups} row groups, and the list names number {groups[1]}")
        row = sum(file.metadata.row_group(number).num_rows for number in range(groups[0]))
        names = [_bytes_of(columns.image, file.schema_arrow), *([columns.key] if columns.key else [])]
        chosen = range(groups[0], groups[1] + 1)
        for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=chosen, columns=names, use_threads=False):
            images = batch.column(columns.image)
            keys = batch.column(columns.key) if columns.key else None
            for at in range(batch.num_rows):
                name = f"{path}/{row}" if keys is None else _key(keys[at].as_py(), f"{path}/{row}")
                yield ArchivedImage(name, _cell(images[at].as_py()))
                row += 1
    finally:
        file.close()


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError("Parquet files of images need pyarrow: pip install 'selfprompt[data]'.") from None
    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, pyarrow.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a Parquet file: {reason}.") from None


def _check_columns(path: Path, schema: Any, columns: Columns) -> None:
    """Raise ValueError unless the columns exist and one holds bytes."""
    for option, name in (("--image-column", columns.image), ("--key-column", columns.key)):
        if name is not None and name not in schema.names:
            raise ValueError(f"{path} has no column {name!r} ({option}); its columns are: {listing(schema.names)}.")
    kind = schema.field(columns.image).type
    if _bytes_of(columns.image, schema) != columns.image:
        kind = kind.field("bytes").type
    if str(kind) not in ("binary", "large_binary", "binary_view"):
        raise ValueError(
            f"{path}: the column {columns.image!r} must hold the bytes of image files, or Hugging Face's struct of "
            f"bytes and path, but holds {kind}. Choose another one with --image-column, or list its paths with --list."
        )


def _bytes_of(column: str, schema: Any) -> str:
    """Return the name of a column of bytes, or of the bytes in a struct."""
    kind = schema.field(column).type
    fields = [kind.field(number).name for number in range(kind.num_fields)] if str(kind).startswith("struct") else []
    return f"{column}.bytes" if "bytes" in fields else column


def _cell(value: Any) -> bytes | str:
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        return "the cell is empty"
    try:
        _check_size(len(content))
    except ValueError as error:
        return str(error)
    return bytes(content)


def _key(value: Any, otherwise: str) -> str:
    if value is None:
        return otherwise
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
