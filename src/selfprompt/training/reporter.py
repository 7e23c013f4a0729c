"""What a person sees while training: a bar in a terminal, or a line for each epoch."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from selfprompt.training.meter import Meter

REFRESH = 0.25
"""Seconds between two readings of the meter; a reading waits for the device."""


class ProgressBar:
    """A bar over all epochs with loss, training accuracy, images per second and the time left.

    Args:
        show: Whether to show it; it never shows outside a terminal.
        epochs: Of the whole run.
        steps: Per epoch.
        finished: Epochs that an earlier process finished.
        console: Where to show it.
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
        self._read = 0.0

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def step(self, epoch: int, meter: Meter, seconds: float) -> None:
        """One step is done.

        Args:
            epoch: From 1.
            meter: Of this epoch.
            seconds: Since the epoch began.
        """
        if not self.shown:
            return
        self.bar.advance(self.task)
        now = time.monotonic()
        if now - self._read >= REFRESH:
            self._read = now
            record = meter.means()
            record["images_per_second"] = record["images"] / max(seconds, 1e-9)
            self.bar.update(self.task, description=f"epoch {epoch}/{self.epochs}", state=summary(record))


def summary(record: Mapping[str, Any]) -> str:
    """The numbers of an epoch in one short line."""
    words = [f"loss {record['loss']:.4f}"]
    words += [
        f"{word} {100 * record[name]:.1f} %"
        for word, name in (("train", "train_accuracy"), ("val", "val_accuracy"))
        if record.get(name) is not None
    ]
    if "lr" in record:
        words.append(f"lr {record['lr']:.2g}")
    words.append(f"{record['images_per_second']:.0f} images/s")
    return "  ".join(words)
