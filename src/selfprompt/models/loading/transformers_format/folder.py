"""Backbones from the files of a folder or repository in transformers' format; nothing in them is run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import VisionTransformer
from torch import nn

from selfprompt.models.backbone import Backbone, Tokenizer
from selfprompt.models.loading.checkpoint_files import check_fit, load_strict
from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.initial_values import unfilled
from selfprompt.models.loading.json_tokenizer import FILE as TOKENIZER
from selfprompt.models.loading.json_tokenizer import VOCABULARY, json_tokenizer
from selfprompt.models.loading.json_tokenizer import Kind as Ends
from selfprompt.models.loading.transformers_format import images
from selfprompt.models.loading.transformers_format.chinese_clip import build_chinese_clip, convert_chinese_clip
from selfprompt.models.loading.transformers_format.clip import (
    build_clip,
    build_clip_image,
    convert_clip,
    convert_clip_image,
)
from selfprompt.models.loading.transformers_format.config import CONFIG, Config, Side, read_config
from selfprompt.models.loading.transformers_format.dinov3 import build_dinov3, convert_dinov3
from selfprompt.models.loading.transformers_format.keys import State
from selfprompt.models.loading.transformers_format.siglip import (
    NAFLEX,
    Siglip,
    build_siglip,
    convert_siglip,
    convert_siglip_image,
)
from selfprompt.models.loading.transformers_format.vit import build_vit, convert_dinov2, convert_vit
from selfprompt.models.loading.transformers_format.weights import read_tensors, weight_files
from selfprompt.models.open_clip_vit import OpenClipText, OpenClipVision, clip_towers
from selfprompt.models.text_layout import TextFormat
from selfprompt.models.timm_eva import timm_tower
from selfprompt.models.timm_vit import TimmViT
from selfprompt.models.tower import Pooling, TextTower, VisionTower

Convert = Callable[[Config, State], tuple[dict[str, Any], State]]
"""A configuration and the tensors of its files -> the arguments of a library's model, and its state dict."""

CLIP_VOCABULARY = 49408
"""Ids of OpenAI's tokenizer, which open_clip has."""

KINDS: dict[str, tuple[Convert, Callable[[dict[str, Any]], nn.Module]]] = {
    "clip": (convert_clip, build_clip),
    "siglip": (convert_siglip, build_siglip),
    "siglip2": (convert_siglip, build_siglip),
    "clip_vision_model": (convert_clip_image, build_clip_image),
    "chinese_clip": (convert_chinese_clip, build_chinese_clip),
    "siglip_vision_model": (convert_siglip_image, build_vit),
    "siglip2_vision_model": (convert_siglip_image, build_vit),
    "vit": (convert_vit, build_vit),
    "vit_mae": (convert_vit, build_vit),
    "dinov2": (convert_dinov2, build_vit),
    "dinov2_with_registers": (convert_dinov2, build_vit),
    "dinov3_vit": (convert_dinov3, build_dinov3),
}
_TEXTS: dict[str, tuple[str, Ends]] = {"clip": ("lower", "plain"), "chinese_clip": ("whitespace", "plain")}
"""How texts are cleaned, and how a model sees their ends, where it is no SigLIP."""
_POOLINGS: dict[str, Pooling] = {"vit_mae": "avg", "dinov3_vit": "cls"}


