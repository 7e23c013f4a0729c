"""The folder of a saved classifier: the trained tensors, everything needed to use them, and a model card.

    prompts.safetensors   the trained tensors and nothing else
    config.json           method, options, backbone and its fingerprint, classes, preprocessing, versions, results
    README.md             the model card

Each file is written under a temporary name and renamed. config.json is written last and holds the hash of the tensors,
so that an incomplete folder is rejected.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from selfprompt.inference.model_card import model_card
from selfprompt.inference.schema import FORMAT, check_config
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.json_files import read_json

CONFIG, TENSORS, CARD = "config.json", "prompts.safetensors", "README.md"
CHECKPOINT = "checkpoint.safetensors"  # present while the run is unfinished
ALLOWED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
"""Data types that methods store."""
ADVICE = "Restore it from a copy, or train again."


@dataclass(frozen=True)
class Artifact:
    """Content of an artifact folder: the configuration, and the trained tensors by name."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_artifact(folder: Path, artifact: Artifact) -> None:
    """Write an artifact to a new or existing folder.

    Raises:
        ValueError: If a value of the configuration would be rejected by ``read_artifact``.
        RuntimeError: If a file cannot be written; an existing file is untouched.
    """
    content = save_tensors({name: t.detach().cpu().contiguous().clone() for name, t in artifact.tensors.items()})
    config = {**artifact.config, "format": FORMAT, "tensors_sha256": hashlib.sha256(content).hexdigest()}
    check_config(config)
    write_atomically(folder / TENSORS, content)
    write_atomically(folder / CARD, model_card(config, TENSORS).encode(errors="backslashreplace"))
    write_json(folder / CONFIG, config)


def read_artifact(folder: Path) -> Artifact:
    """Read an artifact and check its files.

    Raises:
        ValueError: If the folder is not an artifact, a file is damaged or has an invalid value, or a newer version of
            the library wrote it; the message names the file.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            hint = " The run has not finished; resume it with --resume." if (folder / CHECKPOINT).exists() else ""
            raise ValueError(f"{folder} is not a saved classifier: it has no {name}.{hint}")
    config = _read_config(folder / CONFIG)
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != config["tensors_sha256"]:
        raise ValueError(
            f"{folder / TENSORS} is damaged or belongs to another run: its hash is not the one in {CONFIG}. {ADVICE}"
        )
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{folder / TENSORS} is damaged: {str(error)[:200]}. {ADVICE}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in ALLOWED_DTYPES:
            raise ValueError(
                f"{folder / TENSORS} is damaged: {name} is {tensor.dtype}, which no method stores. {ADVICE}"
            )
    return Artifact(config, tensors)


def _read_config(path: Path) -> dict[str, Any]:
    """Read config.json and check every key."""
    config = read_json(path, advice=ADVICE)
    if not isinstance(config, dict) or "format" not in config:
        raise ValueError(f"{path} is not the {CONFIG} of a saved classifier.")
    if config["format"] != FORMAT or isinstance(config["format"], bool):
        raise ValueError(f"{path} has format {str(config['format'])[:40]}; this version of selfprompt reads {FORMAT}.")
    try:
        check_config(config)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. {ADVICE}") from error
    return config


def library_versions() -> dict[str, str]:
    """Return the versions of this library and of those that its results depend on."""
    result = {}
    for name in ("selfprompt", "torch", "timm", "open_clip_torch", "pillow"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "unknown"
    return result
