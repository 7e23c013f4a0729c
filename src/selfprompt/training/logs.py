"""The logs of a run: log.csv, and TensorBoard files on request."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import TensorBoardLogger

from selfprompt.utils.files import write_atomically


class RunLog:
    """Writes the epochs of a run to log.csv and TensorBoard.

    Fabric's CSVLogger starts a new or empty file in every process. This class writes the whole history each
    time: after a crash and a resume there is one row per epoch.

    Args:
        folder: Folder of the run; None writes nothing.
        tensorboard: Whether to write TensorBoard files, too.
        finished: Epochs that earlier processes completed; TensorBoard hides what they wrote after these.

    Raises:
        RuntimeError: If ``tensorboard`` is set and the package is not installed.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool = False, finished: int = 0) -> None:
        self.folder = folder
        self.tensorboard: TensorBoardLogger | None = None
        if folder is not None and tensorboard:
            try:
                self.tensorboard = TensorBoardLogger(folder, name="tensorboard", version="", purge_step=finished + 1)
            except ModuleNotFoundError as error:
                raise RuntimeError(
                    "log_tensorboard needs the package tensorboard, which is not installed. "
                    "Install selfprompt[tensorboard], or leave log_tensorboard out."
                ) from error

    def write_csv(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite log.csv."""
        if self.folder is not None and history:
            write_atomically(self.folder / "log.csv", history_csv(history).encode())

    def add_point(self, record: Mapping[str, Any]) -> None:
        """Add an epoch to the curves of TensorBoard."""
        if self.tensorboard is not None:
            self.tensorboard.log_metrics(dict(record), step=record["epoch"])
            self.tensorboard.save()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.tensorboard is not None:
            self.tensorboard.finalize("success")


def history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """Format records as CSV; the columns are all keys that occur, in order of first appearance."""
    columns = list(dict.fromkeys(name for record in history for name in record))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
