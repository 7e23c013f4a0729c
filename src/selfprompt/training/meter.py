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

    Sums are float64 (float32 on MPS). Those of steps with the same terms are one vector, so that a step adds a few
    small kernels, not a few for each term.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.images = 0
        self.sums: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def add(self, terms: "LossTerms", loss: Tensor, labels: Tensor, count: int) -> None:
        """Add the loss of one batch.

        Args:
            terms: Named terms; their ``logits``, if present, give the training accuracy.
            loss: The total that is minimised, a scalar.
            labels: Class indices, (B,).
            count: Number of images that it counts for: B, or 0 to ignore it.
        """
        values = {"loss": loss}
        if len(terms.terms) > 1:
            values |= {f"loss_{name}": term for name, term in terms.terms.items()}
        if terms.logits is not None:
            values["train_accuracy"] = (terms.logits.argmax(dim=-1) == labels).float().mean()
        names = tuple(values)
        means = torch.stack([value.detach().float() for value in values.values()]).to(self.dtype)
        self.sums[names] = self.sums[names].add(means, alpha=count) if names in self.sums else means * count
        self.images += count

    def means(self, fabric: Fabric | None = None) -> dict[str, float]:
        """Return the mean of each sum per image, and the number of images; over all processes if given a fabric."""
        totals: dict[str, Tensor] = {}
        for names, values in self.sums.items():
            for name, value in zip(names, values, strict=True):
                totals[name] = totals[name] + value if name in totals else value
        order = sorted(totals)
        images = torch.tensor(float(self.images), dtype=self.dtype, device=self.device)
        sums = torch.stack([images, *(totals[name] for name in order)])
        if fabric is not None:
            sums = sum_over_processes(fabric, sums)
        count, *rest = sums.tolist()
        return {"images": count} | {name: value / max(count, 1) for name, value in zip(order, rest, strict=True)}


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
