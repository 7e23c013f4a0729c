"""config.json of a transformers model as a checked record: absent values are the defaults of its class."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.infer_architecture import LONGEST_TEXT
from selfprompt.utils.json_files import read_json

CONFIG = "config.json"
LARGEST_JSON = 1 << 24
"""Bytes of a JSON file beside weights; those of the hub have up to one megabyte."""
FINEST_GRID = 256
"""Patches in a row; published models have less than half."""


@dataclass(frozen=True)
class Side:
    """The image or the text side of a model, under transformers' names; each class reads the fields that it has.

    Attributes:
        hidden_size: Channels per token.
        intermediate_size: Channels inside the MLP.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads per block.
        hidden_act: Activation, a key of ``ACTIVATIONS``.
        layer_norm_eps: Epsilon of the norms.
        image_size: Height and width of the images.
        patch_size: Height and width of a patch.
        num_channels: Channels of an image.
        num_patches: Patches of a NaFlex image.
        num_register_tokens: Register tokens behind the class token.
        mlp_ratio: DINOv2's width of the MLP as a multiple of ``hidden_size``.
        use_swiglu_ffn: Whether DINOv2's MLP is gated.
        use_gated_mlp: Whether DINOv3's MLP is gated.
        rope_theta: Base of DINOv3's rotation.
        vocab_size: Number of token ids.
        max_position_embeddings: Tokens per text.
        type_vocab_size: Token types of BERT.
        pad_token_id: Padding, which BERT masks.
        eos_token_id: End of text, whose token CLIP pools; 2 is an old configuration's mark for the largest id.
        projection_dim: Size of CLIP's features.
        projection_size: Size of SigLIP's features; 0 for ``hidden_size``.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    num_patches: int = 256
    num_register_tokens: int = 0
    mlp_ratio: float = 4.0
    use_swiglu_ffn: bool = False
    use_gated_mlp: bool = False
    rope_theta: float = 100.0
    vocab_size: int = 32000
    max_position_embeddings: int = 64
    type_vocab_size: int = 2
    pad_token_id: int = 0
    eos_token_id: int = 49407
    projection_dim: int = 512
    projection_size: int = 0


@dataclass(frozen=True)
class Config:
    """What is read of config.json.

    Attributes:
        kind: Its ``model_type``.
        image: The image side.
        text: The text side; None if the model has none.
    """

    kind: str
    image: Side
    text: Side | None = field(default=None)


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}
"""transformers' names of activations -> timm's."""

_CLIP = Side(hidden_act="quick_gelu", layer_norm_eps=1e-5, patch_size=32)
_CLIP_TEXT = Side(
    hidden_size=512,
    intermediate_size=2048,
    num_attention_heads=8,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    vocab_size=49408,
    max_position_embeddings=77,
)
_BERT = Side(layer_norm_eps=1e-12, vocab_size=30522, max_position_embeddings=512)
_SIGLIP = Side(hidden_act="gelu_pytorch_tanh")
_VIT = Side(layer_norm_eps=1e-12)
_DINOV3 = Side(hidden_size=384, intermediate_size=1536, num_attention_heads=6, layer_norm_eps=1e-5)

DEFAULTS: dict[str, tuple[Side, Side | None]] = {
    "clip": (_CLIP, _CLIP_TEXT),
    "siglip": (_SIGLIP, _SIGLIP),
    "siglip2": (_SIGLIP, _SIGLIP),
    "clip_vision_model": (_CLIP, None),
    "chinese_clip": (_CLIP, _BERT),
    "siglip_vision_model": (_SIGLIP, None),
    "siglip2_vision_model": (_SIGLIP, None),
    "vit": (_VIT, None),
    "vit_mae": (_VIT, None),
    "dinov2": (Side(patch_size=14), None),
    "dinov2_with_registers": (Side(num_register_tokens=4), None),
    "dinov3_vit": (_DINOV3, None),
}
"""Defaults of the image and the text side of each supported ``model_type``."""

_BOUNDS: dict[str, tuple[float, float]] = {
    "hidden_size": (1, 1 << 14),
    "intermediate_size": (1, 1 << 17),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (1, 256),
    "layer_norm_eps": (1e-15, 0.1),
    "image_size": (1, 1 << 13),
    "patch_size": (1, 1 << 10),
    "num_channels": (3, 3),
    "num_patches": (1, 1 << 16),
    "num_register_tokens": (0, 1 << 10),
    "mlp_ratio": (0.01, 100),
    "rope_theta": (1e-3, 1e9),
    "vocab_size": (1, 1 << 22),
    "max_position_embeddings": (1, LONGEST_TEXT),
    "type_vocab_size": (1, 1 << 10),
    "pad_token_id": (0, 1 << 22),
    "eos_token_id": (0, 1 << 22),
    "projection_dim": (1, 1 << 14),
    "projection_size": (0, 1 << 14),
}
"""Least and greatest value of each number."""


