"""Files that are written whole or not at all, as everything that a run leaves behind; and texts that users write."""

import codecs
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

LARGEST_TEXT = 1 << 28
"""Bytes; a table of a million images is about a third of it."""
BYTE_ORDER_MARKS = {  # those of UTF-32 first: UTF-16's are their beginning
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(start: bytes) -> str:
    """The encoding of a text that begins with these bytes: what its byte order mark says, else UTF-8."""
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def read_text(path: Path) -> str:
    """A text file that a user wrote, by whatever program; line ends are left as they are.

    Args:
        path: UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Raises:
        ValueError: If the file cannot be read or is in another encoding; the message names it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)  # of a file without end
    except OSError as error:
        raise ValueError(f"{path} must be a readable UTF-8 text file: {error.strerror or error}.") from None
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"{path} must be a readable UTF-8 text file, but it has more than {LARGEST_TEXT:,} bytes.")
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} must be a readable UTF-8 text file, but line {line} is not: save it so.") from None
    if "\0" in text:  # UTF-16 without its mark decodes as UTF-8 where it is English
        raise ValueError(f"{path} must be a readable UTF-8 text file, but it holds zero bytes: save it so.")
    return text


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, alone: bool = True) -> None:
    """Replace a file so that a reader, or a crash, meets the old content or the new, never a part of one.

    Args:
        path: The file; its folder is made.
        content: What it will hold, or the pieces of it where it is large.
        alone: False where another process may write the same file at the same time.

    Raises:
        RuntimeError: If it cannot be written, the disk being full say; what was there is untouched.
    """
    # One fixed name, if possible: what a killed process left behind is overwritten by the next attempt.
    temporary = path.with_name(f".{path.name}.part" if alone else f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # new, so never a link that somebody put there
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
            "What was there before is intact: free some space or permit writing, then try again."
        ) from error


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to write on at its end; a link that stands in its place is removed, never written through."""
    remove_link(path)
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666))


def remove_link(path: Path) -> None:
    """Remove what stands at a path if it is a link, symbolic or hard, or no plain file: nothing of ours is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, as ``write_atomically`` does; raises as ``to_json`` does."""
    write_atomically(path, (to_json(value, indent=2) + "\n").encode(errors="backslashreplace"))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON text, letters of all scripts as they are.

    Raises:
        ValueError: If it holds a number that is not finite, for which JSON has no word.
    """
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's new names to the disk, where the system has that (POSIX)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
