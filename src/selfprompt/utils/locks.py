"""Claims on files that several processes share: a lock that dies with its process; knows files only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selfprompt.utils.files import remove_link


@contextmanager
def claimed(lock: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file for as long as the context lasts; false if another process has it.

    The operating system releases the claim of a process that dies, whatever it died of. The lock's file stays: to
    delete it would let two processes hold locks on two files of one name.

    Args:
        lock: The file; its folder is made.
        wait: Whether to wait until the other process is done, instead of giving up.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    remove_link(lock)  # the lock's file is emptied when it is opened
    held = FileLock(lock)
    try:
        held.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()


FOLDER_LOCK = ".lock"


@contextmanager
def folder_claimed(folder: Path) -> Iterator[bool]:
    """Hold a whole folder for as long as the context lasts; false if another process or thread writes there.

    Nothing of the lock is left behind, nor a folder that was made for it and holds nothing else. What a killed process
    leaves of it keeps nobody out.

    Args:
        folder: It is made.

    Raises:
        RuntimeError: If it cannot be written to.
    """
    lock, new = folder / FOLDER_LOCK, not folder.exists()
    try:
        claim = claimed(lock)
        mine = claim.__enter__()
    except OSError as error:
        raise RuntimeError(f"{folder} cannot be written to: {error.strerror or error}. Choose another one.") from error
    try:
        yield mine
    finally:
        if mine:
            lock.unlink(missing_ok=True)  # while it is held; whoever opened it meanwhile finds it deleted, and gives up
        claim.__exit__(None, None, None)
        if mine and new and not any(folder.iterdir()):
            folder.rmdir()
