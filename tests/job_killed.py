"""Predict in processes that are killed, then in several at once; started by test_predict.py as ``python -m``.

Each process is a fork of this one, so that torch and timm are imported once. Prints what was seen, as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import timm  # noqa: F401
import torch

from selfprompt.cli.main import main as selfprompt
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.predictions import Prediction

STREAM = Classifier.stream


def forked(classifier: Path, photos: Path, out: Path) -> int:
    """Predict slowly in a new process, which records each part that it begins."""
    pid = os.fork()
    if pid == 0:

        def noted(self: Classifier, images: Iterable[Any], **options: Any) -> Iterator[list[Prediction]]:
            images = list(images)
            with out.with_suffix(".begun").open("a") as file:
                file.write(f"{images[0]}\n")
            for batch in STREAM(self, images, **options):
                time.sleep(0.01)
                yield batch

        Classifier.stream = noted
        options = ["--part-size", "10", "--workers", "2", "--device", "cpu", "--merge", "--quiet"]
        os._exit(selfprompt(["predict", str(classifier), str(photos), "--out", str(out), *options]))
    return pid


def ended(pid: int) -> bool:
    """Wait for a process; false if it was killed."""
    _, status = os.waitpid(pid, 0)
    if status and not os.WIFSIGNALED(status):
        sys.exit(f"a process failed with status {status}")
    return not status


def parts(out: Path) -> dict[str, int]:
    """Return the time at which each part was written."""
    return {file.name: file.stat().st_mtime_ns for file in out.glob("part-*")}


def wait_for(out: Path, count: int) -> None:
    """Until there are so many parts."""
    while len(parts(out)) < count:
        time.sleep(0.005)


def begun(out: Path) -> list[str]:
    """The first image of each part that was begun."""
    return out.with_suffix(".begun").read_text().splitlines()


def main(classifier: Path, photos: Path, root: Path) -> None:
    """Straight; killed at random moments; two at once; two of which one is killed."""
    torch.set_num_threads(1)
    given, rng = (classifier, photos), random.Random(0)
    ended(forked(*given, root / "straight"))
    number = len(parts(root / "straight"))

    killed, kills, rewritten = root / "killed", 0, []
    seen: dict[str, int] = {}
    while True:
        pid = forked(*given, killed)
        if kills < 5:
            wait_for(killed, min(len(seen) + 2, number))
            time.sleep(rng.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
        kills += 1
        finished = ended(pid)
        now = parts(killed)
        rewritten += [name for name, moment in seen.items() if now.get(name) != moment]
        seen = now
        if finished:
            break

    for pid in [forked(*given, root / "together") for _ in range(2)]:
        ended(pid)

    first, second = (forked(*given, root / "one_dies") for _ in range(2))
    wait_for(root / "one_dies", 5)
    os.kill(first, signal.SIGKILL)
    ended(first)
    ended(second)

    told = {
        "parts": number,
        "kills": kills - 1,
        "rewritten": rewritten,
        "begun": {name: len(begun(root / name)) for name in ("straight", "killed", "together", "one_dies")},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
