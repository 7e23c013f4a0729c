"""Stage 5: export the trained models: half-precision weights and a manifest."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pretraining.corpus import write_text
from pretraining.mae import mae_state

LARGEST = 10_000_000


def export(out: Path, shipped: Path) -> None:
    """Write ``clip.safetensors``, ``mae.safetensors`` and ``manifest.json`` into the package's folder of weights.

    Raises:
        ValueError: If a file is larger than 10 MB or a weight is not finite in half precision.
    """
    shipped.mkdir(parents=True, exist_ok=True)
    states = {"clip": clip_state(out / "clip.pt"), "mae": mae_state(out / "mae.pt")}
    entries = {name: write_weights(shipped / f"{name}.safetensors", state) for name, state in states.items()}
    for name, entry in entries.items():
        entry["training"] = json.loads((out / f"{name}.log.json").read_text())[-1]
    write_text(shipped / "manifest.json", json.dumps(entries, indent=2) + "\n")


def clip_state(path: Path) -> dict[str, Tensor]:
    """Return the CLIP's tensors under open_clip's names, with the scale that it was trained with."""
    whole = torch.load(path, weights_only=True, map_location="cpu")["model"]
    state = {name.removeprefix("clip."): tensor for name, tensor in whole.items() if name.startswith("clip.")}
    state["logit_scale"] = whole["scale"]
    return state


def write_weights(path: Path, state: dict[str, Tensor]) -> dict[str, object]:
    """Write one file and return its entry of the manifest."""
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    bad = [name for name, tensor in half.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"Not finite in half precision: {', '.join(bad)}.")
    part = path.with_name(f"{path.name}.part")
    save_file(half, part)
    data = part.read_bytes()
    if len(data) > LARGEST:
        raise ValueError(f"{path.name} has {len(data):,} bytes; at most {LARGEST:,} fit into the package.")
    part.replace(path)
    count = sum(tensor.numel() for tensor in half.values())
    return {"bytes": len(data), "numbers": count, "sha256": hashlib.sha256(data).hexdigest()}
