"""Atomic writes, and text files written by users in any Unicode encoding."""

import codecs
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

LARGEST_TEXT = 1 << 28
"""Bytes; three times the size of a table of a million images."""
BYTE_ORDER_MARKS = {  # UTF-32 before UTF-16, whose marks are prefixes
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(start: bytes) -> str:
    """Return the encoding that the byte order mark of a text declares; UTF-8 without one."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def read_text(path: Path) -> str:
    """Read a text file written by a user; line ends stay as they are.

    Args:
        path: File in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises:
        ValueError: If the file cannot be read, is too large or has another encoding; the message names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)  # the file may be endless
    except OSError as error:
        raise ValueError(f"{path} must be a readable UTF-8 text file: {error.strerror or error}.") from None
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"{path} must be a readable UTF-8 text file, but it has more than {LARGEST_TEXT:,} bytes.")
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} must be a readable UTF-8 text file, but line {line} is not. Save it as UTF-8."
        ) from None
    if "\0" in text:  # English text in UTF-16 without a mark decodes as UTF-8
        raise ValueError(f"{path} must be a readable UTF-8 text file, but it contains zero bytes. Save it as UTF-8.")
    return text


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, alone: bool = True) -> None:
    """Replace a file atomically: readers see the old or the new content, also after a crash.

    Args:
        path: Path of the file; its folder is created.
        content: New content, whole or in pieces.
        alone: Whether no other process writes the same file at the same time.

    Raises:
        RuntimeError: If the file cannot be written, for example if the disk is full; the old content is kept.
    """
    # A fixed name if possible, so that the next attempt overwrites what a killed process left behind.
    temporary = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # mode x: never writes through a link
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise RuntimeError(
            f"{path} could not be written: {error.strerror or error}. "
            "The old content is intact. Free some space or permit writing, then try again."
        ) from error


def open_to_append(path: Path) -> BinaryIO:
    """Open a file for appending; a link at its path is removed first, never written through."""
    remove_link(path)
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666))


def remove_link(path: Path) -> None:
    """Remove a link, symbolic or hard, or a special file from a path; this package creates none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically; see ``write_atomically`` and ``to_json``."""
    write_atomically(path, (to_json(value, indent=2) + "\n").encode(errors="backslashreplace"))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON text, without escaping non-ASCII letters.

    Raises:
        ValueError: If it contains a number that is not finite, which JSON cannot express.
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on systems that support it (POSIX)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
