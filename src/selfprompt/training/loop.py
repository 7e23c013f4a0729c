"""The training loop: one state, on one device or several."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from selfprompt.data.views import Views
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.distributed import average_gradients, make_fabric, mean_over_processes
from selfprompt.training.identity import checkpoint_identity
from selfprompt.training.logs import RunLog, check_trackers
from selfprompt.training.meter import Meter, accuracy
from selfprompt.training.progress_bar import ProgressBar, epoch_summary
from selfprompt.training.schedule import learning_rate, set_learning_rate
from selfprompt.training.state import TrainingState, Weights

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batches
    from selfprompt.methods.base import Method

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training run. The method holds the weights that ``weights`` names and is in eval mode.

    Attributes:
        history: One record per epoch: epoch (from 1), lr (of its last step), loss and its terms,
            train_accuracy (measured while training, under augmentation), val_accuracy, images_per_second, seconds.
        seconds: Duration of all epochs, including those of earlier processes.
        weights: Which weights were kept: of the last step, of the best epoch on validation images, or the average
            over the steps (ema).
        best_epoch: Epoch (from 1) with the best validation accuracy, the first on a tie; None without
            validation.
        resumed_from: Epochs that earlier processes completed.
    """

    history: tuple[dict[str, Any], ...]
    seconds: float
    weights: Weights
    best_epoch: int | None
    resumed_from: int


def fit(
    method: "Method",
    train: "Batches",
    val: "Batches | None",
    options: TrainOptions,
    *,
    seed: int = 1,
    run_dir: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
    fabric: Fabric | None = None,
    log: Callable[[str], None] = logger.info,
    logs: RunLog | None = None,
) -> FitResult:
    """Train a method in place; on return it holds the final weights.

    Args:
        method: A prepared method. It is moved to the device and never wrapped.
        train: Training batches; with several processes, each has its share of every batch.
        val: Validation batches, or None. Never test images.
        options: How to train.
        seed: Seed of dropout and other randomness in a forward; ``train`` has its own seed for the order of images.
        run_dir: Folder for the checkpoint and the logs; None writes nothing.
        resume: Whether to resume from the checkpoint in the folder, or start if there is none yet.
        identity: Identity of the run besides options and seed (method, data, backbone), as JSON values.
        progress: Whether to show a progress bar, in a terminal.
        fabric: A launched Fabric from ``make_fabric``; None makes one, for a single device.
        log: Receives one line per epoch if no bar is shown.
        logs: Where to log the epochs; the caller closes it. None logs to the folder, as the options say.

    Raises:
        ValueError: If the arguments are inconsistent, or the checkpoint is damaged or belongs to another run.
        RuntimeError: If the loss is no longer finite, or a checkpoint cannot be written.
    """
    fabric = fabric or make_fabric(options)
    _check(method, train, val, options, run_dir, fabric)
    path = None if run_dir is None else Path(run_dir) / CHECKPOINT
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # keeps the caller's random state
        full_identity = checkpoint_identity(method, len(train), options, seed, identity)
        state = TrainingState(method, options, fabric, seed=seed, identity=full_identity, log=log)
        if path is not None and path.exists():
            if not resume:
                raise ValueError(f"{run_dir} already holds a run. Resume it, or use another folder.")
            state.restore(path)
        resumed_from = state.epoch
        folder = Path(run_dir) if run_dir is not None and fabric.is_global_zero else None
        with nullcontext(logs) if logs else RunLog(folder, options.trackers) as opened:
            _train(state, train, val, path, opened, progress=progress, log=log)
    return FitResult(tuple(state.history), state.seconds, state.finish(), state.best_epoch, resumed_from)


def _train(
    state: TrainingState,
    train: "Batches",
    val: "Batches | None",
    path: Path | None,
    logs: RunLog,
    *,
    progress: bool,
    log: Callable[[str], None],
) -> None:
    """Train the remaining epochs; write a checkpoint and logs after each."""
    options, first = state.options, state.fabric.is_global_zero
    bar = ProgressBar(progress and first, epochs=options.epochs, steps=len(train), finished=state.epoch)
    with bar:
        logs.start(state.epoch)
        logs.write_csv(state.history)
        if path is not None and state.epoch == 0:
            state.keep(path.parent)
        while state.epoch < options.epochs:
            start = time.monotonic()
            record = {"epoch": state.epoch + 1, **_epoch(state, train, bar)}
            state.epoch += 1
            if val is not None:
                record["val_accuracy"] = _validate(state, val)
            record["seconds"] = time.monotonic() - start
            state.seconds += record["seconds"]
            state.history.append(record)
            if path is not None:
                state.keep(path.parent)
                state.save(path)
            logs.write_csv(state.history)
            logs.add_point(record)
            if first and not bar.shown:
                log(f"epoch {state.epoch}/{options.epochs}  {epoch_summary(record)}")


