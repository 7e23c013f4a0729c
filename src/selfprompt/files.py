"""Files that are written whole or not at all; used for everything a run leaves behind."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


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
    """Replace a JSON file, as ``write_atomically`` does."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def _sync_folder(folder: Path) -> None:
    """Bring a folder's new names to the disk, where the system has that (POSIX)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