def load_transformers(source: ModelFolder, image_size: int | None = None) -> Backbone:
    """Load a folder or repository in transformers' format; files that may be large are read last.

    Args:
        source: The folder or repository.
        image_size: The size that the images will get, for the note on sizes that differ.

    Raises:
        ValueError: If a file is damaged or does not fit.
        FileNotFoundError: If the configuration or the weights are missing.
        TypeError: If the model is none of the supported types.
        ImportError: If the tokenizer needs a package that is not installed.
        RuntimeError: If a file cannot be downloaded.
    """
    path = source.find(CONFIG)
    if path is None:
        raise FileNotFoundError(
            f"{source.name} must hold {CONFIG}, and there is none. If it holds open_clip_config.json, load it with "
            f"{source.named('open_clip')}."
        )
    source = source.at_revision_of(path)
    config = read_config(path, source)
    preprocess_file = source.find(*images.FILES, optional=True)
    tokenizer = None if config.text is None else _tokenizer(config.kind, config.text, source)
    tensors = read_tensors(weight_files(source))
    try:
        model = _filled(config, tensors, path)
    except RuntimeError as error:  # tensors of impossible shapes
        raise ValueError(f"{path.parent}: its tensors do not form a model ({error}). Download it again.") from error
    backbone = _backbone(source.name, config, model, tokenizer, preprocess_file, image_size)
    return replace(backbone, revision=source.revision or "")


def _backbone(
    name: str,
    config: Config,
    model: Any,
    tokenizer: Tokenizer | None,
    preprocess_file: Path | None,
    image_size: int | None,
) -> Backbone:
    vision, text = _towers(model, getattr(tokenizer, "text_format", None))
    if isinstance(vision, TimmViT):
        vision.bilinear_positions = config.kind in NAFLEX
    size = vision.image_size[0]
    preprocess = images.USUAL[config.kind].at_size(size)
    if preprocess_file is not None:
        preprocess = images.read_preprocess(preprocess_file, preprocess)
    notes = {
        f"it has no {images.FILES[0]}; images are prepared as is usual for {config.kind}": preprocess_file is None,
        f"its images have {size} pixels, and {images.FILES[0]} is for {preprocess.size}: image_size={preprocess.size} "
        "takes those": preprocess.size not in (size, image_size),
        f"it has no {TOKENIZER}, so class names cannot be read": text is not None and tokenizer is None,
    }
    return Backbone(
        name,
        vision,
        text,
        tokenizer,
        1.0 if text is None else float(model.logit_scale.detach().exp()),
        preprocess.at_size(size),
        _POOLINGS.get(config.kind, "native"),
        bias=float(model.logit_bias.detach()) if isinstance(model, Siglip) else 0.0,
        note=". ".join(f"{name}: {note}" for note, holds in notes.items() if holds),
    )


def _filled(config: Config, tensors: State, path: Path) -> Any:
    """Build the model and fill it; only after the tensors fit it, so that a false size takes no memory."""
    convert, build = KINDS[config.kind]
    try:
        arguments, state = convert(config, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with torch.device("meta"):
        check_fit(build(arguments), state, path.parent)
    with unfilled():
        model = build(arguments)
    load_strict(model, state, path.parent)
    return model


def _towers(model: Any, text_format: TextFormat | None) -> tuple[VisionTower, TextTower | None]:
    if isinstance(model, Siglip):
        trunk: Any = model.visual["trunk"]
        return TimmViT(trunk), OpenClipText(model, text_format)
    if isinstance(model, (CLIP, CustomTextCLIP)):
        return clip_towers(model, text_format)
    return (OpenClipVision(model) if isinstance(model, VisionTransformer) else timm_tower(model)), None


def _tokenizer(kind: str, side: Side, source: ModelFolder) -> Tokenizer | None:
    """Return the tokenizer of a text side; None if there is no file for it."""
    context = side.max_position_embeddings
    if kind == "clip" and side.vocab_size == CLIP_VOCABULARY:
        return open_clip.SimpleTokenizer(context_length=context)  # type: ignore[no-any-return]
    files = (TOKENIZER, VOCABULARY) if kind == "chinese_clip" else (TOKENIZER,)
    path = source.find(*files, optional=True)
    if path is None:
        return None
    clean, ends = _TEXTS.get(kind, ("canonicalize", "siglip"))
    tokenizer = json_tokenizer(path, context, clean=clean, kind=ends)
    if tokenizer.vocabulary > side.vocab_size:
        raise ValueError(
            f"{path} must have at most the {side.vocab_size} ids of {CONFIG}, got {tokenizer.vocabulary}; "
            "it belongs to another model."
        )
    return tokenizer
