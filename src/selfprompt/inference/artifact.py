"""The folder of a saved classifier: the trained tensors, everything needed to use them, and a model card.

    prompts.safetensors   the trained tensors and nothing else
    config.json           method, options, backbone and its fingerprint, classes, preprocessing, versions, results
    README.md             the model card

Each file is written under a temporary name and renamed. config.json is written last and holds the hash of the tensors,
so that an incomplete folder is rejected.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from selfprompt.inference.schema import FORMAT, check_config
from selfprompt.utils.files import write_atomically, write_json
from selfprompt.utils.json_files import read_json
from selfprompt.utils.suggestions import did_you_mean

logger = logging.getLogger(__name__)

CONFIG, TENSORS, CARD = "config.json", "prompts.safetensors", "README.md"
CHECKPOINT = "checkpoint.safetensors"  # present while the run is unfinished
HUB = "hf-hub:"
"""Prefix of owner/name for a repository of the Hugging Face hub, as in open_clip."""
MAX_BYTES = {CONFIG: 1 << 28, TENSORS: 1 << 34, CARD: 1 << 24}
"""The files that are downloaded from a repository, with their maximum sizes."""
ALLOWED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
"""Data types that methods store."""
USE = (
    "```python",
    "import selfprompt",
    "",
    'classifier = selfprompt.load("this/folder")',
    'print(classifier.predict(["photo.jpg"]))',
    "```",
)
"""Example in the model card."""
ADVICE = "Restore it from a copy, or train again."

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


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
    write_atomically(folder / CARD, model_card(config).encode(errors="backslashreplace"))
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


def artifact_folder(source: str | Path, *, say: Callable[[str], None] = logger.info) -> Path:
    """Return the folder of an artifact; download it if it is in a repository of the Hugging Face hub.

    Args:
        source: A local folder, "hf-hub:owner/name" or "hf-hub:owner/name@revision".
        say: Receives one line before a download.

    Raises:
        ValueError: If there is no such folder or repository, or its files are too large.
    """
    if isinstance(source, str) and source.startswith(HUB):
        return _download(source, say)
    folder = Path(source)
    if os.path.isdir(folder):  # also False for a name that is too long
        return folder
    if os.path.exists(folder):
        raise ValueError(f"{source} is a file; give the folder of a saved classifier.")
    raise ValueError(f"{source}: there is no such folder.{_similar_folder(folder)}{_as_repository(str(source))}")


def _similar_folder(folder: Path) -> str:
    """Suggest the sibling folder with the most similar name."""
    try:
        names = [entry.name for entry in islice(os.scandir(folder.parent), 10_000) if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(folder.name, names, folder.parent.joinpath)


def _as_repository(source: str) -> str:
    return f" A repository of the Hugging Face hub is written {HUB}{source}." if _REPOSITORY.fullmatch(source) else ""


def _download(source: str, say: Callable[[str], None]) -> Path:
    """Return the folder in the cache of the hub; download missing files."""
    repository, _, revision = source.removeprefix(HUB).partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"A hub repository is written {HUB}owner/name or {HUB}owner/name@revision, got {source}.")
    try:
        return _download_files(repository, revision or None, say)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source} could not be downloaded from the Hugging Face hub: {reason}") from error


def _download_files(repository: str, revision: str | None, say: Callable[[str], None]) -> Path:
    """Return the folder of a repository at one commit; without a network, the one downloaded earlier."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    names = list(MAX_BYTES)
    try:
        planned = snapshot_download(repository, revision=revision, allow_patterns=names, dry_run=True)
    except DryRunError:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=names, local_files_only=True))
    missing = [file for file in planned if file.will_download]
    for file in missing:
        if (file.file_size or 0) > MAX_BYTES[file.filename]:
            limit = f"more than the allowed {MAX_BYTES[file.filename]:,}"
            raise ValueError(f"its {file.filename} has {file.file_size:,} bytes, {limit}")
    if missing:
        size = sum(file.file_size or 0 for file in missing)
        listed = ", ".join(file.filename for file in missing)
        say(f"downloading {listed} ({size:,} bytes) of {repository} from the Hugging Face hub")
    if planned:
        revision = planned[0].commit_hash  # exactly the commit that was checked
    return Path(snapshot_download(repository, revision=revision, allow_patterns=names))


def library_versions() -> dict[str, str]:
    """Return the versions of this library and of those that its results depend on."""
    result = {}
    for name in ("selfprompt", "torch", "timm", "open_clip_torch", "pillow"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "unknown"
    return result


def model_card(config: Mapping[str, Any]) -> str:
    """Return a model card: what the classifier is, its accuracy, how to use it and how it was trained."""
    backbone, classes = config["backbone"], config["classes"]
    ellipsis = " ..." if len(classes) > 20 else ""
    lines = [
        "---",
        "library_name: selfprompt",
        "pipeline_tag: image-classification",
        "---",
        "",
        f"# {config['method']} on {backbone['name']}",
        "",
        f"An image classifier for {len(classes)} classes: {', '.join(classes[:20])}{ellipsis}.",
        f"Only the tensors in `{TENSORS}` were trained; the backbone is frozen and not part of this folder.",
    ]
    if backbone.get("note"):
        lines += ["", f"**{backbone['note']}**"]
    lines += ["", "## Accuracy", "", *_accuracy(config.get("results") or {})]
    lines += ["", "## Use", "", *USE, "", "## Training", ""]
    lines += [f"- {name}: {value}" for name, value in (config.get("recipe") or {}).items() if value not in ({}, None)]
    lines += [f"- {note}" for note in (config.get("results") or {}).get("notes", [])]
    return "\n".join(lines) + "\n"


def _accuracy(results: Mapping[str, Any]) -> list[str]:
    """Return the accuracy section of the model card."""
    evaluated = [(name, results[name]) for name in ("zero_shot", "tuned") if results.get(name)]
    if not evaluated:
        return ["Not measured."]
    table = ["| model | accuracy | 95 % interval | test images |", "|---|---|---|---|"]
    for name, metrics in evaluated:
        low, high = metrics["interval"]
        label = "untuned" if name == "tuned" and results.get("weights") == "untouched" else name.replace("_", "-")
        table.append(f"| {label} | {metrics['accuracy']:.1f} % | {low:.1f} to {high:.1f} % | {metrics['total']} |")
    return table
