"""ViT, ViT-MAE and DINOv2 of transformers as timm's VisionTransformer."""

from functools import partial
from typing import Any

from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from selfprompt.models.loading.transformers_format.config import ACTIVATIONS, Config, Side
from selfprompt.models.loading.transformers_format.keys import (
    State,
    Table,
    mlp_ratio,
    take,
    take_blocks,
    without,
    without_empty,
    without_prefix,
)

PREFIXES = ("vit.", "dinov2_with_registers.", "dinov2.")
IGNORED = ("decoder.*", "pooler.*", "classifier.*", "embeddings.mask_token")

_ENDS: Table = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "norm.": "layernorm.",
}
_ATTENTION: Table = {
    "attn.qkv.": tuple(f"attention.attention.{part}." for part in ("query", "key", "value")),
    "attn.proj.": "attention.output.dense.",
}
_VIT_BLOCK: Table = {
    **_ATTENTION,
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
_DINOV2_BLOCK: Table = {
    **_ATTENTION,
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_PLAIN_MLP: Table = {"mlp.fc1.": "mlp.fc1.", "mlp.fc2.": "mlp.fc2."}
_GATED_MLP: Table = {"mlp.fc1.": "mlp.weights_in.", "mlp.fc2.": "mlp.weights_out."}


def convert_vit(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Convert a ViT or a ViT-MAE, whose decoder is left out; returns the arguments of timm's model and its weights."""
    side = config.image
    state = _renamed(tensors, _VIT_BLOCK, side)
    mlp = {"mlp_ratio": mlp_ratio(side.intermediate_size, side.hidden_size), "act_layer": ACTIVATIONS[side.hidden_act]}
    return {**_arguments(side, state), **mlp}, state


def convert_dinov2(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Convert a DINOv2 with or without registers; returns the arguments of timm's model and its weights."""
    side = config.image
    state = _renamed(tensors, {**_DINOV2_BLOCK, **(_GATED_MLP if side.use_swiglu_ffn else _PLAIN_MLP)}, side)
    if config.kind == "dinov2_with_registers" and {"cls_token", "pos_embed"} <= set(state):
        positions = state["pos_embed"]  # timm adds none to the prefix
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:].contiguous()
    hidden = int(side.hidden_size * side.mlp_ratio)
    mlp: dict[str, Any] = {"act_layer": ACTIVATIONS[side.hidden_act]}
    if side.use_swiglu_ffn:
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)  # gate and value in one matrix
        mlp = {"act_layer": "silu", "mlp_layer": SwiGLUPacked}
    return {
        **_arguments(side, state),
        **mlp,
        "mlp_ratio": mlp_ratio(hidden, side.hidden_size),
        "init_values": 1.0,
        "reg_tokens": side.num_register_tokens if config.kind == "dinov2_with_registers" else 0,
        "no_embed_class": config.kind == "dinov2_with_registers",
    }, state


def build_vit(arguments: dict[str, Any]) -> VisionTransformer:
    """Build timm's model."""
    return VisionTransformer(**arguments)


def _renamed(tensors: State, block: Table, side: Side) -> State:
    rest = without_empty(without(without_prefix(tensors, PREFIXES), IGNORED))
    blocks = take_blocks(rest, block, side.num_hidden_layers, "encoder.layer.", "blocks.")
    return {**take(rest, _ENDS), **blocks, **rest}


def _arguments(side: Side, state: State) -> dict[str, Any]:
    return {
        "img_size": side.image_size,
        "patch_size": side.patch_size,
        "embed_dim": side.hidden_size,
        "depth": side.num_hidden_layers,
        "num_heads": side.num_attention_heads,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "norm_layer": partial(nn.LayerNorm, eps=side.layer_norm_eps),
        "num_classes": 0,
    }
