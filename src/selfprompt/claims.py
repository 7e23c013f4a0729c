"""Claims on files that several processes share: a lock that dies with its process; knows files only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from selfprompt.files import remove_link


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
