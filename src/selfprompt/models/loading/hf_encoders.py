"""CLIPs of open_clip whose text side is one of Hugging Face's, built without transformers.

open_clip would fetch a configuration for the text side, and transformers its class. Here the configuration is that of
a folder, of a known name or of the hub, read as data; the class is ours.
"""

from collections.abc import Mapping
from typing import Any, cast, get_args

from open_clip.model import CLIPTextCfg, CustomTextCLIP

from selfprompt.models.hf_text import ACTIVATIONS, EncoderConfig, HfTextModel, Kind, Pooler
from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.names import REPOSITORY, shown
from selfprompt.utils.json_files import read_json

CONFIG = "config.json"

_BERT = {
    "vocabulary": ("vocab_size", 30522),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 3072),
    "positions": ("max_position_embeddings", 512),
    "types": ("type_vocab_size", 2),
    "eps": ("layer_norm_eps", 1e-12),
    "activation": ("hidden_act", "gelu"),
    "pad": ("pad_token_id", 0),
}
_KEYS: dict[Kind, dict[str, tuple[str, Any]]] = {
    "bert": _BERT,
    "roberta": _BERT | {"vocabulary": ("vocab_size", 50265), "pad": ("pad_token_id", 1)},
    "m2m_100": {
        "vocabulary": ("vocab_size", 128112),
        "width": ("d_model", 1024),
        "depth": ("encoder_layers", 12),
        "heads": ("encoder_attention_heads", 16),
        "hidden": ("encoder_ffn_dim", 4096),
        "activation": ("activation_function", "relu"),
        "pad": ("pad_token_id", 1),
    },
    "mt5": {
        "vocabulary": ("vocab_size", 250112),
        "width": ("d_model", 512),
        "depth": ("num_layers", 8),
        "heads": ("num_heads", 6),
        "hidden": ("d_ff", 1024),
        "positions": ("relative_attention_num_buckets", 32),
        "eps": ("layer_norm_epsilon", 1e-6),
        "pad": ("pad_token_id", 0),
    },
}
"""Fields of ``EncoderConfig`` -> keys of config.json and their defaults, by ``model_type``."""
_FIXED: dict[Kind, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "m2m_100": {"positions": 0, "types": 0, "eps": 1e-5},
    "mt5": {"types": 0, "activation": "gelu_new"},
}
_SAME_KIND: dict[str, Kind] = {"xlm-roberta": "roberta"}
_REQUIRED = {
    "position_embedding_type": "absolute",
    "scale_embedding": True,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_max_distance": 128,
}
"""Options of which only one value is supported, where they are given."""
_LARGEST = {"vocabulary": 1 << 22, "depth": 256, "heads": 256, "pad": 1 << 22}
_LARGEST_OTHER = 1 << 15
_POOLERS: dict[Kind, Pooler] = {
    "bert": "cls_pooler",
    "roberta": "mean_pooler",
    "m2m_100": "cls_pooler",
    "mt5": "mean_pooler",
}
"""open_clip's pooler where its configuration names none."""

