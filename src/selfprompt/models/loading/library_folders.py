"""Models from folders and hub repositories in the layout of open_clip or timm: a configuration beside weights.

The libraries' own loaders would build tokenizers that may contain code, and keep random weights where a folder has
none. Here the configuration is read as data, the model is built from it, and the weights are read like any other file.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP

from selfprompt.models.backbone import Backbone
from selfprompt.models.hf_text import EncoderConfig
from selfprompt.models.loading import assemble
from selfprompt.models.loading.checkpoint_files import Checkpoint, read_checkpoint
from selfprompt.models.loading.clip_tokenizers import clip_tokenizer
from selfprompt.models.loading.downloads import ModelFolder, Say, announce, fetch_tokenizer, model_folder
from selfprompt.models.loading.folder_configs import (
    OPEN_CLIP_CONFIG,
    TIMM_CONFIG,
    ClipConfig,
    read_clip_config,
    read_timm_config,
)
from selfprompt.models.loading.hf_encoders import build_clip, encoder_config
from selfprompt.models.loading.initial_values import unfilled
from selfprompt.models.loading.json_tokenizer import FILE as TOKENIZER
from selfprompt.models.loading.licences import say_licence

# in the order in which the libraries look for them
_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    *(f"open_clip_pytorch_model.{suffix}" for suffix in ("safetensors", "bin", "pth")),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
_TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")


def load_clip_folder(name: str, source: str, check: Callable[[str, dict[str, Any]], None], say: Say) -> Backbone:
    """Load a folder or repository with ``open_clip_config.json``.

    Args:
        name: Name of the backbone.
        source: "local-dir:PATH", "hf-hub:org/name" or "hf-hub:org/name@revision".
        check: Raises TypeError for a configuration of an unsupported family.
        say: Called before a download.

    Raises:
        FileNotFoundError: If the folder, its configuration or its weights are missing.
        ValueError: If the configuration is not one of a CLIP or the weights do not fit it.
        TypeError: If the family is not supported.
        RuntimeError: If it cannot be downloaded.
    """
    folder = model_folder(name, source).at_revision_with(OPEN_CLIP_CONFIG)
    name, config = folder.name, read_clip_config(folder)
    check(name, config.model)
    text, source = config.model["text_cfg"], config.tokenizer or config.text_model
    encoder = encoder_config(name, config.text_model, folder) if config.text_model else None
    if encoder is not None:
        text = text | {"vocab_size": encoder.vocabulary}
    find = partial(_tokenizer_file, folder, source, say)
    tokenizer = clip_tokenizer(name, text, source, config.tokenizer_options, find)
    checkpoint = _weights(folder, _CLIP_WEIGHTS, say)
    model = _built(folder, checkpoint, partial(_build_clip, config, encoder))
    assemble.fill_clip(model, checkpoint)
    backbone = assemble.clip_backbone(name, model, tokenizer, images=config.images, note=checkpoint.note)
    return replace(backbone, revision=folder.revision or "")


def load_vit_folder(name: str, source: str, check: Callable[[str, str], None], say: Say) -> Backbone:
    """Load a folder or repository with timm's ``config.json``; ``check`` takes the architecture, else as above."""
    folder = model_folder(name, source).at_revision_with(TIMM_CONFIG)
    name, config = folder.name, read_timm_config(folder)
    check(name, config.architecture)
    checkpoint = _weights(folder, _TIMM_WEIGHTS, say)
    options = {"num_classes": 0, "pretrained_cfg_overlay": config.images, **config.model}
    model = _built(folder, checkpoint, lambda: timm.create_model(config.architecture, **options))
    assemble.fill_vit(model, checkpoint)
    mae = config.tag.startswith("mae")
    backbone = assemble.vit_backbone(name, model, layout=checkpoint.layout, mae=mae, note=checkpoint.note)
    return replace(backbone, revision=folder.revision or "")


def _build_clip(config: ClipConfig, encoder: EncoderConfig | None) -> CLIP | CustomTextCLIP:
    if encoder is not None:
        return build_clip(config.model, encoder)
    return (CustomTextCLIP if config.custom_text else CLIP)(**config.model)


def _tokenizer_file(folder: ModelFolder, source: str, say: Say) -> Path:
    """Return the tokenizer.json beside the weights, or for a repository without one that of the named source."""
    path = folder.find(TOKENIZER)
    if path is None and folder.folder is not None:
        raise FileNotFoundError(f"{folder.name} must hold {TOKENIZER}, and there is none; put that of {source} there.")
    return path or fetch_tokenizer(folder.name, source, say)


def _weights(folder: ModelFolder, names: tuple[str, ...], say: Say) -> Checkpoint:
    """Read the weights; a folder without any is refused, and not left with random ones."""
    if folder.repository:
        say_licence(folder.name, folder.repository, say)
        announce(folder.name, folder.repository, say)
    path = folder.find(*names)
    if path is None:
        raise FileNotFoundError(
            f"{folder.name} must hold its weights as {' or '.join(names)}, and it has none of these."
        )
    return read_checkpoint(path)


def _built(folder: ModelFolder, checkpoint: Checkpoint, build: Callable[[], Any]) -> Any:
    """Build a model, after making sure that it is no larger than its weights.

    Raises:
        ValueError: If the configuration does not describe a model, or one with more parameters than the file has.
    """
    try:
        with torch.device("meta"):
            described = sum(parameter.numel() for parameter in build().parameters())
    except Exception as error:  # layers raise many kinds of errors for impossible sizes
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(f"The configuration of {folder.name} does not describe a model: {reason}.") from error
    stored = sum(prod(shape) for shape in checkpoint.shapes.values())
    if described > stored:
        raise ValueError(
            f"{checkpoint.path} does not fit the configuration of {folder.name}: it holds {stored:,} numbers, "
            f"and the model needs {described:,}."
        )
    with unfilled():
        return build()
