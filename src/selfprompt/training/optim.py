"""Parameter groups and optimisers; parameters are sorted by their names only."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from selfprompt.recipes.options import TrainOptions


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], options: TrainOptions
) -> list[dict[str, Any]]:
    """Sort parameters into groups of equal weight decay.

    ``decay="weights"`` makes three groups in this order, empty ones included: vectors, scalars and biases without
    decay; all others, such as prompts, with ``weight_decay``; the weights of a module called ``head`` with
    ``head_weight_decay``. ``decay="all"`` makes one group.

    Returns:
        Dictionaries with ``params``, their ``names`` in the same order, and ``weight_decay``.

    Source: SPT's released ``param_groups_weight_decay``. Differs from the reference code: it matches every
    name that contains "head"; here a module of the path must have that name.
    """
    named = list(named_parameters)
    if options.decay == "all":
        return [_group(named, options.weight_decay)]
    head_decay = options.weight_decay if options.head_weight_decay is None else options.head_weight_decay
    groups: tuple[list[tuple[str, nn.Parameter]], ...] = ([], [], [])
    for name, parameter in named:
        if parameter.ndim <= 1 or name.endswith(".bias"):
            groups[0].append((name, parameter))
        elif "head" in name.split(".")[:-1]:
            groups[2].append((name, parameter))
        else:
            groups[1].append((name, parameter))
    decays = (0.0, options.weight_decay, head_decay)
    return [_group(group, decay) for group, decay in zip(groups, decays, strict=True)]


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], options: TrainOptions) -> Optimizer:
    """Build the optimiser of the options. It skips parameters without a gradient, including their decay.

    Raises:
        ValueError: If there is nothing to train.
    """
    groups = parameter_groups(named_parameters, options)
    if not any(group["params"] for group in groups):
        raise ValueError("There is nothing to train: the method has no trainable parameters. Evaluate it as it is.")
    fused = options.precision != "16-mixed"  # Fabric cannot clip scaled gradients if a fused step unscales them
    if options.optimizer == "sgd":
        return SGD(groups, lr=options.lr, momentum=options.momentum)  # fused, momentum starts uninitialised
    if options.optimizer == "adam":
        return Adam(groups, lr=options.lr, eps=options.eps, fused=fused)
    return AdamW(groups, lr=options.lr, eps=options.eps, fused=fused)


def _group(named: list[tuple[str, nn.Parameter]], weight_decay: float) -> dict[str, Any]:
    return {
        "params": [parameter for _, parameter in named],
        "names": [name for name, _ in named],
        "weight_decay": weight_decay,
    }
