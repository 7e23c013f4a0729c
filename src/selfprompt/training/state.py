"""The state of a training run, and how it is saved to a checkpoint and restored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning_fabric import Fabric
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.checkpoint import (
    TrainingCheckpoint,
    keep_epoch,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from selfprompt.training.compiled_loss import compiled_loss
from selfprompt.training.distributed import broadcast
from selfprompt.training.ema import Ema, overwrite
from selfprompt.training.optim import build_optimizer

if TYPE_CHECKING:
    from selfprompt.methods.base import Method

Weights = Literal["last", "best-val", "ema", "best-val-ema"]


class TrainingState:
    """Everything that changes while a method is trained.

    Args:
        method: The method; it is moved to the device.
        options: How to train.
        fabric: A launched Fabric.
        seed: Seed of the randomness in a forward.
        identity: Identity of the run, as JSON values; a checkpoint with another identity is refused.
        log: Receives how long compiling took.

    Attributes:
        loss: The method's loss, compiled if the options say so.
        parameters: The trainable parameters by name.
        tensors: The trainable parameters and the method's ``training_state()`` tensors.
        epoch: Number of completed epochs.
        best_epoch: Epoch, from 1, with the best validation accuracy.
        best: Tensors of that epoch, if ``select`` is "best-val".
        spare: A batch of one image, for a process that gets no image of a short batch.
    """

    def __init__(
        self,
        method: "Method",
        options: TrainOptions,
        fabric: Fabric,
        *,
        seed: int,
        identity: Mapping[str, Any],
        log: Callable[[str], None],
    ) -> None:
        method.to(fabric.device)
        self.method = method
        self.loss = compiled_loss(method, log=log) if options.compile else method.loss
        self.options = options
        self.fabric = fabric
        self.seed = seed
        self.identity = identity
        self.parameters = method.trainable()
        self.tensors: dict[str, Tensor] = {**self.parameters, **method.training_state()}
        broadcast(fabric, self.tensors)
        self.optimizer = build_optimizer(self.parameters.items(), options)
        self.optimizer_step = cast(Any, fabric.setup_optimizers(self.optimizer)).step  # respects the loss scale
        self.ema = Ema(self.parameters, options.ema_decay) if options.ema_decay else None
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.best_epoch: int | None = None
        self.best: dict[str, Tensor] = {}
        self.spare: Views | None = None

    def current_weights(self) -> dict[str, Tensor]:
        """Return the tensors to evaluate and keep: the average over the steps if there is one."""
        return {**self.tensors, **(self.ema.average if self.ema else {})}

    def finish(self) -> Weights:
        """Load the final tensors into the method; return which ones they are."""
        self.method.eval()
        if self.options.select == "best-val":
            overwrite(self.tensors, self.best)
            return "best-val-ema" if self.ema else "best-val"
        overwrite(self.tensors, self.current_weights())
        return "ema" if self.ema else "last"

    def save(self, path: Path) -> None:
        """Write a checkpoint if one is due after this epoch and this process is the first."""
        due = self.epoch % self.options.checkpoint_every == 0 or self.epoch == self.options.epochs
        if not (due and self.fabric.is_global_zero):
            return
        sections: dict[str, Mapping[str, Tensor]] = {
            "state": self.tensors,
            "optimizer": optimizer_tensors(self.optimizer),
            "ema": self.ema.average if self.ema else {},
            "best": self.best,
        }
        scaler = self.fabric.strategy.precision.state_dict()
        facts = {"seconds": self.seconds, "best_epoch": self.best_epoch, "scaler": scaler}
        save_checkpoint(path, TrainingCheckpoint(self.epoch, self.identity, sections, self.history, facts))

    def keep(self, folder: Path) -> None:
        """Write a copy of the current weights if one is due after this epoch and this process is the first."""
        every = self.options.keep_every
        due = every and (self.epoch % every == 0 or self.epoch == self.options.epochs)
        if due and self.fabric.is_global_zero:
            now = self.current_weights()
            stored = self.method.adapter_state_dict()
            keep_epoch(folder, self.epoch, {name: now.get(name, tensor) for name, tensor in stored.items()})

    def restore(self, path: Path) -> None:
        """Restore the state from a checkpoint.

        Raises:
            ValueError: If the file is damaged, belongs to another run, or lacks part of the state.
        """
        checkpoint = load_checkpoint(path, self.identity)
        try:
            self._restore_from(checkpoint)
        except (ValueError, KeyError, TypeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{path} is not the state of this run ({error}). Delete it to start again.") from error

    def _restore_from(self, checkpoint: TrainingCheckpoint) -> None:
        """Copy the tensors and facts of a checkpoint."""
        tensors, facts = checkpoint.tensors, checkpoint.facts
        overwrite(self.tensors, tensors["state"])
        load_optimizer(self.optimizer, tensors.get("optimizer", {}))
        if self.ema:
            overwrite(self.ema.average, tensors["ema"])
        self.best = {name: tensor.to(self.fabric.device) for name, tensor in tensors.get("best", {}).items()}
        self.epoch, self.history = checkpoint.epoch, list(checkpoint.history)
        self.seconds, self.best_epoch = facts["seconds"], facts["best_epoch"]
        self.fabric.strategy.precision.load_state_dict(facts["scaler"])
