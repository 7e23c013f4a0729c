"""The logs of a run: log.csv, and on request TensorBoard, W&B and MLflow through Lightning's loggers."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import TensorBoardLogger

from selfprompt.recipes.options import Tracker
from selfprompt.utils.files import write_atomically

PACKAGES: Mapping[Tracker, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb", "pytorch_lightning"),
    "mlflow": ("mlflow", "pytorch_lightning"),
}
"""Packages that each tracker needs."""
PROJECT = "selfprompt"
"""Name of the project or experiment, unless the tracker's own environment variable gives one."""


class RunLog:
    """Writes the epochs of a run to log.csv and to trackers.

    Fabric's CSVLogger starts a new or empty file in every process. This class writes the whole history each
    time: after a crash and a resume there is one row per epoch.

    Args:
        folder: Folder of the run; None writes nothing.
        log_to: Trackers besides log.csv. W&B and MLflow show a resumed run as another one with the remaining epochs.
        settings: Hyper-parameters to log, as JSON values.
    """

    def __init__(
        self, folder: Path | None, log_to: Sequence[Tracker] = (), settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.settings = folder, dict(settings or {})
        self.waiting = tuple(log_to) if folder is not None else ()
        self.trackers: dict[Tracker, Any] = {}
        self.epoch = 0

    def start(self, finished: int = 0) -> None:
        """Open the trackers, once.

        Args:
            finished: Epochs that earlier processes completed; TensorBoard hides what they wrote after these.
        """
        assert self.folder is not None or not self.waiting
        for name in self.waiting:
            self.trackers[name] = open_tracker(name, Path(self.folder or "."), finished)
            self.trackers[name].log_hyperparams(self.settings)
        self.waiting = ()

    def write_csv(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite log.csv."""
        if self.folder is not None and history:
            write_atomically(self.folder / "log.csv", history_csv(history).encode())

    def add_point(self, record: Mapping[str, Any]) -> None:
        """Add an epoch to the curves of the trackers."""
        self.epoch = record["epoch"]
        self._log(record)

    def add_results(self, results: Mapping[str, Any]) -> None:
        """Add the final numbers of a run, also of one without epochs."""
        self.start()
        self._log(final_metrics(results))

    def _log(self, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers.values():
            tracker.log_metrics(dict(metrics), step=self.epoch)
            tracker.save()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        for name, tracker in self.trackers.items():
            tracker.finalize("failed" if kind else "success")
            if name == "wandb":  # else the next run of this process would continue it
                tracker.experiment.finish(exit_code=int(kind is not None))


def check_trackers(log_to: Sequence[Tracker], folder: Path | None) -> None:
    """Check that a run can be followed.

    Raises:
        ValueError: If there are trackers, but no folder for the run.
        RuntimeError: If the packages of a tracker are not installed.
    """
    if log_to and folder is None:
        raise ValueError("log_to needs the folder of the run: out, or for fit run_dir.")
    for name in log_to:
        missing = [package.replace("_", "-") for package in PACKAGES[name] if find_spec(package) is None]
        if missing:
            raise RuntimeError(
                f"log_to {name} needs {' and '.join(missing)}. Install selfprompt[{name}], or leave it out of log_to."
            )


def open_tracker(name: Tracker, folder: Path, finished: int) -> Any:
    """Return Lightning's logger for a tracker; W&B and MLflow read their own environment variables."""
    if name == "tensorboard":
        return TensorBoardLogger(
            folder, name="tensorboard", version="", default_hp_metric=False, purge_step=finished + 1
        )
    from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

    if name == "wandb":
        return WandbLogger(project=os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, save_dir=folder)
    address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.absolute() / 'mlflow.db'}")
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return MLFlowLogger(experiment, run_name=folder.name, tracking_uri=address)


def final_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a finished run that trackers show: of the classifier and its floors on test images."""
    parts = {part: results.get(part) or {} for part in ("tuned", "zero_shot", "ridge")}
    names = ("accuracy", "macro", "calibration_error")
    metrics = {f"{part}/{name}": numbers.get(name) for part, numbers in parts.items() for name in names}
    metrics |= {name: results.get(name) for name in ("training_accuracy", "trainable_parameters", "seconds")}
    return {name: float(value) for name, value in metrics.items() if value is not None}


def history_csv(history: Sequence[Mapping[str, Any]]) -> str:
    """Format records as CSV; the columns are all keys that occur, in order of first appearance."""
    columns = list(dict.fromkeys(name for record in history for name in record))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
