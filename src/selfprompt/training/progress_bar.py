"""A progress bar over the epochs, and one line of numbers per epoch."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.training.meter import Meter

REFRESH = 0.25
"""Seconds between two updates of the numbers; each update waits for the device."""


class ProgressBar:
    """A bar over all epochs with loss, training accuracy, images per second and time left.

    Args:
        show: Whether to show the bar; it never shows outside a terminal.
        epochs: Epochs of the whole run.
        steps: Optimiser steps per epoch.
        finished: Epochs that earlier processes completed.
        console: Console to draw on; None makes one.
    """

    def __init__(
        self, show: bool, *, epochs: int, steps: int, finished: int = 0, console: Console | None = None
    ) -> None:
        self.console = console or Console()
        self.shown = show and self.console.is_terminal
        self.epochs = epochs
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.shown,
        )
        self.task = self.bar.add_task("", total=epochs * steps, completed=finished * steps, state="")
        self._updated = 0.0

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def step(self, epoch: int, meter: Meter, seconds: float) -> None:
        """Advance by one step.

        Args:
            epoch: Current epoch, from 1.
            meter: Meter of this epoch.
            seconds: Seconds since the epoch began.
        """
        if not self.shown:
            return
        self.bar.advance(self.task)
        now = time.monotonic()
        if now - self._updated >= REFRESH or self.bar.finished:  # the last numbers stay on the screen
            self._updated = now
            record = meter.means()
            record["images_per_second"] = record["images"] / max(seconds, 1e-9)
            self.bar.update(self.task, description=f"epoch {epoch}/{self.epochs}", state=epoch_summary(record))


def epoch_summary(record: Mapping[str, Any]) -> str:
    """Format the numbers of an epoch as one short line."""
    parts = [f"loss {record['loss']:.4f}"]
    parts += [
        f"{label} {100 * record[name]:.1f} %"
        for label, name in (("train", "train_accuracy"), ("val", "val_accuracy"))
        if record.get(name) is not None
    ]
    if "lr" in record:
        parts.append(f"lr {record['lr']:.2g}")
    parts.append(f"{record['images_per_second']:.0f} images/s")
    return "  ".join(parts)
