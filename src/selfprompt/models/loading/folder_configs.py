"""Configurations in folders and hub repositories of open_clip and timm, read as untrusted data.

A configuration describes an architecture and nothing else: known options with plain values are kept, and whatever could
name code, a download or a file is not.
"""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.names import shown
from selfprompt.utils.json_files import read_json

OPEN_CLIP_CONFIG, TIMM_CONFIG = "open_clip_config.json", "config.json"

_CLIP_OPTIONS = {"embed_dim", "quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"}
_TOKENIZER_OPTIONS = {"clean": str, "strip_sep_token": bool, "language": str}
_VISION_OPTIONS = {field.name for field in fields(CLIPVisionCfg)}
_TEXT_OPTIONS = {field.name for field in fields(CLIPTextCfg)}
_TIMM_OPTIONS = {name for kind in (VisionTransformer, Eva) for name in inspect.signature(kind).parameters}
_TIMM_OPTIONS -= {"in_chans", "num_classes", "device", "dtype"}

# the largest sane numbers; those of published models are less than half
_LARGEST = {
    **dict.fromkeys(("layers", "depth", "heads", "num_heads", "reg_tokens", "num_reg_tokens"), 256),
    **dict.fromkeys(("image_size", "img_size", "input_size", "context_length"), 4096),
    **dict.fromkeys(("vocab_size", "eos_id", "pad_id"), 4_000_000),
}
_LARGEST_OTHER = 16_384
_FINEST_GRID = 128  # patches in a row
_WORD = re.compile(r"[\w.+-]{0,64}", re.ASCII)
_SOURCE = re.compile(r"\w[\w.+-]{0,95}(/\w[\w.+-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class ClipConfig:
    """A clean configuration of open_clip.

    Attributes:
        model: Arguments of ``CLIP`` or ``CustomTextCLIP``, without those that name files or repositories.
        custom_text: Whether the text side is a module of its own (``CustomTextCLIP``).
        text_model: Hugging Face's name of the text model; empty for open_clip's own.
        tokenizer: Hugging Face's name of the tokenizer; empty for CLIP's own.
        tokenizer_options: ``clean``, ``strip_sep_token`` and ``language``, where given.
        images: ``mean``, ``std``, ``interpolation`` and ``resize_mode``, where given.
    """

    model: dict[str, Any]
    custom_text: bool
    text_model: str
    tokenizer: str
    tokenizer_options: dict[str, Any]
    images: dict[str, Any]


@dataclass(frozen=True)
class TimmConfig:
    """A clean configuration of timm.

    Attributes:
        architecture: Name of the architecture, not yet looked up.
        model: Arguments of the architecture.
        images: Entries of the pretrained configuration: ``input_size``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct`` and ``crop_mode``, where given.
        tag: How the weights were trained, such as "mae"; empty if the configuration does not say.
    """

    architecture: str
    model: dict[str, Any]
    images: dict[str, Any]
    tag: str


def read_clip_config(folder: ModelFolder) -> ClipConfig:
    """Read ``open_clip_config.json``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it does not describe a CLIP, or an option has no plain and sane value.
    """
    config = _read(folder, OPEN_CLIP_CONFIG)
    with _naming(f"{folder.name}: {OPEN_CLIP_CONFIG}"):
        model = _section(config, "model_cfg")
        vision, text = dict(_section(model, "vision_cfg")), dict(_section(model, "text_cfg"))
        if "multimodal_cfg" in model:
            raise ValueError("it describes a CoCa; those of open_clip are open_clip/coca_ViT-B-32/<tag> and the like")
        names = {key: _source(key, text.pop(key, None)) for key in ("hf_model_name", "hf_tokenizer_name")}
        wanted = text.pop("tokenizer_kwargs", None)
        top = {key: value for key, value in model.items() if key not in ("vision_cfg", "text_cfg", "custom_text")}
        vision["timm_model_pretrained"] = text["hf_model_pretrained"] = False
        cleaned = _options(top, _CLIP_OPTIONS)
        cleaned |= {"vision_cfg": _options(vision, _VISION_OPTIONS), "text_cfg": _options(text, _TEXT_OPTIONS)}
        return ClipConfig(
            cleaned,
            bool(model.get("custom_text") or names["hf_model_name"]),
            names["hf_model_name"],
            names["hf_tokenizer_name"],
            _tokenizer_options(wanted),
            _images(config.get("preprocess_cfg"), ("mean", "std", "interpolation", "resize_mode")),
        )


def read_timm_config(folder: ModelFolder) -> TimmConfig:
    """Read timm's ``config.json``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it does not name an architecture, or an option has no plain and sane value.
    """
    config = _read(folder, TIMM_CONFIG)
    with _naming(f"{folder.name}: {TIMM_CONFIG}"):
        if "architecture" not in config:
            advice = " (a folder of transformers is loaded with file/FOLDER, a repository with hf/org/name)"
            raise ValueError(f"it must name timm's architecture{advice if 'model_type' in config else ''}")
        # old files have one level
        pretrained = _section({"pretrained_cfg": config, **config}, "pretrained_cfg")
        keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        images = _images(pretrained, keys)
        options = _options(dict(_section({"model_args": {}, **config}, "model_args")), _TIMM_OPTIONS)
        tag = pretrained.get("tag") or ""
        return TimmConfig(_word("architecture", config["architecture"]), options, images, _word("tag", tag))


def _read(folder: ModelFolder, name: str) -> Mapping[str, Any]:
    path = folder.find(name)
    if path is None:
        raise FileNotFoundError(
            f"{folder.name} must hold {name}, and there is none. A folder in the layout of transformers is loaded with "
            "file/FOLDER, a repository with hf/org/name."
        )
    config = read_json(path, advice=f"Get a new copy of {name}, or use another backbone.")
    with _naming(f"{folder.name}: {name}"):
        return _section({name: config}, name)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where} cannot be used: {str(error).rstrip('.')}.") from error


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must be an object with options, got {shown(value)}")
    return value


