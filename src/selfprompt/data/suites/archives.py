"""Unpacks untrusted archives: regular files and folders below one new folder, and nothing else.

Members are checked and written here, one by one, without ``extract`` of the standard library: its filter for tar files
is missing before Python 3.11.4, and was broken in later versions (CVE-2025-4517).
"""

import gzip
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from selfprompt.utils.progress import Progress

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
CHUNK = 1 << 20
MAX_GROWTH, GROWTH_ALLOWANCE = 30, 1 << 28
"""An archive may unpack to this multiple of its size plus this many bytes: images hardly compress."""
MEMBER_OVERHEAD = 512
"""Bytes that each member counts for in addition to its content."""
MAX_PATH_PARTS, MAX_NAME_BYTES = 32, 255
"""Most components of a member's path, and most bytes in the name of each."""


@dataclass(frozen=True)
class _Member:
    """A regular file or a folder in an archive.

    Attributes:
        name: Name as stored in the archive.
        is_folder: Whether it is a folder.
        size: Bytes of its content.
        open: Opens its content.
        offset: Bytes of the archive before it.
    """

    name: str
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes]]
    offset: int


def unpack(archive: Path, into: Path, progress: Progress | None = None) -> None:
    """Unpack a .zip, .tar, .tar.gz or .tgz into a new folder; refuses all but regular files and folders inside it.

    Args:
        archive: The file; its extension gives its format.
        into: The folder, which must not exist.
        progress: Called with the bytes of the archive that are done.

    Raises:
        RuntimeError: If the archive is damaged or encrypted, does not fit on the disk or expands too much, or holds
            links, devices, absolute paths, paths with "..", or unsafe names. The folder is deleted then.
    """
    into.mkdir(parents=True)
    try:
        _unpack(archive, into, progress)
    except Exception as error:  # readers of damaged archives raise errors of every kind
        shutil.rmtree(into, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise RuntimeError(
            f"{archive} cannot be unpacked: {reason.rstrip('.')}. Free disk space if it ran out; otherwise delete the "
            "archive, and fetch it again or from the data set's home page."
        ) from None


def _unpack(archive: Path, into: Path, progress: Progress | None) -> None:
    if not archive.name.endswith((*TAR_SUFFIXES, ".zip")):
        raise ValueError("its name must end in .zip, .tar, .tar.gz or .tgz")
    size, free = archive.stat().st_size, shutil.disk_usage(into).free
    written: set[Path] = set()
    total = 0
    for member in _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive):
        total += member.size + MEMBER_OVERHEAD
        if total > MAX_GROWTH * size + GROWTH_ALLOWANCE:
            raise ValueError(f"it would grow to more than {MAX_GROWTH} times its size, which no archive of images does")
        if total > free:
            raise ValueError("there is not enough disk space for its contents")
        target = into.joinpath(*_parts(member))
        if target in written:  # of two members with one name the later wins, as in tar
            target.unlink()
        _write(member, target)
        if not member.is_folder:
            written.add(target)
        if progress is not None:
            progress(member.offset, size)


def _write(member: _Member, target: Path) -> None:
    try:
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, open(target, "xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"its member {_quote(member.name)} collides with another (up to case, or as a file and a folder)"
        ) from None


def _parts(member: _Member) -> tuple[str, ...]:
    """Return the components of a member's path below the folder; ValueError if the path is not safe."""
    name = member.name.replace("\\", "/")
    path = PurePosixPath(name)
    shown = f"its member {_quote(member.name)}"
    if not name or not (path.parts or member.is_folder):
        raise ValueError("it holds a member without a name")
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"{shown} has control characters in its name")
    if path.is_absolute() or ".." in path.parts or any(re.match("[A-Za-z]:", part) for part in path.parts):
        raise ValueError(f"{shown} points outside of the folder")
    longest = max((len(part.encode(errors="surrogatepass")) for part in path.parts), default=0)
    if len(path.parts) > MAX_PATH_PARTS or longest > MAX_NAME_BYTES:
        raise ValueError(f"{shown} has too long a name")
    return path.parts


def _quote(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = info.orig_filename  # ``filename`` ends at a NUL
            kind = stat.S_IFMT(info.external_attr >> 16)
            _check_kind(name, is_link=kind == stat.S_IFLNK, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if info.flag_bits & 1:
                raise ValueError(f"its member {_quote(name)} is encrypted")
            is_folder = name.endswith(("/", "\\"))
            yield _Member(name, is_folder, info.file_size, partial(file.open, info), info.header_offset)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"  # whatever its name says
        raw.seek(0)
        stream = _BoundedReads(gzip.GzipFile(fileobj=raw) if compressed else raw)
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as tar:
            for info in tar:
                _check_kind(info.name, is_link=info.issym() or info.islnk(), is_plain=info.isreg() or info.isdir())
                yield _Member(info.name, info.isdir(), info.size, partial(_content, tar, info), raw.tell())
        for _ in range(GROWTH_ALLOWANCE // CHUNK):  # gzip's checksum follows the padding
            if not (compressed and stream.read(CHUNK)):
                break


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", tar.extractfile(info))  # None only for members that are not regular files


def _check_kind(name: str, *, is_link: bool, is_plain: bool) -> None:
    if is_link:
        raise ValueError(f"its member {_quote(name)} is a link")
    if not is_plain:
        raise ValueError(f"its member {_quote(name)} is neither a file nor a folder")


class _BoundedReads:
    """A stream that refuses large reads: tarfile would read a header whole that claims gigabytes."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        """Return up to ``size`` of the next bytes."""
        if not 0 <= size <= CHUNK:
            raise ValueError(f"one of its headers would take {size:,} bytes")
        return self._file.read(size)


def find_path_ending(folder: Path, ending: str) -> Path | None:
    """Return the shortest path below a folder that ends in ``ending``; None if there is none."""
    parts = PurePosixPath(ending).parts
    level = [folder]
    while level:
        inner = sorted(entry for parent in level for entry in parent.iterdir() if entry.name != "__MACOSX")
        for entry in inner:
            if entry.relative_to(folder).parts[-len(parts) :] == parts:
                return entry
        level = [entry for entry in inner if entry.is_dir() and not entry.is_symlink()]
    return None
