"""Fetches files over HTTP, resuming where a connection broke, and unpacks archives; never leaves half a file.

What is on its way is called ``NAME.part``; it gets its name when it is whole and its checksum is right.
"""

import hashlib
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and how many there are."""

CHUNK = 1 << 20
PATIENCE = 60.0  # seconds without a byte before a connection counts as broken
TAR = (".tar", ".tar.gz", ".tgz")


def download(
    url: str,
    path: Path,
    *,
    checksum: str = "",
    attempts: int = 5,
    wait: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Fetch a file; goes on where an earlier attempt, or an earlier call, was interrupted.

    Args:
        url: An http or https address.
        path: Where to put it; must not exist.
        checksum: "md5:..." or "sha256:..."; "" checks the length only.
        attempts: How often in a row to try without getting a byte.
        wait: Seconds before the second attempt; doubled before each further one.
        progress: Told the bytes.

    Raises:
        FileExistsError: If the path exists.
        RuntimeError: If the file cannot be fetched, or is another one than the checksum says.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is left as it is.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _alone(part) as file:
        _fetch(url, file, part.with_name(f"{part.name}.tag"), attempts, wait, progress)
        file.flush()
        os.fsync(file.fileno())
    verify(part, checksum, url)
    os.replace(part, path)
    part.with_name(f"{part.name}.tag").unlink(missing_ok=True)


def verify(path: Path, checksum: str, name: str) -> None:
    """Raise RuntimeError, and delete the file, unless it has the checksum "md5:..." or "sha256:..."."""
    kind, _, wanted = checksum.partition(":")
    if not kind:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        path.unlink()
        raise RuntimeError(
            f"{name} is not the published file: its {kind} is {found}, not {wanted}. It was deleted; try again, and if "
            "it stays so, get the data set from its home page."
        )


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """The part file, open for appending by this process only."""
    with part.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # no such locks on this system
        except BlockingIOError:
            raise RuntimeError(f"Another process is fetching {part}: wait for it.") from None
        yield file


def _fetch(url: str, file: IO[bytes], tag: Path, attempts: int, wait: float, progress: Progress | None) -> None:
    """Append to the file until it is whole."""
    failures = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            if _append(url, file, tag, progress):
                return
            reason = "the connection broke"
        except HTTPError as error:
            if error.code not in (408, 429, 500, 502, 503, 504):
                raise RuntimeError(f"{url} cannot be fetched: {error.code} {error.reason}.") from None
            reason = f"{error.code} {error.reason}"
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
        except OSError as error:
            raise RuntimeError(f"{file.name} cannot be written: {error.strerror or error}.") from None
        failures = 0 if file.seek(0, os.SEEK_END) > before else failures + 1
        if failures >= attempts:
            raise RuntimeError(
                f"{url} cannot be fetched: {reason}. What has come is kept; repeat the command to go on from there."
            )
        time.sleep(wait * 2 ** max(failures - 1, 0))


def _append(url: str, file: IO[bytes], tag: Path, progress: Progress | None) -> bool:
    """One request; whether the file is whole after it."""
    have = file.seek(0, os.SEEK_END)
    request = Request(url, headers={"User-Agent": "selfprompt", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag.is_file():  # another file under this address by now comes from its beginning
            request.add_header("If-Range", tag.read_text())
    try:
        response = urlopen(request, timeout=PATIENCE)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{have}":
            return True  # everything had come
        file.truncate(0)
        return False
    with response:
        _refuse_page(url, response)
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status != 206 or not goes_on:  # the whole file, or a part that was not asked for
            file.truncate(0)
            tag.unlink(missing_ok=True)
            have = 0
            if response.status == 206:
                return False
        if (etag := response.headers.get("ETag", "")) and not etag.startswith("W/"):  # weak ones fix no bytes
            tag.write_text(etag)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else 0
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            have += len(chunk)
            if progress is not None and total:
                progress(have, total)
    return not length or have == total


def _refuse_page(url: str, response: Any) -> None:
    if response.headers.get_content_type() == "text/html":
        raise RuntimeError(
            f"{url} answered with a web page instead of the file (it may be gone, or too much asked for): "
            "try later, or get the data set from its home page."
        )


def unpack(archive: Path, into: Path, progress: Progress | None = None) -> None:
    """Unpack a .zip, .tar, .tar.gz or .tgz into a new folder; refuses what would land outside of it.

    Args:
        archive: The file; its name tells its kind.
        into: The folder, which must not exist.
        progress: Told the bytes that are done.

    Raises:
        RuntimeError: If the archive is broken, does not fit on the disk, or holds absolute paths, paths with "..",
            links out of the folder, or devices. What was unpacked until then is deleted.
    """
    into.mkdir(parents=True)
    try:
        if archive.name.endswith(TAR):
            _unpack_tar(archive, into, progress)
        elif archive.suffix == ".zip":
            _unpack_zip(archive, into, progress)
        else:
            raise RuntimeError(f"{archive} must be a .zip, .tar, .tar.gz or .tgz.")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
        shutil.rmtree(into, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RuntimeError(
            f"{archive} cannot be unpacked: {reason.rstrip('.')}. Free some space if there was too little, or "
            "delete it to fetch it anew."
        ) from None


def _unpack_tar(archive: Path, into: Path, progress: Progress | None) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError("this Python cannot unpack tar files safely; use 3.11.4 or newer")
    size = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
        for member in tar:
            tar.extract(member, into, set_attrs=False, filter="data")  # raises on what leads outside
            if progress is not None:
                progress(raw.tell(), size)


def _unpack_zip(archive: Path, into: Path, progress: Progress | None) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or any(":" in part for part in name.parts[:1]):
                raise RuntimeError(f"its member {member.filename!r} leads out of the folder")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise RuntimeError(f"its member {member.filename!r} is a link")
        size, done = sum(member.file_size for member in members), 0
        if size > shutil.disk_usage(into).free:
            raise RuntimeError("there is not enough space on the disk for what it holds")
        for member in members:
            file.extract(member, into)
            done += member.file_size
            if progress is not None:
                progress(done, size)


def find_ending(folder: Path, ending: str) -> Path | None:
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