def _epoch(state: TrainingState, train: "Batches", bar: ProgressBar) -> dict[str, float]:
    """Train for one epoch; return the means of its losses and accuracy."""
    method, options, steps = state.method, state.options, len(train)
    start, meter, rate = time.monotonic(), Meter(state.fabric.device), 0.0
    stage = method.traits.stage(state.epoch, options.epochs)
    method.train()
    with state.fabric.autocast():
        batches = method.views(train, state.epoch)
    for step, views in enumerate(batches):
        rate = learning_rate(options, state.epoch - stage.start, step, steps, epochs=len(stage))
        set_learning_rate(state.optimizer, rate)
        _reseed(state.fabric.device, state.seed, state.epoch, step, state.fabric.global_rank)
        _step(state, views, meter)
        bar.step(state.epoch + 1, meter, time.monotonic() - start)
    _reseed(state.fabric.device, state.seed, state.epoch, "end")
    method.after_epoch(state.epoch, options.epochs)
    means = meter.means(state.fabric)
    advice = f"Try a lower lr, clip_grad 1, or another precision (it is {options.precision})."
    if not math.isfinite(means["loss"]):
        raise RuntimeError(
            f"The loss became {means['loss']} in epoch {state.epoch + 1} at learning rate {rate:.3g}. {advice}"
        )
    bad = [name for name, tensor in state.tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise RuntimeError(
            f"{bad[0]} holds NaN or infinity after epoch {state.epoch + 1} at learning rate {rate:.3g}. {advice}"
        )
    speed = means.pop("images") / (time.monotonic() - start)
    return {"lr": rate, **means, "images_per_second": speed}


def _step(state: TrainingState, batch: Views, meter: Meter) -> None:
    """Take one optimiser step on this process's part of a batch."""
    fabric, options = state.fabric, state.options
    weight = len(batch)
    if weight == 0:  # no image of a short last batch for this process, but the others wait for its gradients
        if state.spare is None:
            raise ValueError(f"There are fewer training images than processes ({fabric.world_size}).")
        batch = state.spare
    state.spare = batch.rows(0, 1)
    state.optimizer.zero_grad(set_to_none=True)
    for part in batch.chunk(options.accumulate):
        with fabric.autocast():
            terms = state.loss(part)
        total, count = terms.total, len(part)
        if state.method.sets_gradients:
            state.method.set_gradients(terms, partial(mean_over_processes, fabric, weight=weight))
        else:
            fabric.backward(total * (count / len(batch)))
        meter.add(terms, total, part.labels, count if weight else 0)
    if not state.method.sets_gradients:
        average_gradients(fabric, state.parameters, weight)
    if options.clip_grad:
        fabric.clip_gradients(state.method, state.optimizer, max_norm=options.clip_grad, error_if_nonfinite=False)
    state.optimizer_step()
    if state.ema:
        state.ema.update(state.parameters)


def _validate(state: TrainingState, val: "Batches") -> float:
    """Return the validation accuracy of the current weights and remember the best epoch."""
    if state.ema:
        with state.ema.applied(state.method):
            value = accuracy(state.method, val, state.fabric)
    else:
        value = accuracy(state.method, val, state.fabric)
    best = state.history[state.best_epoch - 1]["val_accuracy"] if state.best_epoch else -1.0
    if value > best:
        state.best_epoch = state.epoch
        if state.options.select == "best-val":
            state.best = {name: tensor.detach().clone() for name, tensor in state.current_weights().items()}
    return value


def _reseed(device: torch.device, *key: int | str) -> None:
    """Seed torch's global generator, which dropout uses, from the position in the run, so that resuming repeats it."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    seed = int.from_bytes(digest, "big") >> 1
    if device.type == "cpu":  # seeding all kinds of devices takes as long as a step on cached features
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _check(
    method: "Method",
    train: "Batches",
    val: "Batches | None",
    options: TrainOptions,
    run_dir: Path | None,
    fabric: Fabric,
) -> None:
    """Raise ValueError if the arguments are inconsistent."""
    if options.select == "best-val" and val is None:
        raise ValueError("select 'best-val' needs validation images. Add a val split, or use select 'last'.")
    check_trackers(options.trackers, run_dir)
    if train.world != fabric.world_size:
        raise ValueError(f"The batches are split for {train.world} processes, but there are {fabric.world_size}.")
    for name, parameter in method.trainable().items():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"Trainable parameters must be float32, got {parameter.dtype} for {name}.")
    if method.sets_gradients and (options.accumulate > 1 or options.precision == "16-mixed"):
        raise ValueError(
            "A method that combines gradients itself needs accumulate 1 and a precision other than 16-mixed, "
            f"got accumulate {options.accumulate} and precision {options.precision}."
        )
