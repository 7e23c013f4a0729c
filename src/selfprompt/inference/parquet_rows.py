"""Predictions as Parquet, written and merged in pieces."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfprompt.inference.predictions import UNKNOWN, Prediction

ROWS = 10_000
"""Rows in a row group, or a few more."""


def check_pyarrow() -> None:
    """Raise ImportError if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ImportError("--format parquet needs pyarrow: pip install 'selfprompt[data]'.") from None


def as_parquet(batches: Iterable[Sequence[Prediction]]) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file with the rows of `predictions.as_csv`, where what is empty there is null.

    Columns: image (string), rank (int32), label (string), score (float64), error (string).
    """
    import pyarrow

    def tables() -> Iterator[Any]:
        rows: list[tuple[Any, ...]] = []
        for batch in batches:
            rows += [row for one in batch for row in _rows(one)]
            if len(rows) >= ROWS:
                yield pyarrow.table(list(zip(*rows, strict=True)), schema=_schema())
                rows = []
        if rows:
            yield pyarrow.table(list(zip(*rows, strict=True)), schema=_schema())

    yield from _written(tables())


def merged_parquet(parts: Iterable[Path]) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file with the rows of all parts.

    Raises:
        ValueError: If a part is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    def tables() -> Iterator[Any]:
        for part in parts:
            try:
                with parquet.ParquetFile(part) as file:
                    for number in range(file.num_row_groups):
                        yield file.read_row_group(number)
            except (OSError, pyarrow.ArrowException) as error:
                raise ValueError(f"{part} is damaged: {' '.join(str(error).split())}") from error

    yield from _written(tables())


def _schema() -> Any:
    import pyarrow

    text = pyarrow.string()
    columns = {"image": text, "rank": pyarrow.int32(), "label": text, "score": pyarrow.float64(), "error": text}
    return pyarrow.schema(list(columns.items()))


def _rows(one: Prediction) -> list[tuple[Any, ...]]:
    image = one.image.encode(errors="backslashreplace").decode()  # file names may not be valid Unicode
    if one.error:
        return [(image, None, None, None, one.error.encode(errors="backslashreplace").decode())]
    if one.unknown:
        return [(image, None, UNKNOWN, None, None)]
    return [(image, rank, label, score, None) for rank, (label, score) in enumerate(one.top, 1)]


def _written(tables: Iterator[Any]) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file as it is written."""
    from pyarrow import parquet

    pieces = _Pieces()
    with parquet.ParquetWriter(pieces, _schema()) as writer:
        for table in tables:
            writer.write_table(table)
            yield pieces.take()
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """A file whose content is taken away while it grows."""

    def __init__(self) -> None:
        self._position, self._written = 0, list[bytes]()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._written.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """Return what was written since the last call."""
        pieces, self._written = self._written, []
        return b"".join(pieces)
