"""Loads a saved classifier onto a device."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfprompt.inference.artifact import (
    CONFIG,
    TENSORS,
    read_artifact,
)
from selfprompt.inference.calibration import Calibration
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.hub import artifact_folder, origin_of
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.aliases import list_aliases
from selfprompt.models.loading.by_name import Backbone, Preprocess, load_backbone
from selfprompt.utils.trust import check_backbone, check_method

logger = logging.getLogger(__name__)


@torch.random.fork_rng(devices=[])  # layers draw their own initial values; the caller's random state stays
def load(
    source: str | Path,
    *,
    backbone: str | Backbone | None = None,
    device: str = "auto",
    trust: bool = False,
    say: Callable[[str], None] = logger.info,
) -> Classifier:
    """Load a classifier written by ``Classifier.save``. No code in the folder is run.

    Args:
        source: A folder, or a repository of the Hugging Face hub: "owner/name" or "owner/name@revision".
        backbone: The backbone to use: a loaded one, or its name or path. Required if the artifact names a file or an
            unknown repository instead of a published model.
        device: "cpu", "cuda", "cuda:NUMBER" or "mps"; "auto" uses a GPU if there is one.
        trust: Whether to import a method "package.module:Class" named by the artifact, which runs that module.
        say: Receives one line before each download.

    Returns:
        The classifier, on the device.

    Raises:
        ValueError: If the folder is not an artifact or is damaged, needs ``trust`` or ``backbone``, or the backbone is
            not the one that it was trained on.
    """
    target = pick_device(device)
    folder = artifact_folder(source, say=say)
    artifact = read_artifact(folder)
    try:
        check_method(artifact.config["method"], trust=trust, folder=folder)
        model = backbone if isinstance(backbone, Backbone) else _load_backbone(artifact.config, backbone, say)
        classifier = _rebuild(artifact.config, artifact.tensors, model).to(target)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} cannot be loaded: {str(error).rstrip('.')}.") from error
    classifier.origin = origin_of(folder) or classifier.origin
    return classifier


def _load_backbone(config: Mapping[str, Any], given: str | None, say: Callable[[str], None]) -> Backbone:
    """Load the backbone that the caller names, or the one that the artifact names if it is a published model."""
    if given is None:
        check_backbone(config["backbone"]["name"], {alias.name for alias in list_aliases()})
    backbone = config["backbone"]
    name = given or backbone["name"]
    if name == backbone["name"] and backbone.get("revision"):
        name = f"{name}@{backbone['revision']}"
    return load_backbone(name, image_size=backbone.get("image_size"), say=say)


def _rebuild(config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> Classifier:
    """Rebuild the classifier of an artifact on a loaded backbone.

    Raises:
        ValueError: If it is another backbone, or options, tensors or image size do not match it.
    """
    original = config["backbone"]
    backbone.check_finite()
    if backbone.fingerprint != original["fingerprint"]:
        raise ValueError(
            f"it was trained on {original['name']} with fingerprint {original['fingerprint'][:12]}, but "
            f"{backbone.name} has {backbone.fingerprint[:12]}: its weights or architecture differ. Give the original"
        )
    classes = config.get("class_descriptions") or config["classes"]
    try:
        method = build_method(config["method"], backbone, classes, check=False, **config["options"])
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"method, options and classes in its {CONFIG} do not match: {reason}") from error
    size = config["preprocess"]["size"]
    if method.image_size != (size, size):
        raise ValueError(f"preprocess.size in its {CONFIG} must be {method.image_size[0]}, the backbone's, got {size}")
    for name, tensor in method.adapter_state_dict().items():
        if name in tensors and tensors[name].dtype != tensor.dtype:
            raise ValueError(f"{name} in its {TENSORS} must be {tensor.dtype}, got {tensors[name].dtype}")
    method.load_adapter_state_dict(tensors)
    stored: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in config["preprocess"].items()}
    calibration = Calibration.from_json(config["calibration"]) if config.get("calibration") else None
    return Classifier(
        method,
        Preprocess(**stored),
        config["batch_size"],
        config["recipe"],
        config["results"],
        calibration,
        config.get("origin", ""),
    )


def pick_device(device: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is the GPU if there is one.

    Raises:
        ValueError: If this machine has no such device.
    """
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:NUMBER or mps, got {device!r}.")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, True):
        raise ValueError(f"device {device!r} is not available here. Use auto or cpu.")
    if device == "auto":
        return torch.device("cuda" if present["cuda"] else "cpu")
    return torch.device(device)
