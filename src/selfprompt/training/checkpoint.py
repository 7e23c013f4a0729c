"""Resume checkpoints: one safetensors file; a crash at any moment leaves the old file or the new one."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import SGD, Optimizer

from selfprompt.utils.files import write_atomically
from selfprompt.utils.json_files import parse_json
from selfprompt.utils.validation import check_types

FORMAT = 1
EPOCHS = "epochs"  # folder for the copies of the option keep_every


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The state of a run between two epochs.

    It has no generator state: randomness is a function of seed, epoch and step.

    Attributes:
        epoch: Number of completed epochs.
        identity: Options, seed, method and data of the run, as JSON values.
        tensors: Tensors by section ("state", "optimizer", "ema", "best") and name.
        history: One record per completed epoch.
        facts: Other JSON values (seconds, best epoch, loss scale).
    """

    epoch: int
    identity: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: TrainingCheckpoint) -> None:
    """Write a checkpoint, replacing an earlier one.

    Raises:
        RuntimeError: If it cannot be written, for example to a full disk; the earlier one is untouched.
    """
    flat = {
        f"{section}/{name}": tensor.detach().cpu().contiguous().clone()
        for section, tensors in checkpoint.tensors.items()
        for name, tensor in tensors.items()
    }
    state = {
        "format": FORMAT,
        "epoch": checkpoint.epoch,
        "identity": checkpoint.identity,
        "history": checkpoint.history,
        "facts": checkpoint.facts,
    }
    text = json.dumps(state, allow_nan=False)
    write_atomically(path, save(flat, metadata={"state": text, "checksum": str(_checksum(text, flat))}))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> TrainingCheckpoint:
    """Read a checkpoint of the same run; its tensors are on the CPU.

    Args:
        path: Path of the file.
        identity: Identity of the current run.

    Raises:
        ValueError: If the file is damaged, or was written by a run with another identity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:  # torch raises for unusual dtypes
        raise ValueError(
            f"{path} is not a readable checkpoint ({str(error)[:200]}). Delete it to start again."
        ) from error
    text = metadata.get("state", "")
    if metadata.get("checksum") != str(_checksum(text, flat)):
        raise ValueError(f"{path} is damaged: its checksum does not match. Delete it to start again.")
    state = _parse_state(path, text)
    check_identity(path, state["identity"], identity)
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        section, _, name = key.partition("/")
        tensors.setdefault(section, {})[name] = tensor
    return TrainingCheckpoint(state["epoch"], state["identity"], tensors, state["history"], state["facts"])


def _parse_state(path: Path, text: str) -> dict[str, Any]:
    """Parse and check the JSON values of a checkpoint."""
    try:
        state = parse_json(text.encode())
        version = state["format"]
        if version == FORMAT:
            check_types(TrainingCheckpoint, state)
            missing = [name for name in ("epoch", "identity", "history", "facts") if name not in state]
            if missing or not all(isinstance(entry, dict) for entry in state["history"]):
                raise ValueError(f"it has no {', '.join(missing) or 'records in its history'}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it to start again.") from error
    if version != FORMAT:
        raise ValueError(f"{path} has checkpoint format {str(version)[:40]}, this version reads {FORMAT}.")
    result: dict[str, Any] = state
    return result


def keep_epoch(folder: Path, epoch: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the trained tensors after ``epoch`` epochs to the folder of a run.

    Raises:
        RuntimeError: If the file cannot be written.
    """
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(folder / EPOCHS / f"{epoch:04}.safetensors", save(flat))


def read_epochs(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Read what ``keep_epoch`` wrote to the folder of a run, by epoch; empty if nothing was kept.

    Raises:
        ValueError: If a file is damaged.
    """
    kept = {}
    for path in sorted((folder / EPOCHS).glob("*.safetensors"), key=lambda path: (len(path.name), path.name)):
        try:
            kept[int(path.stem)] = load(path.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is damaged or not from a run: {error}. Delete it.") from error
    return kept


def check_identity(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise ValueError, naming every difference, unless two identities are equal."""
    before, after = _flatten(stored), _flatten(json.loads(json.dumps(current)))
    missing = object()
    differences = [
        f"{name} was {_format(before, name)} and is {_format(after, name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, missing) != after.get(name, missing)
    ]
    if differences:
        raise ValueError(
            f"{path} belongs to another run: {'; '.join(differences)}. "
            "Resume with the settings that the run was started with, or use another folder."
        )


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as ``name/key`` to tensor, with names from its groups (see ``parameter_groups``)."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):  # sgd stores None for a parameter without a gradient so far
                    tensors[f"{name}/{key}"] = value
    return tensors


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state from ``optimizer_tensors`` into an optimiser with the same groups.

    Raises:
        KeyError: If the state belongs to a parameter that the optimiser does not have.
        ValueError: If the state of a parameter has missing or unexpected entries, or the wrong shape.
    """
    named = [pair for group in optimizer.param_groups for pair in zip(group["names"], group["params"], strict=True)]
    indices = {name: index for index, (name, _) in enumerate(named)}
    expected = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        state.setdefault(indices[name], {})[entry] = tensor
    for index, entries in state.items():
        name, parameter = named[index]
        shapes = {key: torch.Size() if key == "step" else parameter.shape for key in expected}
        if {key: tensor.shape for key, tensor in entries.items()} != shapes:
            raise ValueError(f"the state of {name} must be {', '.join(sorted(expected))}, of its shape")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of the state and of each tensor's name and bytes; safetensors has no checksum."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries into dotted names."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= _flatten(entry, f"{name}.{key}" if name else str(key))
    return flat


def _format(values: Mapping[str, Any], name: str) -> str:
    """Format a value for a message, shortened."""
    text = repr(values[name]) if name in values else "absent"
    return text if len(text) <= 60 else f"{text[:57]}..."
