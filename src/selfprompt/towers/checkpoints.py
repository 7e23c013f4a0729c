"""Checkpoint files as published -> tensors under timm's or open_clip's names; never runs a pickle."""

import argparse
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Layout = Literal["npz", "mae", "moco", "timm", "openai", "open_clip"]

# buffers that OpenAI's archives carry beside the weights, and that mark them
_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
_SHOWN = 5


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read.

    Attributes:
        path: Where it lies.
        layout: Who published files like it. "npz" is the JAX ViT's, which timm loads by itself.
        state: Tensors under timm's or open_clip's names, without decoders and the like; empty for "npz".
        shapes: Shape of each array, under the file's names for "npz".
    """

    path: Path
    layout: Layout
    state: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]

    @property
    def is_clip(self) -> bool:
        """Whether it holds an image and a text side."""
        return self.layout in ("openai", "open_clip")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .npz or PyTorch file (TorchScript archives included).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds none of the known layouts.
        TypeError: If it is a CLIP whose image side is a ResNet.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"A checkpoint must be a file, and {path} is none; check the path.")
    if path.suffix == ".npz":
        return Checkpoint(path, "npz", {}, _npz_shapes(path))
    scripted = _is_torchscript(path)
    raw = _read_torchscript(path) if scripted else _read_tensors(path)
    state, wrapper = _unwrap(raw, path)
    layout, state = _tell(state, wrapper, path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return Checkpoint(path, layout, state, {key: tuple(value.shape) for key, value in state.items()})


def load_strict(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights of which every name and shape must fit.

    Raises:
        ValueError: Naming the file and what is missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in wanted.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {'; '.join(found)}.")
    model.load_state_dict(state)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key].shape for key in arrays.files}
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}. Is the download complete?") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Weights of a TorchScript archive; its deserialiser knows TorchScript's own types only, not Python's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; OpenAI's files are what they are
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as a TorchScript archive: {error}") from error


def _read_tensors(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # argparse.Namespace: training scripts store their arguments; it holds values and runs nothing
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of plain tensors, and others are refused because a pickle can run code. "
            f"Save its state dict again as .safetensors. ({str(error).splitlines()[0]})"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Is the download complete?") from error


def _unwrap(raw: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict inside a training checkpoint, and the key it stood under ("" for none)."""
    wrapper = ""
    for key in ("state_dict", "model"):
        if isinstance(raw, Mapping) and isinstance(raw.get(key), Mapping):
            raw, wrapper = raw[key], key
            break
    if not isinstance(raw, Mapping):
        raise ValueError(f"A checkpoint must hold a state dict, and {path} holds a {type(raw).__name__}.")
    state = {str(key): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"A checkpoint must hold a state dict, and {path} holds no tensors.")
    return state, wrapper


def _tell(state: dict[str, Tensor], wrapper: str, path: Path) -> tuple[Layout, dict[str, Tensor]]:
    """Recognise the layout and keep what belongs to the encoder, under the library's names."""
    parallel = any(key.startswith("module.") for key in state)
    state = {key.removeprefix("_orig_mod.").removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("base_encoder.") for key in state):
        return "moco", _without_head(_under(state, "base_encoder."))
    if "visual.class_embedding" in state or any(key.startswith("visual.") for key in state):
        return _tell_clip(state)
    if any(key.startswith("decoder") for key in state):
        kept = {k: v for k, v in state.items() if not k.startswith("decoder") and k != "mask_token"}
        return "mae", kept
    if "patch_embed.proj.weight" not in state:
        raise ValueError(
            f"{path} has none of the known layouts (timm, open_clip, OpenAI CLIP, MAE, MoCo v3, ViT .npz); "
            f"it begins with {_first(list(state))}."
        )
    has_head = any(key.startswith(("head.", "fc_norm.")) for key in state)
    if wrapper == "model" and not has_head and "mask_token" not in state:
        return "mae", state  # mae_pretrain_vit_*.pth: the encoder alone
    if parallel and wrapper == "state_dict" and _fixed_positions(state):
        return "moco", _without_head(state)  # linear-vit-*.pth.tar: the probed encoder
    return "timm", state


def _tell_clip(state: dict[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    if "visual.layer1.0.conv1.weight" in state:
        raise TypeError(
            "A CLIP with a ResNet image side is not supported: prompts need a sequence of blocks on tokens. "
            "Take one of the ViT models."
        )
    marked = any(key in state for key in _OPENAI_MARKS)
    return "openai" if marked else "open_clip", {k: v for k, v in state.items() if k not in _OPENAI_MARKS}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def _fixed_positions(state: Mapping[str, Tensor]) -> bool:
    """Whether the class token's position is zero: the fixed sine-cosine table of MoCo v3 (and MAE)."""
    positions = state.get("pos_embed")
    return positions is not None and positions.ndim == 3 and not positions[0, 0].any()
