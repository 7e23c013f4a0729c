"""Lists of image files of any length: found in folders, read from a text file, kept on disk; never held in memory."""

import codecs
import hashlib
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from selfprompt.data.loading.image_files import missing_path_hint
from selfprompt.data.loading.image_formats import is_image
from selfprompt.utils.files import encoding_of
from selfprompt.utils.wording import plural


def image_paths(
    names: Sequence[str], list_file: str | None = None, ignored: Counter[str] | None = None
) -> Iterator[str]:
    """The files named, the images below the folders named, then those of a list; each in a fixed order.

    Args:
        names: Files and folders.
        list_file: A text file with one path a line, relative to the working folder; "-" is the standard input.
            Quotes and white space around a path, and lines that begin with "#", mean nothing unless a file is
            called so.
        ignored: Counts the files in folders that are no images, by their kind: ".txt", "hidden".

    Raises:
        ValueError: While iterating, if something named does not exist or cannot be read, or a folder has no images.
    """
    ignored = Counter() if ignored is None else ignored
    for name in names:
        path = Path(name)
        if os.path.isdir(path):
            yield from _of_folder(path, ignored)
        elif os.path.exists(path):
            yield str(path)
        else:
            raise ValueError(f"{path}: there is no such file or folder{missing_path_hint(path)}.")
    if list_file is not None:
        yield from _of_list(list_file)


def ignored_summary(ignored: Counter[str]) -> str:
    """A sentence on the files that were ignored: ``Left out 3 files that are no images (2 .txt, 1 .csv).``"""
    count = sum(ignored.values())
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in ignored.most_common())
    return f"Left out {plural(count, 'file')} that {'is no image' if count == 1 else 'are no images'} ({kinds})."


def _of_folder(folder: Path, ignored: Counter[str]) -> Iterator[str]:
    found = _below(folder, own := Counter[str]())
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    ignored.update(own)
    if first is None:
        raise ValueError(f"{folder} has no images.{' ' + ignored_summary(own) if own else ''}")


def _below(folder: Path, ignored: Counter[str]) -> Iterator[str]:
    """Images below a folder, ordered as their paths are; holds the names of one folder at a time."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
    for name, is_folder in entries:
        path = folder / name
        if is_folder:
            yield from _below(path, ignored)
        elif name.startswith("."):
            ignored["hidden"] += 1
        elif is_image(path):
            yield str(path)
        else:
            ignored["link to a folder" if path.is_dir() else path.suffix.lower() or "without extension"] += 1


def _of_list(name: str) -> Iterator[str]:
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as file:
            for number, line in enumerate(_decoded(file), start=1):
                if path := _meant(line, f"{name}, line {number}"):
                    yield path
    except (OSError, UnicodeDecodeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} cannot be read as a list of images: {fault}.") from None


def _decoded(file: BinaryIO) -> Iterator[str]:
    """The lines of a list, in the encoding that its byte order mark says; names that are no UTF-8 stay so."""
    first = file.readline()
    encoding = encoding_of(first)
    if encoding in ("utf-8", "utf-8-sig"):
        yield from map(os.fsdecode, chain([first.removeprefix(codecs.BOM_UTF8)], file))
        return
    rest = ""
    for piece in codecs.iterdecode(chain([first], file), encoding):
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest


def _meant(line: str, place: str) -> str:
    """The path that a line of a list means; nothing for an empty line or a comment."""
    path, bare = line.rstrip("\r\n"), line.strip()
    strange = any("\udc80" <= letter <= "\udcff" for letter in path)  # bytes that are no UTF-8
    if "\0" in path:
        raise ValueError(f"{place} must be one path, but it holds zero bytes: write UTF-8, one path a line.")
    if not bare or (path == bare and path[0] not in "#\"'" and not strange) or os.path.lexists(path):
        return path if bare else ""
    if bare[0] in "\"'" and bare[-1] == bare[0]:
        bare = bare[1:-1]
    if os.path.lexists(bare):
        return bare
    if strange:
        raise ValueError(f"{place} is no UTF-8, and there is no file of that name: save the list as UTF-8.")
    return "" if path.startswith("#") else path


def read_lines(file: Iterable[bytes]) -> Iterator[str]:
    """The paths in a list that `PathIndex.lines` wrote, one a line."""
    for line in file:
        if path := line.rstrip(b"\r\n"):
            for written, meant in LINE_BREAKS:
                path = path.replace(written, meant)
            yield os.fsdecode(path)


LINE_BREAKS = ((b"\0n", b"\n"), (b"\0r", b"\r"))
"""How a line break in a path stands in a line of a list that we write: no path holds a zero byte."""


@dataclass
class PathIndex:
    """What is kept of a list that stands in a file.

    Attributes:
        group_size: After how many paths a place is noted.
        count: How many paths there are.
        starts: Where the first path of each group of ``group_size`` begins, in bytes.
    """

    group_size: int
    count: int = 0
    starts: "array[int]" = field(default_factory=lambda: array("Q"))

    def __post_init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        """Hash of the list, in hex."""
        return self._digest.hexdigest()

    def lines(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The lines of the list, noted as they go by.

        Raises:
            ValueError: If a path holds a zero byte, as no file's does.
        """
        for path in paths:
            line = os.fsencode(path)
            if b"\0" in line:
                raise ValueError(f"{path!r} holds a zero byte, so it is the path of no file.")
            for written, meant in LINE_BREAKS:
                line = line.replace(meant, written)
            line += b"\n"
            if self.count % self.group_size == 0:
                self.starts.append(self._size)
            self.count += 1
            self._size += len(line)
            self._digest.update(line)
            yield line

    def group(self, number: int, file: BinaryIO) -> list[str]:
        """The paths of one group, out of the file that the lines were written to."""
        file.seek(self.starts[number])
        return list(islice(read_lines(file), self.group_size))
