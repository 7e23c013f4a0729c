"""Work for the tests of engines: squares of numbers, with a journal, in workers that may die or fail."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path


def squares(folder: Path, deadly: int = -1, always: bool = False, wrong: int = -1) -> Callable[[int], tuple[int, int]]:
    """Return the function of a worker: a number to its square and the process.

    Args:
        folder: Gets a line in "started" for each worker, and one in "journal" for each number that is begun.
        deadly: Number that kills its worker; once, unless ``always``.
        wrong: Number that raises an error.
    """
    note(folder / "started", os.getpid())
    return partial(square, folder, deadly, always, wrong)


def square(folder: Path, deadly: int, always: bool, wrong: int, number: int) -> tuple[int, int]:
    note(folder / "journal", number)
    if number == wrong:
        raise ValueError(f"{number} is wrong")
    if number == deadly and (always or first_time(folder / "killed")):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number * number, os.getpid()


def note(path: Path, line: object) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def first_time(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def visible_gpus() -> Callable[[int], str]:
    """Return a function that tells which GPUs its process sees."""
    return lambda number: os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def loud() -> Callable[[int], None]:
    """Return a function that logs and warns."""
    return tell


def tell(number: int) -> None:
    logging.getLogger("selfprompt").warning("logged \x1b[31m")
    warnings.warn("warned \x1b[31m", stacklevel=1)


def ignore_everything(number: int) -> None:
    time.sleep(600)


def endless(folder: Path) -> Callable[[int], None]:
    note(folder / "started", os.getpid())
    return ignore_everything
