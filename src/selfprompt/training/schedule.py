"""Learning rates as functions of the position in a run, so that resuming needs no scheduler state."""

import math

from torch.optim import Optimizer

from selfprompt.recipes.options import TrainOptions


def dassl_cosine(
    epoch: int,
    *,
    epochs: int,
    lr: float,
    warmup_epochs: int = 1,
    warmup_lr: float = 1e-5,
    min_lr: float = 0.0,
) -> float:
    """Return the learning rate of Dassl, the trainer of CoOp and its successors; constant within an epoch.

    The first ``warmup_epochs`` have ``warmup_lr``. Then the cosine starts at the full rate, but its
    period is ``epochs``, so the last epoch does not reach ``min_lr``: with T epochs and one of warm-up,
    ``lr(e) = lr/2 (1 + cos(pi (e - 1) / T))``.

    Args:
        epoch: Epoch, from 0.
        epochs: Length of the run, T.
        lr: Peak rate.
        warmup_epochs: Epochs of warm-up.
        warmup_lr: Rate during the warm-up.
        min_lr: Rate that the cosine decays towards; 0 in Dassl.
    """
    if epoch < warmup_epochs:
        return warmup_lr
    return _cosine((epoch - warmup_epochs) / epochs, lr, min_lr)


def warmup_cosine(time: float, *, epochs: int, lr: float, warmup_epochs: float = 10, min_lr: float = 0.0) -> float:
    """Return SPT's learning rate: linear from 0, then a cosine to ``min_lr``. The first step has rate 0.

    Args:
        time: Position in epochs, ``epoch + step / steps_per_epoch``.
        epochs: Length of the run.
        lr: Peak rate.
        warmup_epochs: Length of the linear part.
        min_lr: Rate at the end.
    """
    if time < warmup_epochs:
        return lr * time / warmup_epochs
    return _cosine((time - warmup_epochs) / (epochs - warmup_epochs), lr, min_lr)


def learning_rate(options: TrainOptions, epoch: int, step: int, steps: int, *, epochs: int | None = None) -> float:
    """Return the learning rate of one step.

    Args:
        options: The schedule and its values.
        epoch: Epoch, from 0.
        step: Step within the epoch, from 0.
        steps: Steps per epoch.
        epochs: Epochs of the schedule, if not all of the run.
    """
    epochs = options.epochs if epochs is None else epochs
    if options.schedule == "dassl_cosine":
        return dassl_cosine(
            epoch,
            epochs=epochs,
            lr=options.lr,
            warmup_epochs=options.warmup_epochs,
            warmup_lr=options.warmup_lr,
            min_lr=options.min_lr,
        )
    if options.schedule == "warmup_cosine":
        return warmup_cosine(
            epoch + step / steps,
            epochs=epochs,
            lr=options.lr,
            warmup_epochs=options.warmup_epochs,
            min_lr=options.min_lr,
        )
    return options.lr


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every parameter group, times its ``lr_scale`` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _cosine(progress: float, lr: float, min_lr: float) -> float:
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
