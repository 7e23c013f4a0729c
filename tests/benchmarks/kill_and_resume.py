"""Run a grid in processes that are killed; started by test_runner.py as ``python -m``.

Each process is a fork of this one, so that torch is imported once. Prints counts as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.protocols import build_grid
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import RunCache, run_grid

ROW = "tests.benchmarks.journal_methods:Quick[workers=0,backbone=embedded/mae]"


def cells() -> tuple[Cell, ...]:
    """Return eight quick cells."""
    return build_grid(
        "base-to-new", "embedded", parse_rows(ROW), ["animals", "food"], (1, 2, 3, 4), (2,), {"epochs": 1}
    )


def forked(root: Path, out: Path) -> int:
    """Run the grid in a child process; returns its id."""
    pid = os.fork()
    if pid == 0:
        cache = RunCache(root)
        for _ in run_grid(cells(), out, cache):
            pass
        os._exit(0)
    return pid


def results(out: Path) -> dict[str, int]:
    """Return when each result was written."""
    return {str(file): file.stat().st_mtime_ns for file in out.rglob("result.json")}


def main(root: Path, folder: Path) -> None:
    """Kill at random moments until the grid is finished."""
    torch.set_num_threads(1)
    rng, kills, rewritten = random.Random(0), 0, []
    seen: dict[str, int] = {}
    while True:
        before = len(seen)
        pid = forked(root, folder / "killed")
        while kills < 4 and len(results(folder / "killed")) < min(before + 2, 8):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.1))
        if kills < 4:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        _, status = os.waitpid(pid, 0)
        now = results(folder / "killed")
        rewritten += [file for file, moment in seen.items() if now.get(file) != moment]
        seen = now
        if not os.WIFSIGNALED(status):
            break
    counts = {
        "kills": kills,
        "rewritten": rewritten,
        "cells": len(cells()),
        "finished": len(seen),
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
