"""Writes folders of exported classifiers: whole or not at all."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from selfprompt.runtime.folder import RECORD, ExportRecord, StoredFile
from selfprompt.utils.files import write_atomically, write_json


def check_new(folder: Path) -> None:
    """Raise ValueError if a folder to write is a file, or holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already. Choose another name with --out, or delete it.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder that becomes ``folder`` if all goes well, and is deleted otherwise.

    Raises:
        ValueError: If ``folder`` is a file, or holds something.
        RuntimeError: If it cannot be written.
    """
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())  # a temporary folder is private
            if folder.exists():
                folder.rmdir()
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise RuntimeError(f"{folder} could not be written: {error.strerror or error}.") from error


def _umask() -> int:
    """Return the process's file mode mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def stored_file(folder: Path, path: str) -> StoredFile:
    """Return the entry of a file of a folder for its record."""
    with (folder / path).open("rb") as file:
        return StoredFile(path, hashlib.file_digest(file, "sha256").hexdigest(), (folder / path).stat().st_size)


def write_vectors(folder: Path, vectors: np.ndarray) -> StoredFile:
    """Write class vectors to a file of their own name, beside those in use, and return its entry."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(vectors, dtype=np.float32), allow_pickle=False)
    path = f"class_vectors-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.npy"
    write_atomically(folder / path, content.getvalue())
    return stored_file(folder, path)


def write_record(folder: Path, record: ExportRecord) -> None:
    """Write or replace export.json."""
    write_json(folder / RECORD, record.to_json())
