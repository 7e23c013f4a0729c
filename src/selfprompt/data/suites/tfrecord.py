"""Reads TFRecord files of ``tf.train.Example`` messages without TensorFlow; knows no images.

A record is its length (uint64), a checksum, the message, and a checksum. A message maps names to lists of bytes, floats
or integers, in the wire format of protocol buffers:
``Example{1: Features{1: {1: name, 2: Feature{1: bytes | 2: floats | 3: integers}}}}``.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Values = list[bytes] | list[float] | list[int]

HEADER, FOOTER = 12, 4  # length and its checksum; the message's checksum
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # protocol buffers' wire types


@dataclass(frozen=True)
class Record:
    """The position of one message in a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> dict[str, Values]:
        """Read the message's values by name."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return parse_example(memoryview(file.read(self.length)))


def find_records(paths: Sequence[Path], start: int, stop: int | None) -> list[Record]:
    """Return records ``start`` to ``stop`` (exclusive) of the files in order; reads lengths only.

    Raises:
        ValueError: If a file is truncated, or there are too few records.
    """
    records: list[Record] = []
    seen = 0
    for path in paths:
        for offset, length in _lengths(path):
            if seen >= start:
                records.append(Record(path, offset, length))
            seen += 1
            if seen == stop:
                return records
    if stop is not None or seen <= start:
        raise ValueError(
            f"{paths[0].parent} holds {seen} records in {paths[0].name} and so on, {stop or start} are needed."
        )
    return records


def read_records(records: Sequence[Record], names: Sequence[str]) -> Iterator[dict[str, Values]]:
    """Yield the named values of many records; opens each file once, and skips other values, which may be large."""
    path, view = None, memoryview(b"")
    for record in records:
        if record.path != path:
            path = record.path
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield parse_example(view[record.offset : record.offset + record.length], names)


def parse_example(message: memoryview, names: Sequence[str] | None = None) -> dict[str, Values]:
    """Parse a message to its values by name.

    Args:
        message: The bytes of one ``tf.train.Example``.
        names: The values to read; None reads all.

    Raises:
        ValueError: If the bytes are not such a message.
    """
    try:
        values: dict[str, Values] = {}
        for features in _fields(message, 1):
            for entry in _fields(features, 1):
                name = bytes(next(_fields(entry, 1))).decode()
                if names is None or name in names:
                    values[name] = _values(next(_fields(entry, 2), memoryview(b"")))
        return values
    except (IndexError, StopIteration, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"a record is not a tf.train.Example ({error or type(error).__name__})") from None


def _lengths(path: Path) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each message of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position < size:
            header = file.read(HEADER)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == HEADER else size
            if position + HEADER + length + FOOTER > size:
                raise ValueError(f"{path} is truncated after {position} bytes: get it again.")
            yield position + HEADER, length
            position += HEADER + length + FOOTER
            file.seek(position)


def _values(feature: memoryview) -> Values:
    for raw in _fields(feature, 1):
        return [bytes(value) for value in _fields(raw, 1)]
    for raw in _fields(feature, 2):
        return [number for packed in _fields(raw, 1) for (number,) in struct.iter_unpack("<f", packed)]
    for raw in _fields(feature, 3):
        return [number for packed in _fields(raw, 1) for number in _varints(packed)]
    return []


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the contents of the fields with a number; numbers that are not packed are yielded as bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        start = position
        if key & 7 == BYTES:
            length, start = _varint(message, position)
            position = start + length
        elif key & 7 == VARINT:
            _, position = _varint(message, position)
        elif key & 7 in (FIXED_32, FIXED_64):
            position += 4 if key & 7 == FIXED_32 else 8
        else:
            raise IndexError(f"wire type {key & 7}")
        if position > len(message):
            raise IndexError("truncated")
        if key >> 3 == number:
            yield message[start:position]


def _varints(packed: memoryview) -> Iterator[int]:
    position = 0
    while position < len(packed):
        number, position = _varint(packed, position)
        yield number - (1 << 64) if number >> 63 else number  # negative int64


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
