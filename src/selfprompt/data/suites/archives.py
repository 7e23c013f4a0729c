"""Unpacks archives of strangers: plain files and folders below one new folder, and nothing else.

Members are looked at and written here, one by one. Nothing is left to ``extract`` of the standard library: its filter
for tar files is missing before Python 3.11.4, and was broken in later versions (CVE-2025-4517).
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

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and how many there are."""

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
CHUNK = 1 << 20
MAX_GROWTH, GROWTH_ALLOWANCE = 30, 1 << 28
"""An archive may unpack to so many times its size, and so many bytes more: images hardly shrink in archives."""
MEMBER_OVERHEAD = 512
"""Bytes that each member counts for besides its content."""
MAX_PATH_PARTS, MAX_NAME_BYTES = 32, 255
"""Folders in a member's path, and bytes in the name of each."""


@dataclass(frozen=True)
class _Member:
    """A plain file or a folder in an archive.

    Attributes:
        name: As the archive has it.
        is_folder: Whether it is a folder.
        size: Bytes of its content.
        open: Opens its content.
        passed: Bytes of the archive that are done before it.
    """

    name: str
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes]]
    passed: int


def unpack(archive: Path, into: Path, progress: Progress | None = None) -> None:
    """Unpack a .zip, .tar, .tar.gz or .tgz into a new folder; refuses all but plain files and folders inside of it.

    Args:
        archive: The file; its name tells its kind.
        into: The folder, which must not exist.
        progress: Told the bytes of the archive that are done.

    Raises:
        RuntimeError: If the archive is broken, encrypted, does not fit on the disk or grows beyond measure, or holds
            links, devices, absolute paths, paths with "..", or names that no file should have. What was unpacked
            until then is deleted.
    """
    into.mkdir(parents=True)
    try:
        _unpack(archive, into, progress)
    except Exception as error:  # readers of broken archives raise errors of every kind
        shutil.rmtree(into, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise RuntimeError(
            f"{archive} cannot be unpacked: {reason.rstrip('.')}. Free some space if there was too little; else "
            "delete it, and fetch it anew or from the data set's home page."
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
            raise ValueError("there is not enough space on the disk for what it holds")
        target = into.joinpath(*_parts(member))
        if target in written:  # the later of two members of one name counts, as tar has it
            target.unlink()
        _write(member, target)
        if not member.is_folder:
            written.add(target)
        if progress is not None:
            progress(member.passed, size)


def _write(member: _Member, target: Path) -> None:
    try:
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, open(target, "xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"its member {_quote(member.name)} differs from another in capital letters or kind") from None


def _parts(member: _Member) -> tuple[str, ...]:
    """The path of a member below the folder, part by part; ValueError if it has none that is safe."""
    name = member.name.replace("\\", "/")
    path = PurePosixPath(name)
    shown = f"its member {_quote(member.name)}"
    if not name or not (path.parts or member.is_folder):
        raise ValueError("it holds a member without a name")
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"{shown} has control characters in its name")
    if path.is_absolute() or ".." in path.parts or any(re.match("[A-Za-z]:", part) for part in path.parts):
        raise ValueError(f"{shown} leads out of the folder")
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
        for _ in range(GROWTH_ALLOWANCE // CHUNK):  # the checksum of gzip stands behind the padding
            if not (compressed and stream.read(CHUNK)):
                break


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return cast("IO[bytes]", tar.extractfile(info))  # which is None for what is no plain file only


def _check_kind(name: str, *, is_link: bool, is_plain: bool) -> None:
    if is_link:
        raise ValueError(f"its member {_quote(name)} is a link")
    if not is_plain:
        raise ValueError(f"its member {_quote(name)} is neither a file nor a folder")


class _BoundedReads:
    """A stream that is read in pieces: a header that tells a size of gigabytes would be read whole."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int) -> bytes:
        """The next bytes, up to so many."""
        if not 0 <= size <= CHUNK:
            raise ValueError(f"one of its headers would take {size:,} bytes")
        return self._file.read(size)


def find_path_ending(folder: Path, ending: str) -> Path | None:
    """The path below a folder that ends with these parts and is the shortest; None without one."""
    wanted = PurePosixPath(ending).parts
    level = [folder]
    while level:
        inner = sorted(entry for place in level for entry in place.iterdir() if entry.name != "__MACOSX")
        for entry in inner:
            if entry.relative_to(folder).parts[-len(wanted) :] == wanted:
                return entry
        level = [entry for entry in inner if entry.is_dir() and not entry.is_symlink()]
    return None
