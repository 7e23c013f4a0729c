"""What a run writes for people: log.csv, and TensorBoard files on request."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import TensorBoardLogger

from selfprompt.utils.files import write_atomically


class RunLog:
    """The logs of a run's epochs.

    Not Fabric's CSVLogger: it starts a new or an emptied file in every process. This one writes the whole
    history each time, so after a crash and a resume there is one row per epoch, whichever process trained it.

    Args:
        folder: The run's folder; None writes nothing.
        tensorboard: Whether to write TensorBoard files too.
        finished: Epochs that an earlier process finished; what it wrote behind them is hidden by TensorBoard.

    Raises:
        RuntimeError: If TensorBoard is asked for and not installed.
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

    def table(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write log.csv."""
        if self.folder is not None and history:
            write_atomically(self.folder / "log.csv", as_csv(history).encode())

    def point(self, record: Mapping[str, Any]) -> None:
        """Add an epoch to TensorBoard's curves."""
        if self.tensorboard is not None:
            self.tensorboard.log_metrics(dict(record), step=record["epoch"])
            self.tensorboard.save()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.tensorboard is not None:
            self.tensorboard.finalize("success")


def as_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV; the columns are all names that occur, in their first order."""
    columns = list(dict.fromkeys(name for record in history for name in record))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
