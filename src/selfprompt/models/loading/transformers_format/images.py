"""preprocessor_config.json of transformers as the preprocessing of a backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from selfprompt.models.backbone import Preprocess
from selfprompt.models.loading.assemble import HALF, IMAGENET, OPENAI
from selfprompt.models.loading.transformers_format.config import read_object, short

FILES = ("preprocessor_config.json", "processor_config.json")
"""In the order in which they are looked for; the second also describes the tokenizer."""

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters."""
_LARGEST = 1 << 13

_SIGLIP2 = _VIT = Preprocess(224, *HALF, "bilinear", "squash")
_SIGLIP = Preprocess(224, *HALF, mode="squash")
USUAL = {
    "clip": Preprocess(224, *OPENAI),
    "clip_vision_model": Preprocess(224, *OPENAI),
    "chinese_clip": Preprocess(224, *OPENAI),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "vit": _VIT,
    "vit_mae": Preprocess(224, *IMAGENET, "bilinear", "squash"),
    "dinov2": Preprocess(224, *IMAGENET, resize=256),
    "dinov2_with_registers": Preprocess(224, *IMAGENET, resize=256),
    "dinov3_vit": Preprocess(224, *IMAGENET, "bilinear", "squash"),
}
"""What the published models of each type were evaluated with."""


def read_preprocess(path: Path, usual: Preprocess) -> Preprocess:
    """Read how the images of a model are prepared.

    Args:
        path: A file of ``FILES``.
        usual: What holds where the file is silent.

    Returns:
        The preprocessing, for images of the size that the file names.

    Raises:
        ValueError: If the file is damaged, or a value is of the wrong type or out of range.
    """
    raw = read_object(path)
    raw = raw["image_processor"] if isinstance(raw.get("image_processor"), dict) else raw
    try:
        if raw.get("do_normalize") is False:
            raw = {**raw, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        result = replace(
            usual,
            mean=_channels(raw, "image_mean", usual.mean, least=-10.0),
            std=_channels(raw, "image_std", usual.std, least=1e-6),
            interpolation=_interpolation(raw.get("resample"), usual.interpolation),
        )
        return _with_sizes(result, raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _with_sizes(preprocess: Preprocess, raw: dict[str, Any]) -> Preprocess:
    """Add the sizes: a crop, the size before it, and whether the whole image is squashed."""
    size, crop = raw.get("size"), raw.get("crop_size") if raw.get("do_center_crop") is not False else None
    if size is None and crop is None:
        return preprocess
    squash = crop is None
    if isinstance(size, dict) and "shortest_edge" in size:
        size, squash = size["shortest_edge"], False
    elif isinstance(size, dict):
        squash = True
    target = _pixels("size", preprocess.size if size is None else size)
    cropped = target if crop is None else _pixels("crop_size", crop)
    mode = "squash" if squash else "shortest"
    return replace(preprocess, size=cropped, resize=target if target > cropped else None, mode=mode)


def _pixels(key: str, value: Any) -> int:
    """Return height and width, which must be one number."""
    if isinstance(value, dict) and value.get("height") == value.get("width"):
        value = value.get("height")
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise ValueError(f"{key!r} must be the pixels of a square, from 1 to {_LARGEST}, got {short(value)}.")
    return value


def _channels(
    raw: dict[str, Any], key: str, usual: tuple[float, float, float], least: float
) -> tuple[float, float, float]:
    values = raw.get(key)
    if values is None:
        return usual
    plain = isinstance(values, list) and all(isinstance(x, (int, float)) and least <= x <= 10 for x in values)
    if not plain or len(values) != 3:
        raise ValueError(f"{key!r} must be three numbers from {least:g} to 10, got {short(values)}.")
    return float(values[0]), float(values[1]), float(values[2])


def _interpolation(number: Any, usual: str) -> str:
    if number is None:
        return usual
    if not isinstance(number, int) or number not in _INTERPOLATIONS:
        raise ValueError(f"'resample' must be one of {', '.join(map(str, _INTERPOLATIONS))}, got {short(number)}.")
    return _INTERPOLATIONS[number]