def read_config(path: Path, source: ModelFolder) -> Config:
    """Read and check a config.json. Keys that ask for code, such as ``auto_map``, are never read.

    Args:
        path: Path of the file.
        source: Where it comes from, for messages.

    Raises:
        ValueError: If the file is damaged, or a value is of the wrong type or out of range.
        TypeError: If the model is none of the supported types; the message says what to type instead.
    """
    raw = read_object(path)
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in DEFAULTS:
        raise TypeError(f"{source.name} is not supported: {_why_unsupported(raw, source)}.")
    image, text = DEFAULTS[kind]
    if text is None:
        return Config(kind, _side(raw, image, path))
    shared = {"projection_dim": raw.get("projection_dim")}  # the sides repeat it, and it is not used there
    vision = _side(_section(raw, "vision", path) | shared, image, path)
    return Config(kind, vision, _side(_section(raw, "text", path) | shared, text, path))


def read_object(path: Path) -> dict[str, Any]:
    """Read a small JSON file that must hold an object.

    Raises:
        ValueError: If it is large, damaged or anything else.
    """
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} must have at most {LARGEST_JSON:,} bytes; it is not a configuration.")
    value = read_json(path, advice="Download it again.")
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, and holds a {type(value).__name__}. Download it again.")
    return value


def _section(raw: Mapping[str, Any], side: str, path: Path) -> dict[str, Any]:
    """Return the settings of one side; old files repeat some under another key, which counts more."""
    values: dict[str, Any] = {}
    for key in (f"{side}_config", f"{side}_config_dict"):
        section = raw.get(key) or {}
        if not isinstance(section, dict):
            raise ValueError(f"{path}: {key!r} must be an object, got {short(section)}.")
        values |= section
    return values


def _side(raw: Mapping[str, Any], defaults: Side, path: Path) -> Side:
    known = {entry.name: getattr(defaults, entry.name) for entry in fields(defaults)}
    given = {key: raw[key] for key in known if raw.get(key) is not None}
    side = replace(defaults, **{key: _checked(key, value, known[key], path) for key, value in given.items()})
    if side.hidden_size % side.num_attention_heads:
        raise ValueError(
            f"{path}: 'hidden_size' must be a multiple of 'num_attention_heads', got {side.hidden_size} and "
            f"{side.num_attention_heads}."
        )
    if side.image_size > FINEST_GRID * side.patch_size:
        raise ValueError(
            f"{path}: 'image_size' must be at most {FINEST_GRID} patches, got {side.image_size} pixels with patches of "
            f"{side.patch_size}."
        )
    return side


def _checked(key: str, value: Any, default: Any, path: Path) -> Any:
    """Return a value of the type of the default; a list stands for height and width, or for alternatives."""
    if isinstance(value, list) and value and (key == "eos_token_id" or value.count(value[0]) == len(value) == 2):
        value = value[0]
    if isinstance(default, str):
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(
                f"{path}: {key!r} must be one of {', '.join(ACTIVATIONS)}, got {short(value)}; for another model use "
                "its timm/<name> or open_clip/<model>/<tag>."
            )
        return value
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{path}: {key!r} must be true or false, got {short(value)}.")
        return value
    low, high = _BOUNDS[key]
    number = isinstance(value, (int, float) if isinstance(default, float) else int) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = "a number" if isinstance(default, float) else "a whole number"
        rule = f"{low:g}" if low == high else f"{kind} from {low:g} to {high:g}"
        raise ValueError(f"{path}: {key!r} must be {rule}, got {short(value)}.")
    return type(default)(value)


def _why_unsupported(raw: Mapping[str, Any], source: ModelFolder) -> str:
    """Return why a configuration is refused, and what to type instead, as a clause."""
    if "architecture" in raw and "model_type" not in raw:
        return f"its {CONFIG} is in the layout of timm; load it with {source.named('timm')}"
    return (
        f"the model_type in its {CONFIG} must be one of {', '.join(DEFAULTS)}, got {short(raw.get('model_type'))}; "
        "for another model use its timm/<name> or open_clip/<model>/<tag>"
    )


def short(value: Any) -> str:
    """Return a value of a file for a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
