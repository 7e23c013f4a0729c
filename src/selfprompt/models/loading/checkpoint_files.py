"""Published checkpoint files, read into tensors with timm's or open_clip's names; never runs a pickle."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from selfprompt.models.loading.names import shown
from selfprompt.models.loading.weight_files import check_plain, read_weights

Layout = Literal["npz", "mae", "moco", "timm", "openai", "open_clip", "unknown"]

# buffers in OpenAI's archives, which identify them
_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
_SHOWN = 5
# keys under which training scripts store weights, in order of preference: DINO's result is its teacher
_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "teacher", "ema", "model_ema", "module", "student")
_DEEPEST = 4
# parts of names that files of transformers have
_TRANSFORMERS_MARKS = ("embeddings.patch_embedding.weight", "embeddings.patch_embeddings.")
# names that identify the image side, after any prefix of a training script
_MARKS = ("patch_embed.proj.weight", "visual.conv1.weight", "visual.trunk.patch_embed.proj.weight")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: Path of the file.
        layout: Whose files have this layout. "npz" is the JAX ViT's, which timm loads itself; "unknown" holds
            neither a ViT nor a CLIP.
        state: Tensors with timm's or open_clip's names, without decoders and the like; empty for "npz".
        shapes: Shape of each array; for "npz" with the file's names.
        note: Which model was selected, if the file holds several; otherwise empty.
    """

    path: Path
    layout: Layout
    state: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    note: str = ""

    @property
    def is_clip(self) -> bool:
        """Whether the file holds an image and a text side."""
        return self.layout in ("openai", "open_clip")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .safetensors, .npz or PyTorch file (TorchScript archives included, as data).

    Args:
        path: The file. A suffix "#NAME" selects one of several models in it: "dino.pth#student".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    path, name = _split_name(Path(os.path.expanduser(path)))
    kind, raw = read_weights(path)
    if kind == "npz":
        return Checkpoint(path, "npz", {}, dict(raw))
    state, wrapper, note = _unwrap(raw, path, name)
    for key, value in state.items():
        check_plain(path, key, value)
    layout, state = _recognise(state, wrapper, path)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return Checkpoint(path, layout, state, {key: tuple(value.shape) for key, value in state.items()}, note)


def check_layout(checkpoint: Checkpoint) -> None:
    """Raise ValueError if the arrays of a file are neither a ViT's nor a CLIP's."""
    if checkpoint.layout == "unknown":
        if any(mark in key for key in checkpoint.state for mark in _TRANSFORMERS_MARKS):
            raise ValueError(
                f"{checkpoint.path} holds tensors under transformers' names, which need a config.json beside them. "
                f"Load the folder: file/{checkpoint.path.parent}."
            )
        raise ValueError(
            f"{checkpoint.path} has none of the known layouts (timm, open_clip, OpenAI CLIP, MAE, MoCo v3, ViT .npz); "
            f"its keys begin with {_first(list(checkpoint.state))}. If it holds another model of timm, name that: "
            "timm/<name>@<file>."
        )


def _split_name(path: Path) -> tuple[Path, str]:
    """Split off the name behind "#", unless it is part of the file's name."""
    if os.path.isfile(path):
        return path, ""
    file, sign, name = str(path).rpartition("#")
    if sign and os.path.isfile(file):
        return Path(file), name
    raise FileNotFoundError(f"A checkpoint must be a file, and {shown(path)} is none; check the path.")


