"""SigLIP and SigLIP 2 of transformers as a text side of open_clip's and an image side of timm's."""

from functools import partial
from math import isqrt
from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfprompt.models.loading.transformers_format.clip import BLOCK as TEXT_BLOCK
from selfprompt.models.loading.transformers_format.clip import IGNORED, TEXT_ENDS
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

NAFLEX = ("siglip2", "siglip2_vision_model")
"""Types whose images may have any size, as flat patches."""
_ACTIVATIONS = {"gelu": nn.GELU, "gelu_tanh": partial(nn.GELU, approximate="tanh"), "quick_gelu": QuickGELU}

_IMAGE_BLOCK: Table = {
    "attn.qkv.": tuple(f"self_attn.{part}_proj." for part in "qkv"),
    "attn.proj.": "self_attn.out_proj.",
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
_IMAGE_ENDS: Table = {
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "pos_embed": "embeddings.position_embedding.weight",
    "norm.": "post_layernorm.",
    "attn_pool.latent": "head.probe",
    "attn_pool.qkv.weight": "head.attention.in_proj_weight",
    "attn_pool.qkv.bias": "head.attention.in_proj_bias",
    "attn_pool.proj.": "head.attention.out_proj.",
    "attn_pool.norm.": "head.layernorm.",
    "attn_pool.mlp.fc1.": "head.mlp.fc1.",
    "attn_pool.mlp.fc2.": "head.mlp.fc2.",
}
_TEXT_ENDS: Table = {**TEXT_ENDS, "text_projection.": "head."}


class Siglip(nn.Module):
    """Both sides of a SigLIP, under the names that open_clip's CustomTextCLIP has for them."""

    def __init__(self, trunk: VisionTransformer, text: TextTransformer) -> None:
        super().__init__()
        self.visual = nn.ModuleDict({"trunk": trunk})
        self.text = text
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.logit_bias = nn.Parameter(torch.zeros(()))


def convert_siglip(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Convert a SigLIP, or a SigLIP 2, whose NaFlex images become square.

    Returns:
        The arguments of timm's model under "trunk" and of open_clip's under "text", and the weights.

    Raises:
        ValueError: If the patches of a NaFlex model do not form a square, or an activation is none of a SigLIP.
    """
    assert config.text is not None
    rest = without(tensors, IGNORED)
    text = config.text
    state = take(rest, {"logit_scale": "logit_scale", "logit_bias": "logit_bias"})
    state |= take(rest, _TEXT_ENDS, "text_model.", "text.")
    blocks = "text_model.encoder.layers.", "text.transformer.resblocks."
    state |= take_blocks(rest, TEXT_BLOCK, text.num_hidden_layers, *blocks)
    for name in ("logit_scale", "logit_bias"):
        change(state, name, lambda x: x.reshape(()))
    state |= _take_image(rest, config, "vision_model.", "visual.trunk.")
    return {"trunk": _trunk_arguments(config), "text": _text_arguments(text)}, state | rest


def convert_siglip_image(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Return the arguments of timm's model and the weights of the image side alone; errors as above."""
    rest = without_prefix(without(tensors, IGNORED), ("vision_model.",))
    return _trunk_arguments(config), _take_image(rest, config, "", "") | rest


def build_siglip(arguments: dict[str, Any]) -> Siglip:
    """Build both sides."""
    return Siglip(VisionTransformer(**arguments["trunk"]), TextTransformer(**arguments["text"]))


def _take_image(tensors: State, config: Config, old: str, new: str) -> State:
    side = config.image
    state = take(tensors, _IMAGE_ENDS, old, new)
    state |= take_blocks(tensors, _IMAGE_BLOCK, side.num_hidden_layers, f"{old}encoder.layers.", f"{new}blocks.")
    if config.kind in NAFLEX:
        change(state, f"{new}patch_embed.proj.weight", partial(_as_convolution, side))
    change(state, f"{new}pos_embed", lambda x: x[None])
    for end in ("weight", "bias"):  # the projection of the query, and those of keys and values
        joined = state.pop(f"{new}attn_pool.qkv.{end}", None)
        if joined is not None:
            state[f"{new}attn_pool.q.{end}"] = joined[: side.hidden_size].clone()
            state[f"{new}attn_pool.kv.{end}"] = joined[side.hidden_size :].clone()
    return state


def _as_convolution(side: Side, weight: Tensor) -> Tensor:
    """Turn the projection of flat patches (rows, columns, channels) into the kernel of a convolution."""
    patches: Tensor = weight.unflatten(1, (side.patch_size, side.patch_size, side.num_channels))
    return patches.permute(0, 3, 1, 2)


def _image_size(config: Config) -> int:
    side = config.image
    if config.kind not in NAFLEX:
        return side.image_size
    grid = isqrt(side.num_patches)
    if grid**2 != side.num_patches:
        raise ValueError(f"'num_patches' must be a square number, got {side.num_patches}.")
    return grid * side.patch_size


def _trunk_arguments(config: Config) -> dict[str, Any]:
    side = config.image
    return {
        "img_size": _image_size(config),
        "patch_size": side.patch_size,
        "embed_dim": side.hidden_size,
        "depth": side.num_hidden_layers,
        "num_heads": side.num_attention_heads,
        "mlp_ratio": mlp_ratio(side.intermediate_size, side.hidden_size),
        "class_token": False,
        "global_pool": "map",
        "norm_layer": partial(nn.LayerNorm, eps=side.layer_norm_eps),
        "act_layer": ACTIVATIONS[side.hidden_act],
        "num_classes": 0,
    }


def _text_arguments(side: Side) -> dict[str, Any]:
    kind = ACTIVATIONS[side.hidden_act]
    if kind not in _ACTIVATIONS:
        raise ValueError(f"'hidden_act' of a SigLIP's text side must be a GELU, got {side.hidden_act}.")
    return {
        "context_length": side.max_position_embeddings,
        "vocab_size": side.vocab_size,
        "width": side.hidden_size,
        "heads": side.num_attention_heads,
        "layers": side.num_hidden_layers,
        "mlp_ratio": mlp_ratio(side.intermediate_size, side.hidden_size),
        "output_dim": side.projection_size or side.hidden_size,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "act_layer": _ACTIVATIONS[kind],
        "norm_layer": partial(LayerNorm, eps=side.layer_norm_eps),
    }
