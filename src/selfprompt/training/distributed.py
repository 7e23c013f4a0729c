"""Devices and the little that processes say to each other; a method itself is never wrapped."""

import os
from collections.abc import Mapping
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from selfprompt.recipes.options import TrainOptions
from selfprompt.utils.cores import most_processes


def make_fabric(options: TrainOptions) -> Fabric:
    """Fabric for the options' devices and precision.

    With one device it is ready. With several, call ``fabric.launch()`` before anything else: run as a script
    it starts the other processes itself; under torchrun there are as many as torchrun started, whatever
    ``devices`` says.

    Raises:
        ValueError: If the machine has no such devices; see ``check_devices``.
    """
    check_devices(options)
    devices, nodes = options.devices, 1
    if torch.distributed.is_torchelastic_launched():
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    return Fabric(
        accelerator=options.accelerator,
        devices=devices if devices == "auto" else int(devices),
        num_nodes=nodes,
        precision=options.precision,
    )


def check_devices(options: TrainOptions) -> None:
    """Raise ValueError for more devices than this machine has, or for a precision that its kind does not have."""
    no_gpu = options.accelerator == "cpu" or (options.accelerator == "auto" and not torch.accelerator.is_available())
    if options.precision == "16-mixed" and no_gpu:
        raise ValueError("precision 16-mixed needs a GPU. Use bf16-mixed or 32-true on a CPU.")
    if options.devices == "auto" or torch.distributed.is_torchelastic_launched():
        return
    most = most_processes() if no_gpu else torch.accelerator.device_count()
    if not most:
        raise ValueError(f"accelerator {options.accelerator!r} is not available here. Use auto or cpu.")
    if int(options.devices) > most:
        raise ValueError(f"devices may be {most} on {'the CPU' if no_gpu else 'the GPUs'} here, got {options.devices}.")


@torch.no_grad()
def broadcast(fabric: Fabric, tensors: Mapping[str, Tensor]) -> None:
    """Give every process the tensors of the first."""
    if fabric.world_size == 1:
        return
    values = fabric.broadcast({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    return cast(Tensor, fabric.all_reduce(tensor, reduce_op="sum"))


def mean_over_processes(fabric: Fabric, tensor: Tensor, weight: float) -> Tensor:
    """Weighted mean of a tensor over all processes.

    Args:
        fabric: Launched.
        tensor: Any shape, the same in every process.
        weight: Of this process: its number of images.
    """
    if fabric.world_size == 1:
        return tensor
    message = torch.cat([tensor.detach().flatten() * weight, tensor.new_tensor([weight])])
    message = total(fabric, message)
    return (message[:-1] / message[-1]).view_as(tensor)


def average_gradients(fabric: Fabric, parameters: Mapping[str, nn.Parameter], weight: float) -> None:
    """Replace each ``p.grad`` by its weighted mean over all processes, in one message.

    A parameter that has no gradient in any process keeps None, so that the optimiser skips it as it does in
    a single process.
    """
    if fabric.world_size == 1:
        return
    held = list(parameters.values())
    flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held]
    present = torch.tensor([p.grad is not None for p in held], dtype=flat[0].dtype, device=flat[0].device)
    # Flags are weighted like gradients: above zero where any process that has images has a gradient.
    mean = mean_over_processes(fabric, torch.cat([*flat, present]), weight)
    *parts, present = mean.split([p.numel() for p in held] + [len(held)])
    for parameter, part, there in zip(held, parts, present.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if there > 0 else None
