"""Devices, and communication between processes; a method itself is never wrapped."""

import os
from collections.abc import Mapping
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from selfprompt.recipes.options import TrainOptions
from selfprompt.utils.cores import max_processes


def make_fabric(options: TrainOptions) -> Fabric:
    """Return a Fabric for the devices and precision of the options.

    With one device it is ready to use. With several, call ``fabric.launch()`` first: in a script this starts the
    other processes; under torchrun, torchrun has started them and ``devices`` is ignored.

    Raises:
        ValueError: If this machine has no such devices; see ``check_devices``.
    """
    check_devices(options)
    devices, nodes = options.devices, 1
    if torch.distributed.is_torchelastic_launched():
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    return Fabric(
        accelerator=options.device,
        devices=devices if devices == "auto" else int(devices),
        num_nodes=nodes,
        precision=options.precision,
    )


def check_devices(options: TrainOptions) -> None:
    """Raise ValueError for more devices than this machine has, or a precision that the device does not support."""
    no_gpu = options.device == "cpu" or (options.device == "auto" and not torch.accelerator.is_available())
    if options.precision == "16-mixed" and no_gpu:
        raise ValueError("precision 16-mixed needs a GPU. Use bf16-mixed or 32-true on a CPU.")
    if options.devices == "auto" or torch.distributed.is_torchelastic_launched():
        return
    available = max_processes() if no_gpu else torch.accelerator.device_count()
    if not available:
        raise ValueError(f"device {options.device!r} is not available here. Use auto or cpu.")
    if int(options.devices) > available:
        kind = "the CPU" if no_gpu else "the GPUs"
        raise ValueError(f"devices must be at most {available} on {kind} of this machine, got {options.devices}.")


@torch.no_grad()
def broadcast(fabric: Fabric, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors of the first process to every other."""
    if fabric.world_size == 1:
        return
    values = fabric.broadcast({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        tensor.copy_(values[name])


def sum_over_processes(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    return cast(Tensor, fabric.all_reduce(tensor, reduce_op="sum"))


def mean_over_processes(fabric: Fabric, tensor: Tensor, weight: float) -> Tensor:
    """Return the weighted mean of a tensor over all processes.

    Args:
        fabric: A launched Fabric.
        tensor: A tensor of any shape, the same shape in every process.
        weight: Weight of this process: its number of images.
    """
    if fabric.world_size == 1:
        return tensor
    message = torch.cat([tensor.detach().flatten() * weight, tensor.new_tensor([weight])])
    message = sum_over_processes(fabric, message)
    return (message[:-1] / message[-1]).view_as(tensor)


def average_gradients(fabric: Fabric, parameters: Mapping[str, nn.Parameter], weight: float) -> None:
    """Replace each ``p.grad`` by its weighted mean over all processes, in one message.

    A parameter without a gradient in any process keeps None: the optimiser skips it, as in a single process.
    """
    if fabric.world_size == 1:
        return
    tensors = list(parameters.values())
    flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in tensors]
    present = torch.tensor([p.grad is not None for p in tensors], dtype=flat[0].dtype, device=flat[0].device)
    # Flags are weighted like gradients: positive if any process with images has a gradient.
    mean = mean_over_processes(fabric, torch.cat([*flat, present]), weight)
    *parts, present = mean.split([p.numel() for p in tensors] + [len(tensors)])
    for parameter, part, flag in zip(tensors, parts, present.tolist(), strict=True):
        parameter.grad = part.view_as(parameter) if flag > 0 else None
