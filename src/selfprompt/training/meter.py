"""Means over an epoch of training, and the accuracy on validation images."""

from typing import TYPE_CHECKING

import torch
from lightning_fabric import Fabric
from torch import Tensor

from selfprompt.training.distributed import sum_over_processes

if TYPE_CHECKING:
    from selfprompt.data.loading.loader import Batches
    from selfprompt.methods.base import LossTerms, Method


class Meter:
    """Sums losses and correct predictions over an epoch, on the device, so that no step waits for a transfer.

    Sums are float64 (float32 on MPS).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, terms: "LossTerms", loss: Tensor, labels: Tensor, count: int) -> None:
        """Add the loss of one batch.

        Args:
            terms: Named terms; their ``logits``, if present, give the training accuracy.
            loss: The total that is minimised, a scalar.
            labels: Class indices, (B,).
            count: Number of images that it counts for: B, or 0 to ignore it.
        """
        self._add("images", torch.ones((), device=self.device), count)
        self._add("loss", loss, count)
        if len(terms.terms) > 1:
            for name, term in terms.terms.items():
                self._add(f"loss_{name}", term, count)
        if terms.logits is not None:
            self._add("train_accuracy", (terms.logits.argmax(dim=-1) == labels).to(self.dtype).mean(), count)

    def means(self, fabric: Fabric | None = None) -> dict[str, float]:
        """Return the mean of each sum per image, and the number of images; over all processes if given a fabric."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        if fabric is not None:
            sums = sum_over_processes(fabric, sums)
        values = dict(zip(names, sums.tolist(), strict=True))
        images = values.pop("images")
        return {"images": images} | {name: value / max(images, 1) for name, value in values.items()}

    def _add(self, name: str, mean: Tensor, count: int) -> None:
        value = mean.detach().to(self.dtype) * count
        self.sums[name] = self.sums[name] + value if name in self.sums else value


@torch.no_grad()
def accuracy(method: "Method", batches: "Batches", fabric: Fabric) -> float:
    """Return the accuracy in eval mode over all processes, in [0, 1]."""
    method.eval()
    counts = torch.zeros(2, dtype=torch.long, device=fabric.device)
    with fabric.autocast():
        epoch = method.views(batches, 0)
    for views in epoch:
        if len(views):
            with fabric.autocast():
                logits = method.logits(views)
            hits = (logits.argmax(dim=-1) == views.labels).sum()
            counts += torch.stack([hits, views.labels.new_tensor(len(views))])
    correct, seen = sum_over_processes(fabric, counts).tolist()
    result: float = correct / seen
    return result
