"""Lists of images of any length, from names, folders and text files; never held in memory."""

import codecs
import hashlib
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from selfprompt.data.loading.archived_images import Columns
from selfprompt.data.loading.image_files import missing_path_hint
from selfprompt.data.loading.image_formats import is_image
from selfprompt.inference.image_groups import RANGE, archive_entries, expand, is_archive
from selfprompt.utils.files import encoding_of
from selfprompt.utils.wording import plural


def image_paths(
    names: Sequence[str],
    list_file: str | None = None,
    ignored: Counter[str] | None = None,
    columns: Columns | None = None,
) -> Iterator[str]:
    """Yield the given files, the images below the given folders, then the paths of a list; in a fixed order.

    Tar and Parquet files give entries as in `image_groups`.

    Args:
        names: Files and folders, and patterns of tar and Parquet files, ``photos-{000..099}.tar``.
        list_file: A text file with one path per line, relative to the working folder; "-" is the standard input.
            Quotes and white space around a path, and lines that begin with "#", are ignored unless a file has that
            name.
        ignored: Counts the files in folders that are not images, by kind: ".txt", "hidden".
        columns: Columns of Parquet files.

    Raises:
        ValueError: While iterating, if a file or folder does not exist or cannot be read, or a folder has no images.
        ImportError: While iterating, if there is a Parquet file, and pyarrow is not installed.
    """
    ignored, columns = Counter() if ignored is None else ignored, columns or Columns()
    for name in chain.from_iterable(map(expand, names)):
        path = Path(name)
        if os.path.isdir(path):
            yield from _images_in(path, ignored)
        elif is_archive(name):
            yield from archive_entries(str(path), columns)
        elif os.path.exists(path):
            yield str(path)
        else:
            raise ValueError(f"{path}: there is no such file or folder{missing_path_hint(path)}.")
    for path_in_list in () if list_file is None else _paths_in_list(list_file):
        if not is_archive(path_in_list):
            yield path_in_list
            continue
        for name in expand(path_in_list):
            yield from archive_entries(name, columns)


def ignored_summary(ignored: Counter[str]) -> str:
    """Return a sentence about the ignored files: ``Skipped 3 files that are not images (2 .txt, 1 .csv).``"""
    count = sum(ignored.values())
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in ignored.most_common())
    return f"Skipped {plural(count, 'file')} that {'is not an image' if count == 1 else 'are not images'} ({kinds})."


def _images_in(folder: Path, ignored: Counter[str]) -> Iterator[str]:
    paths = _walk(folder, ignored_here := Counter[str]())
    first = next(paths, None)
    if first is not None:
        yield first
        yield from paths
    ignored.update(ignored_here)
    if first is None:
        raise ValueError(f"{folder} has no images.{' ' + ignored_summary(ignored_here) if ignored_here else ''}")


def _walk(folder: Path, ignored: Counter[str]) -> Iterator[str]:
    """Yield the images below a folder in the order of their paths; holds the names of one folder at a time."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror or error}.") from None
    for name, is_folder in entries:
        path = folder / name
        if is_folder:
            yield from _walk(path, ignored)
        elif name.startswith("."):
            ignored["hidden"] += 1
        elif is_image(path):
            yield str(path)
        else:
            ignored["link to a folder" if path.is_dir() else path.suffix.lower() or "without extension"] += 1


def _paths_in_list(name: str) -> Iterator[str]:
    try:
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as file:
            for number, line in enumerate(_decode_lines(file), start=1):
                if path := _parse_line(line, f"{name}, line {number}"):
                    yield path
    except (OSError, UnicodeDecodeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise ValueError(f"{name} cannot be read as a list of images: {fault}.") from None


def _decode_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of a list in the encoding of its byte order mark; names that are not UTF-8 keep their bytes."""
    first = file.readline()
    encoding = encoding_of(first)
    if encoding in ("utf-8", "utf-8-sig"):
        yield from map(os.fsdecode, chain([first.removeprefix(codecs.BOM_UTF8)], file))
        return
    rest = ""
    for chunk in codecs.iterdecode(chain([first], file), encoding):
        *lines, rest = (rest + chunk).split("\n")
        yield from lines
    yield rest


def _parse_line(line: str, where: str) -> str:
    """Return the path in a line of a list; "" for an empty line or a comment."""
    path, bare = line.rstrip("\r\n"), line.strip()
    is_undecoded = any("\udc80" <= letter <= "\udcff" for letter in path)  # bytes that are not UTF-8
    if "\0" in path:
        raise ValueError(f"{where} must be one path, but it has zero bytes: write UTF-8, one path per line.")
    if not bare or (path == bare and path[0] not in "#\"'" and not is_undecoded) or os.path.lexists(path):
        return path if bare else ""
    if bare[0] in "\"'" and bare[-1] == bare[0]:
        bare = bare[1:-1]
    if os.path.lexists(bare):
        return bare
    if is_undecoded:
        raise ValueError(f"{where} is not UTF-8, and there is no file of that name: save the list as UTF-8.")
    return "" if path.startswith("#") else path


def read_lines(file: Iterable[bytes]) -> Iterator[str]:
    """Yield the paths in a list that `PathIndex.lines` wrote, one per line."""
    for line in file:
        if path := line.rstrip(b"\r\n"):
            for escape, line_break in LINE_BREAKS:
                path = path.replace(escape, line_break)
            yield os.fsdecode(path)


LINE_BREAKS = ((b"\0n", b"\n"), (b"\0r", b"\r"))
"""Escapes of line breaks in the lists that we write: no path has a zero byte."""


class PathIndex:
    """An index of a list in a file, made while the list is written.

    Args:
        stride: Entries between two indexed places.

    Attributes:
        count: Number of entries.
        archives: Whether the entries are archives; None before the first.
        starts: Byte offset of each entry whose number is a multiple of the stride.
        size: Bytes of the list.
    """

    def __init__(self, stride: int = sys.maxsize) -> None:
        self.stride = stride
        self.count = self.size = 0
        self.archives: bool | None = None
        self.starts = array("Q")
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256 of the list, in hex."""
        return self._digest.hexdigest()

    def lines(self, entries: Iterable[str], *, mixed: bool = False) -> Iterator[bytes]:
        """Yield the lines of the list and index them.

        Args:
            entries: Entries as `image_paths` yields them.
            mixed: Whether image files and archives may come together.

        Raises:
            ValueError: If a path has a zero byte, which no file name can have, or image files and archives are mixed.
        """
        for entry in entries:
            archive = is_archive(entry)
            self.archives = archive if self.archives is None else self.archives
            if archive != self.archives and not mixed:
                raise ValueError(f"{entry.partition(chr(0))[0]}: put image files and archives of images into two jobs.")
            line = _line(entry, archive)
            if self.count % self.stride == 0:
                self.starts.append(self.size)
            self.count += 1
            self.size += len(line)
            self._digest.update(line)
            yield line


def _line(entry: str, archive: bool) -> bytes:
    path, zero, groups = entry.partition("\0")
    if zero and not (archive and RANGE.fullmatch(zero + groups)):
        raise ValueError(f"{entry!r} has a zero byte, so it cannot be the path of a file.")
    line = os.fsencode(path)
    for escape, line_break in LINE_BREAKS:
        line = line.replace(line_break, escape)
    return line + os.fsencode(zero + groups) + b"\n"