def load_strict(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights whose names and shapes must all fit; errors as for ``check_fit``."""
    check_fit(model, state, path)
    model.load_state_dict(state)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Check the names and shapes of weights; the model may be on the device "meta", which has no memory.

    Raises:
        ValueError: If keys are missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    parts = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if parts:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {'; '.join(parts)}.")


def _first(keys: list[str]) -> str:
    shown = [key if len(key) <= 100 else f"{key[:97]}..." for key in keys[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(keys) > _SHOWN else "")


def _unwrap(raw: Any, path: Path, name: str) -> tuple[dict[str, Tensor], str, str]:
    """Return the state dict inside a training checkpoint, its key ("" for none), and a note if there were several."""
    wrapper, note = "", ""
    for key in name.split(".") if name else ():
        inner = _models(raw)
        if key not in inner:
            raise ValueError(f"{path} holds no {key!r}; it holds {_first(sorted(inner)) or 'no named models'}.")
        raw, wrapper = inner[key], key
    for _ in range(_DEEPEST):
        inner = _models(raw)
        known = [key for key in _KEYS if key in inner]
        if not inner or (not known and any(isinstance(value, Tensor) for value in raw.values())):
            break
        known = known or list(inner)
        if len(known) > 1 and known[0] not in _KEYS:
            raise ValueError(
                f"{path} holds several sets of tensors: {_first(sorted(inner))}. Select one: {path}#{sorted(inner)[0]}"
            )
        if len(known) > 1:
            note = (
                f"{path.name} holds {' and '.join(known)}: {known[0]} is used; {path.name}#{known[1]} selects another"
            )
        raw, wrapper = inner[known[0]], known[0]
    if not isinstance(raw, Mapping):
        raise ValueError(f"A checkpoint must hold a state dict, and {path} holds a {type(raw).__name__}.")
    state = {str(key): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        keys = _first(sorted(map(str, raw))) or "nothing"
        raise ValueError(f"A checkpoint must hold a state dict, and {path} holds no tensors, only {keys}.")
    return state, wrapper, note


def _models(raw: Any) -> dict[str, Mapping[Any, Any]]:
    """Return the values of a mapping that may be state dicts, or contain some."""
    if not isinstance(raw, Mapping):
        return {}
    return {str(key): value for key, value in raw.items() if isinstance(value, Mapping) and _has_tensors(value)}


def _has_tensors(raw: Mapping[Any, Any], depth: int = 0) -> bool:
    """Return whether a mapping from names contains tensors; an optimiser's state has numbers as keys."""
    named = [value for key, value in raw.items() if isinstance(key, str)]
    if any(isinstance(value, Tensor) for value in named):
        return True
    return depth < _DEEPEST and any(isinstance(v, Mapping) and _has_tensors(v, depth + 1) for v in named)


def _recognise(state: dict[str, Tensor], wrapper: str, path: Path) -> tuple[Layout, dict[str, Tensor]]:
    """Recognise the layout, and keep the encoder's weights under the library's names."""
    parallel = any(key.startswith("module.") for key in state)
    state = {key.removeprefix("_orig_mod.").removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("base_encoder.") for key in state):
        return "moco", _without_head(_under(state, "base_encoder."))
    state = _without_prefix(state, path)
    if "visual.class_embedding" in state or any(key.startswith("visual.") for key in state):
        return _recognise_clip(state)
    if any(key.startswith("decoder") for key in state):
        kept = {k: v for k, v in state.items() if not k.startswith("decoder") and k != "mask_token"}
        return "mae", kept
    if "conv1.weight" in state and any(key.startswith("transformer.resblocks.") for key in state):
        return "timm", state  # an image side of Perception Encoder alone, which timm converts
    if "patch_embed.proj.weight" not in state:
        return "unknown", state  # a network that is no ViT, or none at all
    has_head = any(key.startswith(("head.", "fc_norm.")) for key in state)
    if wrapper == "model" and not has_head and "mask_token" not in state:
        return "mae", state  # mae_pretrain_vit_*.pth: the encoder alone
    if parallel and wrapper == "state_dict" and _fixed_positions(state):
        return "moco", _without_head(state)  # linear-vit-*.pth.tar: the probed encoder
    return "timm", state


def _without_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights under the prefix of the image side, such as "backbone."; all weights if there is no prefix.

    Raises:
        ValueError: If there are several image sides.
    """
    prefixes = {key.removesuffix(mark) for key in state for mark in _MARKS if f".{key}".endswith(f".{mark}")}
    prefixes -= {prefix for prefix in prefixes if prefix.endswith("visual.trunk.")}  # part of a CLIP
    if not prefixes or "" in prefixes:
        return state
    if len(prefixes) > 1:
        names = sorted(prefix.rstrip(".") for prefix in prefixes)
        raise ValueError(
            f"{path} holds several models: {_first(names)}. Save the weights of one to a separate file, "
            f"with names that do not begin with {names[0]!r}."
        )
    (prefix,) = prefixes
    return _under(state, prefix)


def _recognise_clip(state: dict[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    marked = any(key in state for key in _OPENAI_MARKS)
    return "openai" if marked else "open_clip", {k: v for k, v in state.items() if k not in _OPENAI_MARKS}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def _fixed_positions(state: Mapping[str, Tensor]) -> bool:
    """Return whether the class token's position is zero: the fixed sine-cosine table of MoCo v3 (and MAE)."""
    positions = state.get("pos_embed")
    return positions is not None and positions.ndim == 3 and not positions[0, 0].any()
