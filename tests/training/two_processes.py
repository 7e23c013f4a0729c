"""Train on two CPU processes; started by test_two_processes.py, which runs the same cases on one."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.distributed import make_fabric
from selfprompt.training.loop import FitResult, fit
from tests.training.tiny import FrozenMethod, TinyMethod, batches, validation


class Projected(TinyMethod):
    """Combines two gradients itself, like ProGrad, and so needs their mean before it does."""

    def set_gradients(self, terms, mean) -> None:
        names = ["prompts", "head.weight", "head.bias"]
        parameters = [self.get_parameter(name) for name in names]
        gradient = torch.autograd.grad(terms.total, parameters)
        for parameter, value in zip(parameters, gradient, strict=True):
            value = mean(value)
            parameter.grad = torch.where(value > 0, value, 0.5 * value)  # not linear


# 21 images in batches of 8: the last batch has 5. 17 images: it has 1, so the second process gets none.
CASES = {
    "uneven": (TinyMethod, 21, {}),
    "empty": (TinyMethod, 17, {}),
    "adamw": (TinyMethod, 21, {"optimizer": "adamw", "eps": 1e-3, "ema_decay": 0.9, "accumulate": 2}),
    "clipped": (TinyMethod, 17, {"clip_grad": 0.1, "select": "best-val"}),
    "projected": (Projected, 17, {}),
    "features": (FrozenMethod, 17, {"views": 2}),
}


def train(case: str, devices: int, fabric=None, run_dir: Path | None = None) -> tuple[TinyMethod, FitResult]:
    """One of the cases."""
    kind, count, changes = CASES[case]
    options = {"epochs": 4, "batch_size": 8, "lr": 0.05, "device": "cpu", "devices": devices}
    options = TrainOptions(**(options | changes))
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    method = kind()
    if rank:  # the first process's start is what counts
        with torch.no_grad():
            method.prompts.fill_(7.0)
    shared = {"rank": rank, "world": world, "features": FeatureStore()}
    train, val = batches(count, views=options.views, **shared), validation(**shared)
    result = fit(method, train, val, options, run_dir=run_dir, resume=True, progress=False, fabric=fabric)
    return method, result


def main(folder: Path) -> None:
    """Run this process's part of every case; each process stores its tensors."""
    fabric = make_fabric(TrainOptions(devices=2, device="cpu"))
    fabric.launch()
    assert fabric.world_size == 2
    for case in CASES:
        method, result = train(case, 2, fabric, folder / case)
        again, _ = train(case, 2, fabric, folder / case)  # resumes the finished run
        tensors = {name: tensor.contiguous() for name, tensor in method.adapter_state_dict().items()}
        tensors |= {f"again.{name}": tensor.contiguous() for name, tensor in again.adapter_state_dict().items()}
        tensors["loss"] = torch.tensor([r["loss"] for r in result.history], dtype=torch.float64)
        tensors["val"] = torch.tensor([r["val_accuracy"] for r in result.history], dtype=torch.float64)
        tensors["train"] = torch.tensor([r["train_accuracy"] for r in result.history], dtype=torch.float64)
        save_file(tensors, folder / f"{case}-{fabric.global_rank}.safetensors")
    fabric.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main(Path(sys.argv[1]))
