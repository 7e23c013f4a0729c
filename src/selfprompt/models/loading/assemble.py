"""Backbones from library models and checkpoint files, with the preprocessing of each published layout."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import open_clip
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    CustomTextCLIP,
    convert_to_custom_text_state_dict,
)
from open_clip.transformer import QuickGELU
from timm.data import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    resolve_model_data_config,
)
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from selfprompt.models.backbone import Backbone, Preprocess, Tokenizer
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.hf_text import HfTextModel
from selfprompt.models.loading.checkpoint_files import Checkpoint, check_layout, load_strict
from selfprompt.models.loading.infer_architecture import (
    NAME_CLIP,
    NAME_VIT,
    clip_architecture,
    npz_architecture,
    vit_architecture,
)
from selfprompt.models.loading.initial_values import unfilled
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_eva import has_blocks, is_dinov3, timm_tower
from selfprompt.models.timm_vit import TimmViT
from selfprompt.models.tower import Pooling, VisionTower

IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
HALF = (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)
OPENAI = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
_STATISTICS = {"mae": IMAGENET, "moco": IMAGENET, "npz": HALF, "openai": OPENAI}
_GUESSED_STATISTICS = (
    "{name}: the file does not say how images are normalised; ImageNet's mean and standard deviation are used. "
    "Name the architecture to use its statistics: timm/<name>@<file>"
)
_GUESSED_GELU = (
    "{name}: the file does not say which activation it needs; plain GELU is used. "
    "If these are OpenAI's weights, name the architecture: open_clip/<model>-quickgelu@<file>"
)


def vit_backbone(
    name: str,
    model: Any,
    *,
    layout: str = "timm",
    mae: bool = False,
    statistics: tuple[Any, Any] | None = None,
    note: str = "",
) -> Backbone:
    """Wrap a timm model in a Backbone; of all but plain ViTs and Evas only the features are known.

    Args:
        name: Name of the backbone.
        model: The model without a classifier, frozen in place.
        layout: Layout of the checkpoint.
        mae: Whether the model is a masked autoencoder's encoder.
        statistics: Mean and standard deviation of the images; None for those of the layout or else of the model.
        note: A remark that every output must show.

    Raises:
        TypeError: If the model does not give one vector per image.
        ValueError: If its images are not square.
    """
    config = resolve_model_data_config(model)
    vision = timm_tower(model) if has_blocks(model) else FeatureTower(model, tuple(config["input_size"][-2:]))
    layout = layout if type(model) in TimmViT.kinds else "timm"  # the layouts of others are of plain ViTs
    mean, std = statistics or _STATISTICS.get(layout) or (config["mean"], config["std"])
    preprocess = Preprocess(
        _square(vision),
        tuple(mean),
        tuple(std),
        interpolation=_interpolation(config["interpolation"]),
        mode="squash" if config["crop_mode"] == "squash" else "shortest",
    )
    by_class_token = type(model) is VisionTransformerDistilled or is_dinov3(model)
    pooling: Pooling = "avg" if mae or layout == "mae" else "cls" if by_class_token else "native"
    return Backbone(name, vision, None, None, 1.0, preprocess, pooling, note=note)


def clip_backbone(
    name: str, model: CLIP | CustomTextCLIP, tokenizer: Tokenizer, *, images: dict[str, Any], note: str = ""
) -> Backbone:
    """Wrap an open_clip model in a Backbone; ``images`` is open_clip's preprocessing configuration.

    Raises:
        TypeError: If prompts cannot enter its text side.
        ValueError: If its images are not square.
    """
    vision, text = clip_towers(model, getattr(tokenizer, "text_format", None))
    preprocess = Preprocess(
        _square(vision),
        tuple(images.get("mean", OPENAI_CLIP_MEAN)),
        tuple(images.get("std", OPENAI_CLIP_STD)),
        interpolation=_interpolation(images.get("interpolation", "bicubic")),
        mode="squash" if images.get("resize_mode") == "squash" else "shortest",
    )
    scale = float(model.logit_scale.detach().exp())
    bias = 0.0 if model.logit_bias is None else float(model.logit_bias.detach())
    return Backbone(name, vision, text, tokenizer, scale, preprocess, bias=bias, note=note)


def backbone_of_file(name: str, checkpoint: Checkpoint) -> Backbone:
    """Build the model that the arrays of a file imply, and load them.

    Raises:
        ValueError: If the arrays do not determine the architecture, or do not fit it.
    """
    check_layout(checkpoint)
    with _naming_file(checkpoint):
        return _clip_of_file(name, checkpoint) if checkpoint.is_clip else _vit_of_file(name, checkpoint)


@contextmanager
def _naming_file(checkpoint: Checkpoint) -> Iterator[None]:
    """Name the file in errors about its arrays; layers raise many kinds of errors for impossible shapes."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (ValueError, TypeError)) and str(checkpoint.path) in str(error):
            raise
        reason = (
            str(error) if isinstance(error, ValueError) else f"its arrays do not form a model ({error}); {NAME_VIT}"
        )
        raise ValueError(f"{checkpoint.path}: {reason}") from error


def _vit_of_file(name: str, checkpoint: Checkpoint) -> Backbone:
    if checkpoint.layout == "npz":
        options = npz_architecture(checkpoint.shapes)
    else:
        options = vit_architecture(checkpoint.shapes, checkpoint.layout)
    kind = VisionTransformerDistilled if options.pop("distilled", False) else VisionTransformer
    with unfilled():
        model = kind(num_classes=0, **options)
    fill_vit(model, checkpoint)
    known = checkpoint.layout in _STATISTICS
    note = "" if known else _GUESSED_STATISTICS.format(name=name)
    return vit_backbone(
        name, model, layout=checkpoint.layout, statistics=None if known else IMAGENET, note=_joined(checkpoint, note)
    )