def _options(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return options whose names are known and whose values are plain."""
    for key in given:
        if key not in known:
            raise ValueError(f"the option {shown(key)} is unknown")
    options = {key: _value(key, value) for key, value in given.items()}
    size, patch = (options.get(f"{name}_size") for name in ("image" if "image_size" in options else "img", "patch"))
    if isinstance(size, int) and isinstance(patch, int) and size > patch * _FINEST_GRID:
        raise ValueError(f"images of {size} pixels with patches of {patch} are more than {_FINEST_GRID} in a row")
    return options


def _value(key: str, value: Any, nested: bool = False) -> Any:
    """Return a value if it is plain: a sane number, a word, or a short list or object of these."""
    if isinstance(value, (bool, type(None))):
        return value
    if isinstance(value, (int, float)):
        largest = _LARGEST.get(key, _LARGEST_OTHER)
        if abs(value) > largest:
            raise ValueError(f"{key} must be at most {largest}, got {shown(value)}")
        return value
    if isinstance(value, str):
        return _word(key, value)
    if not nested and len(value) <= 8:
        if isinstance(value, list):
            return [_value(key, entry, nested=True) for entry in value]
        return {_word(key, name): _value(name, entry, nested=True) for name, entry in value.items()}
    raise ValueError(f"{key} must be a number, a word, or a few of them, got {shown(value)}")


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError(f"{key} must be a word without ':' and '/', got {shown(value)}")
    return value


def _source(key: str, value: Any) -> str:
    """Return a name of Hugging Face: "name" or "org/name"."""
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or not _SOURCE.fullmatch(value):
        raise ValueError(f"{key} must be a name or org/name, got {shown(value)}")
    return value


def _tokenizer_options(given: Any) -> dict[str, Any]:
    """Return the options that change how texts are cleaned; all others, which may ask for code, are dropped."""
    given = given if isinstance(given, Mapping) else {}
    return {
        key: _value(key, given[key]) for key, kind in _TOKENIZER_OPTIONS.items() if isinstance(given.get(key), kind)
    }


def _images(given: Any, keys: Collection[str]) -> dict[str, Any]:
    """Return the preprocessing of images, without what this library does not use."""
    given = given if isinstance(given, Mapping) else {}
    images = {key: _value(key, given[key]) for key in keys if given.get(key) is not None}
    for key in {"mean", "std"} & set(images):
        value = images[key]
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, (int, float)) for v in value):
            raise ValueError(f"{key} must be three numbers, got {shown(value)}")
        if key == "std" and min(value) <= 0:
            raise ValueError(f"std must be positive, got {shown(value)}")
    if images.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise ValueError(f"resize_mode must be 'shortest' or 'squash', got {shown(images['resize_mode'])}")
    return images
