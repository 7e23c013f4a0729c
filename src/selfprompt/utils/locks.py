"""Locks on files and folders that processes share; a lock ends with its process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selfprompt.utils.files import remove_link


@contextmanager
def lock_file(lock: Path) -> Iterator[bool]:
    """Hold a lock file within the context; yields False if another process holds it.

    The operating system releases the lock of a process that dies. The lock file is not deleted: otherwise two processes
    could hold locks on two files of the same name.

    Args:
        lock: Path of the lock file; its folder is created.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    remove_link(lock)  # opening the lock file truncates it
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()


FOLDER_LOCK = ".lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Hold a folder within the context; yields False if another process or thread holds it.

    Removes the lock file afterwards, and the folder if it was created here and is empty. A lock file left by a killed
    process blocks nobody.

    Args:
        folder: Path of the folder, which is created.

    Raises:
        RuntimeError: If the folder cannot be written to.
    """
    lock, new = folder / FOLDER_LOCK, not folder.exists()
    try:
        held = lock_file(lock)
        is_ours = held.__enter__()
    except OSError as error:
        raise RuntimeError(f"{folder} cannot be written to: {error.strerror or error}. Choose another one.") from error
    try:
        yield is_ours
    finally:
        if is_ours:
            lock.unlink(missing_ok=True)  # while held: a process that opened it meanwhile sees it deleted and gives up
        held.__exit__(None, None, None)
        if is_ours and new and not any(folder.iterdir()):
            folder.rmdir()
