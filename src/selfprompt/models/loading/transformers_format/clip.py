"""CLIP of transformers as open_clip's CLIP."""

from typing import Any, cast

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn

from selfprompt.models.loading.transformers_format.config import ACTIVATIONS, Config, Side
from selfprompt.models.loading.transformers_format.keys import (
    State,
    Table,
    change,
    mlp_ratio,
    take,
    take_blocks,
    without,
    without_prefix,
)

IGNORED = ("*position_ids",)
ARGMAX_MARK = 2
"""``eos_token_id`` of old configurations, which does not mean the id 2 but the largest id of a text."""

BLOCK: Table = {
    "attn.in_proj_": tuple(f"self_attn.{part}_proj." for part in "qkv"),
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
"""A block of open_clip's."""
TEXT_ENDS: Table = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.": "final_layer_norm.",
}
_IMAGE_ENDS: Table = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.": "pre_layrnorm.",  # their spelling
    "ln_post.": "post_layernorm.",
}
_SHARED: Table = {"text_projection": "text_projection.weight", "logit_scale": "logit_scale"}


def convert_clip(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Return the arguments of open_clip's CLIP and its weights.

    Raises:
        ValueError: If the two sides have different activations, or one that a CLIP cannot have.
    """
    assert config.text is not None
    rest = without(tensors, IGNORED)
    image, text = config.image, config.text
    state = take(rest, _SHARED) | take(rest, TEXT_ENDS, "text_model.")
    state |= take_blocks(rest, BLOCK, text.num_hidden_layers, "text_model.encoder.layers.", "transformer.resblocks.")
    state |= take_image(rest, image, "vision_model.", "visual.")
    change(state, "text_projection", lambda x: x.t())
    change(state, "logit_scale", lambda x: x.reshape(()))
    if image.hidden_act != text.hidden_act:
        raise ValueError(f"'hidden_act' must be the same on both sides, got {image.hidden_act} and {text.hidden_act}.")
    text_arguments = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "heads": text.num_attention_heads,
        **_pooling(text),
        **_arguments(text),
    }
    return {**image_arguments(image), "text_cfg": text_arguments}, state | rest


def convert_clip_image(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Return the arguments of open_clip's CLIP, and the weights of its image side alone.

    The argument "projected" says whether there is a projection.

    Raises:
        ValueError: If the activation is none of a CLIP.
    """
    rest = without_prefix(without(tensors, IGNORED), ("vision_model.",))
    state = take_image(rest, config.image, "", "")
    return {**image_arguments(config.image), "projected": "proj" in state}, state | rest


def build_clip(arguments: dict[str, Any]) -> CLIP:
    """Build open_clip's model."""
    sides = {"vision_cfg": CLIPVisionCfg(**arguments["vision_cfg"]), "text_cfg": CLIPTextCfg(**arguments["text_cfg"])}
    return CLIP(**{**arguments, **sides})


def build_clip_image(arguments: dict[str, Any]) -> nn.Module:
    """Build the image side of open_clip's model, with a projection if the model has one."""
    smallest = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
    projected = arguments["projected"]
    others = {key: value for key, value in arguments.items() if key != "projected"}
    visual: Any = build_clip({**others, "text_cfg": smallest}).visual
    if not projected:
        visual.proj = None
    return cast(nn.Module, visual)


def take_image(tensors: State, side: Side, old: str, new: str) -> State:
    """Move the tensors of the image side; ``old`` and ``new`` are put in front of their names."""
    state = take(tensors, {f"{new}proj": "visual_projection.weight"}) | take(tensors, _IMAGE_ENDS, old, new)
    change(state, f"{new}proj", lambda x: x.t())
    blocks = f"{old}encoder.layers.", f"{new}transformer.resblocks."
    return state | take_blocks(tensors, BLOCK, side.num_hidden_layers, *blocks)


def image_arguments(side: Side) -> dict[str, Any]:
    """Return open_clip's arguments for the image side."""
    vision = {
        "image_size": side.image_size,
        "patch_size": side.patch_size,
        "head_width": side.hidden_size // side.num_attention_heads,
        **_arguments(side),
    }
    quick = ACTIVATIONS[side.hidden_act] == "quick_gelu"
    return {"embed_dim": side.projection_dim, "vision_cfg": vision, "quick_gelu": quick}


def _arguments(side: Side) -> dict[str, Any]:
    kind = ACTIVATIONS[side.hidden_act]
    if kind not in ("gelu", "gelu_tanh", "quick_gelu"):
        raise ValueError(f"'hidden_act' of a CLIP must be a GELU, got {side.hidden_act}.")
    return {
        "layers": side.num_hidden_layers,
        "width": side.hidden_size,
        "mlp_ratio": mlp_ratio(side.intermediate_size, side.hidden_size),
        "norm_kwargs": {"eps": side.layer_norm_eps},
        "act_kwargs": {"approximate": "tanh"} if kind == "gelu_tanh" else None,
    }


def _pooling(text: Side) -> dict[str, Any]:
    if text.eos_token_id in (ARGMAX_MARK, text.vocab_size - 1):  # the first end is the first largest id
        return {"pool_type": "argmax"}
    return {"pool_type": "eos", "eos_id": text.eos_token_id}
