"""Downloads files over HTTP and resumes interrupted downloads; never leaves an incomplete file.

A file in progress is called ``NAME.part``; it gets its name when it is complete and its checksum matches.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from selfprompt.utils.files import open_to_append, write_atomically
from selfprompt.utils.progress import Progress

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte before a connection counts as broken


def download(
    url: str,
    path: Path,
    *,
    checksum: str = "",
    attempts: int = 5,
    wait: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Download a file; resumes where an earlier attempt, or an earlier call, was interrupted.

    Args:
        url: An http or https URL.
        path: Path of the file; must not exist.
        checksum: See `verify_checksum`; "" checks the length only.
        attempts: Consecutive attempts that may fail without receiving a byte.
        wait: Seconds before the second attempt; doubled before each further one.
        progress: Called with (bytes received, bytes in all).

    Raises:
        FileExistsError: If the path exists.
        RuntimeError: If the file cannot be fetched, or does not match the checksum.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is left as it is.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with _open_exclusively(part) as file:
        _fetch(url, file, part.with_name(f"{part.name}.tag"), attempts, wait, progress)
        file.flush()
        os.fsync(file.fileno())
    verify_checksum(part, checksum, url)
    os.replace(part, path)
    part.with_name(f"{part.name}.tag").unlink(missing_ok=True)


def verify_checksum(path: Path, checksum: str, name: str) -> None:
    """Delete a file and raise RuntimeError if it does not match a checksum.

    Args:
        path: The file.
        checksum: "md5:...", "sha256:...", or "git:..." for the id of the file as a git blob; "" for none.
        name: Name of the file in messages.
    """
    algorithm, _, published = checksum.partition(":")
    if not algorithm:
        return
    with path.open("rb") as file:
        if algorithm == "git":
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
            actual = digest.hexdigest()
        else:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
    if actual != published:
        path.unlink()
        raise RuntimeError(
            f"{name} is not the published file: its {algorithm} is {actual}, not {published}. It was deleted; try "
            "again, and if that fails, get the data set from its home page."
        )


@contextmanager
def _open_exclusively(part: Path) -> Iterator[IO[bytes]]:
    """Open the part file for appending, by this process only."""
    with open_to_append(part) as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # this system has no such locks
        except BlockingIOError:
            raise RuntimeError(f"Another process is fetching {part}: wait for it.") from None
        yield file


def _fetch(url: str, file: IO[bytes], tag: Path, attempts: int, wait: float, progress: Progress | None) -> None:
    """Append to the file until it is complete."""
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
                f"{url} cannot be fetched: {reason}. The part received is kept; repeat the command to resume."
            )
        time.sleep(wait * 2 ** max(failures - 1, 0))


def _append(url: str, file: IO[bytes], tag: Path, progress: Progress | None) -> bool:
    """Make one request, and return whether the file is complete."""
    received = file.seek(0, os.SEEK_END)
    request = Request(url, headers={"User-Agent": "selfprompt", "Accept-Encoding": "identity"})
    if received:
        request.add_header("Range", f"bytes={received}-")
        if tag.is_file():  # if the file has changed since, it is sent from its beginning
            request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    try:
        response = build_opener(_NoDowngrade).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{received}":
            return True  # the part was complete
        file.truncate(0)
        return False
    with response:
        _refuse_page(url, response)
        resumes = response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
        if response.status != 206 or not resumes:  # the whole file, or not the requested part
            file.truncate(0)
            tag.unlink(missing_ok=True)
            received = 0
            if response.status == 206:
                return False
        if (etag := response.headers.get("ETag", "")) and not etag.startswith(
            "W/"
        ):  # a weak one does not identify bytes
            write_atomically(tag, etag.encode())
        length = response.headers.get("Content-Length", "")
        total = received + int(length) if length.isdecimal() else 0
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            received += len(chunk)
            if progress is not None and total:
                progress(received, total)
    return not total or received == total


class _NoDowngrade(HTTPRedirectHandler):
    """Follows redirects, but never from https to http, where the file could be changed on the way."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        """Return the request for the new URL."""
        if not newurl.lower().startswith(("https:",) if req.type == "https" else ("https:", "http:")):
            raise RuntimeError(
                f"{req.full_url} cannot be fetched: it redirects to {newurl}, which is not safe to follow. "
                "Get the data set from its home page."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_page(url: str, response: Any) -> None:
    if response.headers.get_content_type() == "text/html":
        raise RuntimeError(
            f"{url} answered with a web page instead of the file (it may be gone, or requests may be limited): "
            "try later, or get the data set from its home page."
        )