_ROBERTA = {"layer_norm_eps": 1e-5, "max_position_embeddings": 514, "type_vocab_size": 1}
_XLM_R = {"model_type": "xlm-roberta", "vocab_size": 250002, **_ROBERTA}
_NLLB = {"model_type": "m2m_100", "vocab_size": 256206}
_ROBERTAS = {
    "roberta-base": {"model_type": "roberta", **_ROBERTA},
    "xlm-roberta-base": _XLM_R,
    "xlm-roberta-large": {
        **_XLM_R,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    },
}
KNOWN: dict[str, dict[str, Any]] = {
    **_ROBERTAS,
    **{f"FacebookAI/{name}": config for name, config in _ROBERTAS.items()},  # as the hub names them now
    **{
        name: {"model_type": "bert"}
        for name in (
            "bert-base-uncased",
            "google-bert/bert-base-uncased",
            "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
        )
    },
    "facebook/nllb-200-distilled-600M": _NLLB,
    "facebook/nllb-200-distilled-1.3B": {**_NLLB, "encoder_layers": 24, "encoder_ffn_dim": 8192},
    "google/mt5-base": {"model_type": "mt5", "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/mt5-xl": {"model_type": "mt5", "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}
"""What the configurations of text models say, apart from defaults: those of open_clip's models, and a few others."""


def encoder_config(name: str, text_model: str, folder: ModelFolder | None = None) -> EncoderConfig:
    """Return the configuration of a text encoder.

    Args:
        name: Name of the backbone, for messages.
        text_model: Hugging Face's name of the text model; also of a folder with its configuration in a local CLIP's.
        folder: Where the CLIP's own files are; None for a model of open_clip's list.

    Raises:
        FileNotFoundError: If there is no configuration.
        TypeError: If the encoder is of an unsupported kind.
        ValueError: If the configuration has impossible values.
        RuntimeError: If it cannot be downloaded.
    """
    local = folder is not None and folder.folder is not None
    path = folder.find(f"{text_model}/{CONFIG}") if folder is not None and local else None
    if path is None and text_model in KNOWN:
        return _checked(name, KNOWN[text_model])
    if path is None and not local and REPOSITORY.fullmatch(text_model):
        path = ModelFolder(name, None, text_model).find(CONFIG)
    if path is None:
        raise FileNotFoundError(
            f"The text side of {name} is {shown(text_model)}, whose {CONFIG} is missing; put that file into "
            f"FOLDER/{text_model}/ of a local copy, and use open_clip/local-dir:FOLDER."
        )
    return _checked(f"{name}: {path}", read_json(path, advice=f"Get a new copy of {CONFIG}."))


def build_clip(model: Mapping[str, Any], encoder: EncoderConfig) -> CustomTextCLIP:
    """Build a CLIP with random weights.

    Args:
        model: open_clip's configuration, whose text section has no other size than the context.
        encoder: The text encoder.

    Raises:
        ValueError: If pooler and projection are unknown, or do not fit.
    """
    text = CLIPTextCfg(**model["text_cfg"])
    pooler = text.hf_pooler_type or _POOLERS[encoder.kind]
    if pooler not in get_args(Pooler):
        raise ValueError(f"hf_pooler_type must be one of {', '.join(get_args(Pooler))}, got {shown(pooler)}.")
    arguments = {key: value for key, value in model.items() if key not in ("text_cfg", "custom_text")}
    stand_in = CLIPTextCfg(context_length=1, vocab_size=1, width=1, heads=1, layers=1)
    clip = CustomTextCLIP(**arguments, text_cfg=stand_in)
    clip.text = HfTextModel(
        encoder, model["embed_dim"], text.context_length, cast(Pooler, pooler), text.hf_proj_type or ""
    )
    return clip


def _checked(where: str, raw: Any) -> EncoderConfig:
    """Return the values of a config.json; ``auto_map`` and other keys that ask for code are never read."""
    raw = raw if isinstance(raw, dict) else {}
    model_type = raw.get("model_type")
    kind = _SAME_KIND.get(model_type, model_type) if isinstance(model_type, str) else model_type
    if kind not in _KEYS:
        known = ", ".join([*_KEYS, *_SAME_KIND])
        raise TypeError(f"{where} is not supported: its text side must be one of {known}, got {shown(model_type)}.")
    for key, only in _REQUIRED.items():
        if raw.get(key, only) != only:
            raise TypeError(f"{where} is not supported: {key} must be {only!r}, got {shown(raw[key])}.")
    given = {field: _value(where, field, key, raw.get(key), default) for field, (key, default) in _KEYS[kind].items()}
    heads, inner = given["heads"], given["width"]
    if kind == "mt5":
        inner = heads * _value(where, "head", "d_kv", raw.get("d_kv"), 64)
    if inner % heads:
        raise ValueError(f"{where}: the width must be a multiple of the number of heads, got {inner} and {heads}.")
    return EncoderConfig(kind=kind, inner=inner, **_FIXED[kind], **given)


def _value(where: str, field: str, key: str, value: Any, default: Any) -> Any:
    """Return a value of the type of its default and of sane size."""
    if value is None:
        return default
    if isinstance(default, str):
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f"{where}: {key} must be one of {', '.join(ACTIVATIONS)}, got {shown(value)}.")
        return value
    low, high = (1e-15, 0.1) if field == "eps" else (field != "pad", _LARGEST.get(field, _LARGEST_OTHER))
    if isinstance(value, bool) or not isinstance(value, (int, type(default))) or not low <= value <= high:
        raise ValueError(f"{where}: {key} must be a number from {low:g} to {high:g}, got {shown(value)}.")
    return type(default)(value)
