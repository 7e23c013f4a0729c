"""The folder that a tuned classifier is saved to: what was learned, everything needed to use it, a model card.

    prompts.safetensors   what is tuned, nothing else
    config.json           method, options, backbone and its fingerprint, classes, preprocessing, versions, results
    README.md             the model card

Each file is written under a temporary name and renamed; config.json comes last and holds the hash of the tensors, so
that a folder is either whole or refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from selfprompt.files import write_atomically, write_json

FORMAT = 1
KEYS = ("method", "options", "backbone", "classes", "preprocess", "batch_size", "recipe", "results", "tensors_sha256")
CONFIG, TENSORS, CARD = "config.json", "prompts.safetensors", "README.md"
CHECKPOINT = "checkpoint.safetensors"  # what an unfinished run has instead


@dataclass(frozen=True)
class Artifact:
    """What a folder holds: the configuration and the learned tensors by name."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_artifact(folder: Path, artifact: Artifact) -> None:
    """Write the folder, which may exist."""
    content = save_tensors({name: t.detach().cpu().contiguous().clone() for name, t in artifact.tensors.items()})
    config = {**artifact.config, "format": FORMAT, "tensors_sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(folder / TENSORS, content)
    write_atomically(folder / CARD, model_card(config).encode(errors="backslashreplace"))
    write_json(folder / CONFIG, config)


def read_artifact(folder: Path) -> Artifact:
    """Read a folder.

    Raises:
        ValueError: If it is no artifact, is damaged, or was written by a newer version of the library.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            hint = " Its run is not finished: go on with it (--resume)." if (folder / CHECKPOINT).exists() else ""
            raise ValueError(f"{folder} is not a saved classifier: it has no {name}.{hint}")
    config = _read_config(folder / CONFIG)
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != config["tensors_sha256"]:
        raise ValueError(
            f"{folder / TENSORS} is damaged or of another run: its hash is not the one in {CONFIG}. "
            "Restore it from a copy, or tune again."
        )
    try:
        return Artifact(config, load_tensors(content))
    except SafetensorError as error:
        raise ValueError(f"{folder / TENSORS} is damaged: {error}.") from error


def _read_config(path: Path) -> dict[str, Any]:
    """config.json, with all its keys."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. Restore it from a copy, or tune again.") from error
    if not isinstance(config, dict) or "format" not in config:
        raise ValueError(f"{path} is not the {CONFIG} of a saved classifier.")
    if config["format"] != FORMAT:
        raise ValueError(f"{path} has format {config['format']!r}; this version of selfprompt reads {FORMAT}.")
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {', '.join(missing)}. Restore it from a copy, or tune again.")
    return config


def locate(source: str | Path) -> Path:
    """The folder of an artifact: a local one, or a hub id "owner/name" that is fetched.

    Raises:
        ValueError: If there is neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(source, allow_patterns=[CONFIG, TENSORS, CARD]))
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{source} is no folder here, and no hub repository could be reached: {reason}") from error
    raise ValueError(f"{source}: there is no such folder.")


def versions() -> dict[str, str]:
    """Versions of this library and those that its results depend on."""
    found = {}
    for name in ("selfprompt", "torch", "timm", "open_clip_torch", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def model_card(config: Mapping[str, Any]) -> str:
    """A short card that says what the folder is, how good, and how to use it."""
    backbone, classes = config["backbone"], config["classes"]
    more = " ..." if len(classes) > 20 else ""
    lines = [
        "---",
        "library_name: selfprompt",
        "pipeline_tag: image-classification",
        "---",
        "",
        f"# {config['method']} on {backbone['name']}",
        "",
        f"An image classifier for {len(classes)} classes: {', '.join(classes[:20])}{more}.",
        f"Only the tensors in `{TENSORS}` were trained; the backbone is frozen and is not part of this folder.",
    ]
    if backbone.get("note"):
        lines += ["", f"**{backbone['note']}**"]
    lines += ["", "## Accuracy", "", *_accuracy(config.get("results") or {})]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import selfprompt",
        "",
        'classifier = selfprompt.load("this/folder")',
    ]
    lines += ['print(classifier.predict(["photo.jpg"]))', "```", "", "## How it was made", ""]
    lines += [f"- {name}: {value}" for name, value in (config.get("recipe") or {}).items() if value not in ({}, None)]
    lines += [f"- {note}" for note in (config.get("results") or {}).get("notes", [])]
    return "\n".join(lines) + "\n"


def _accuracy(results: Mapping[str, Any]) -> list[str]:
    rows = [(name, results[name]) for name in ("zero_shot", "tuned") if results.get(name)]
    if not rows:
        return ["Not measured."]
    table = ["| model | accuracy | 95 % interval | test images |", "|---|---|---|---|"]
    for name, metrics in rows:
        low, high = metrics["interval"]
        shown = "untuned" if name == "tuned" and results.get("weights") == "untouched" else name.replace("_", "-")
        table.append(f"| {shown} | {metrics['accuracy']:.1f} % | {low:.1f} to {high:.1f} % | {metrics['total']} |")
    return table
