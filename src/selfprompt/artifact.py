"""The folder that a tuned classifier is saved to: what was learned, everything needed to use it, a model card.

    prompts.safetensors   what is tuned, nothing else
    config.json           method, options, backbone and its fingerprint, classes, preprocessing, versions, results
    README.md             the model card

Each file is written under a temporary name and renamed; config.json comes last and holds the hash of the tensors, so
that a folder is either whole or refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

FORMAT = 1
CONFIG, TENSORS, CARD = "config.json", "prompts.safetensors", "README.md"


@dataclass(frozen=True)
class Artifact:
    """What a folder holds: the configuration and the learned tensors by name."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        RuntimeError: If it cannot be written (no space, no permission); an earlier file of that name is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RuntimeError(
            f"{path} could not be written: {error.strerror or error}. Free space or choose another folder."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def save_artifact(folder: Path, artifact: Artifact) -> None:
    """Write the folder, which may exist."""
    content = save_tensors({name: t.detach().cpu().contiguous().clone() for name, t in artifact.tensors.items()})
    config = {**artifact.config, "format": FORMAT, "tensors_sha256": hashlib.sha256(content).hexdigest()}
    write_file(folder / TENSORS, content)
    write_file(folder / CARD, model_card(config).encode())
    write_json(folder / CONFIG, config)


def read_artifact(folder: Path) -> Artifact:
    """Read a folder.

    Raises:
        ValueError: If it is no artifact, is damaged, or was written by a newer version of the library.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a saved classifier: it has no {name}.")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error}.") from error
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {config.get('format')!r}; this version of selfprompt reads {FORMAT}.")
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != config["tensors_sha256"]:
        raise ValueError(f"{folder / TENSORS} is damaged or of another run: its hash is not the one in {CONFIG}.")
    try:
        return Artifact(config, load_tensors(content))
    except SafetensorError as error:
        raise ValueError(f"{folder / TENSORS} is damaged: {error}.") from error


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
            raise ValueError(f"{source} is neither a folder nor a hub repository in reach: {reason}") from error
    raise ValueError(f"{source}: there is no such folder.")


def versions() -> dict[str, str]:
    """Versions of this library and those that its results depend on."""
    found = {}
    for name in ("selfprompt", "torch", "torchvision", "timm", "open_clip_torch"):
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
        shown = name.replace("_", "-")
        table.append(f"| {shown} | {metrics['accuracy']:.1f} % | {low:.1f} to {high:.1f} % | {metrics['total']} |")
    return table
