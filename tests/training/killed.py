"""Train in processes that are killed, resuming each time; started by test_killed.py as ``python -m``.

Each process is a fork of this one, so that torch is imported once. Prints how many were killed.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from selfprompt.recipes.options import TrainOptions
from selfprompt.training.loop import fit
from tests.training.tiny import TinyMethod, batches, validation

OPTIONS = TrainOptions(
    epochs=25,
    batch_size=8,
    lr=0.02,
    optimizer="adamw",
    schedule="warmup_cosine",
    ema_decay=0.9,
    select="best-val",
    device="cpu",
    workers=0,
)


def train(run_dir: Path) -> None:
    """One attempt."""
    method = TinyMethod(dropout=0.3)
    fit(method, batches(43), validation(), OPTIONS, run_dir=run_dir, resume=True, progress=False)


def forked(work: Callable[[], None]) -> int:
    """Start the work in a new process."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def survived(pid: int) -> bool:
    """Wait for a process; whether it ended by itself."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return False
    if status:
        sys.exit(f"an attempt failed with status {status}")
    return True


def dies_at_call(name: str, number: int, after: bool, run_dir: Path) -> None:
    """Train, and kill this process at a call of ``os.<name>``, just before or after it."""
    call, calls = getattr(os, name), 0

    def deadly(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments)
        if calls == number and after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, name, deadly)
    train(run_dir)


def main(folder: Path) -> None:
    """Fill ``straight`` (never killed), ``random`` (killed at any moment), ``writing`` (while it writes)."""
    start = time.monotonic()
    assert survived(forked(lambda: train(folder / "straight")))
    length = time.monotonic() - start

    rng, kills = random.Random(0), 0
    while True:
        pid = forked(lambda: train(folder / "random"))
        if kills < 12:
            time.sleep(rng.uniform(0.02, 0.25) * length)
            os.kill(pid, signal.SIGKILL)  # a process that has just finished is still there to be waited for
        if survived(pid):
            break
        kills += 1

    for number, (name, after) in enumerate(
        [("fsync", False), ("fsync", True), ("replace", False), ("replace", True)] * 3, start=1
    ):
        pid = forked(lambda n=name, k=number, a=after: dies_at_call(n, k, a, folder / "writing"))
        kills += not survived(pid)
    assert survived(forked(lambda: train(folder / "writing")))
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