def _clip_of_file(name: str, checkpoint: Checkpoint) -> Backbone:
    options = clip_architecture(checkpoint.shapes)
    openai = checkpoint.layout == "openai"
    text = CLIPTextCfg(**options["text_cfg"])
    bias = 0.0 if "logit_bias" in checkpoint.shapes else None
    vision = CLIPVisionCfg(**options["vision_cfg"])
    with unfilled():
        model = CLIP(options["embed_dim"], vision, text, quick_gelu=openai, init_logit_bias=bias)
    fill_clip(model, checkpoint)
    tokenizer = open_clip.SimpleTokenizer(context_length=text.context_length)
    if text.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"{checkpoint.path}: its vocabulary must be CLIP's {tokenizer.vocab_size} tokens, "
            f"got {text.vocab_size}; {NAME_CLIP}"
        )
    note = _joined(checkpoint, "" if openai else _GUESSED_GELU.format(name=name))
    return clip_backbone(name, model, tokenizer, images={}, note=note)


def _joined(checkpoint: Checkpoint, note: str) -> str:
    return ". ".join(filter(None, (note, checkpoint.note)))


def fill_vit(model: Any, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a timm model without a classifier, after timm's own conversions.

    Raises:
        ValueError: If the file does not fit.
    """
    if has_blocks(model):
        check_layout(checkpoint)
    if checkpoint.layout == "npz" and isinstance(model, VisionTransformer):
        _fill_from_npz(model, checkpoint)
        return
    try:
        kept = _converted(model, dict(checkpoint.state))
    except Exception as error:  # it relies on shapes, and raises many kinds of errors
        raise ValueError(f"{checkpoint.path} does not fit {type(model).__name__}: {error}") from error
    load_strict(model, kept, checkpoint.path)


def _converted(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a published file under timm's names, without a classifier.

    Raises:
        ValueError: If timm's conversion would leave out biases that are not zero.
    """
    if isinstance(model, Eva):
        _check_biases(model, state)
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if type(model) in TimmViT.kinds:
        convert = partial(checkpoint_filter_fn, adapt_layer_scale=True)
    if convert is not None:
        with redirect_stdout(StringIO()):  # timm prints an exception for each bias of DINOv3 that is left out
            state = convert(state, model)
    classifiers = ("head", "head_dist") if has_blocks(model) else model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    heads = tuple(f"{classifier}." for classifier in classifiers)
    return {key: value for key, value in state.items() if not key.startswith(heads)}


def _check_biases(model: Eva, state: dict[str, Tensor]) -> None:
    if "storage_tokens" in state and "blocks.0.attn.q_bias" not in model.state_dict():
        biases = [value.chunk(3) for key, value in state.items() if key.endswith(".attn.qkv.bias")]
        if any(q.any() or v.any() for q, _, v in biases):  # that of k is masked
            raise ValueError("its queries and values have biases; use the model whose name ends with dinov3_qkvb")


def _fill_from_npz(model: VisionTransformer, checkpoint: Checkpoint) -> None:
    """Load an .npz file; timm's loader ignores arrays that it does not need, so sizes are compared first."""
    try:
        options = npz_architecture(checkpoint.shapes)
        first: Any = model.blocks[0]
        expected = {
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_heads": first.attn.num_heads,
            "patch_size": tuple(model.patch_embed.patch_size),
        }
        actual = {key: options[key] for key in expected}
        if actual != expected:
            raise ValueError(f"the file has {actual}, the model {expected}")
        model.load_pretrained(str(checkpoint.path))
    except Exception as error:  # NumPy, zlib and zipfile raise many kinds of errors for damaged arrays
        raise ValueError(f"{checkpoint.path} does not fit {type(model).__name__}: {error}") from error


def fill_clip(model: CLIP | CustomTextCLIP, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into an open_clip model.

    Raises:
        ValueError: If it is not a CLIP, needs another activation, or does not fit.
    """
    check_layout(checkpoint)
    if not checkpoint.is_clip:
        raise ValueError(
            f"{checkpoint.path} must hold a CLIP, and its layout is {checkpoint.layout!r}; use timm/<name>@<file>."
        )
    activations = {type(module) for module in model.modules()}
    if checkpoint.layout == "openai" and QuickGELU not in activations:
        raise ValueError(
            f"{checkpoint.path} holds OpenAI's weights, which need QuickGELU, and this model has GELU; "
            f"use open_clip/<model>-quickgelu@<file> or file/<path>."
        )
    state = dict(checkpoint.state)
    if isinstance(model, CustomTextCLIP):
        state = convert_to_custom_text_state_dict(state)
    known = model.state_dict()
    if isinstance(getattr(model, "text", None), HfTextModel):
        state = {key: value for key, value in state.items() if key in known or not _unused_text(key)}
    for key, expected in known.items():
        if key in ("logit_scale", "logit_bias") and key in state:
            state[key] = state[key].reshape(expected.shape)  # files have a scalar or one element
    load_strict(model, state, checkpoint.path)


def _unused_text(key: str) -> bool:
    """Return whether older files have a tensor that no output of a text side of Hugging Face depends on."""
    key = key.removeprefix("text.transformer.")
    return key in ("embeddings.position_ids", "embed_positions.weights") or key.startswith("pooler.")


def _square(vision: VisionTower) -> int:
    height, width = vision.image_size
    if height != width:
        raise ValueError(f"Images must be square for preprocessing, and this backbone takes {height} x {width}.")
    return height


def _interpolation(name: str) -> str:
    return name if name in ("bicubic", "bilinear", "nearest") else "bicubic"
