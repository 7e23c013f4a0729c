"""DINOv3 of transformers as timm's Eva."""

from functools import partial
from typing import Any

from timm.models.eva import Eva
from torch import nn

from selfprompt.models.loading.transformers_format.config import Config, Side
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

PREFIXES = ("dinov3_vit.", "model.")
IGNORED = ("embeddings.mask_token", "classifier.*")

_ENDS: Table = {
    "patch_embed.proj.": "embeddings.patch_embeddings.",
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "norm.": "norm.",
}
_BLOCK: Table = {
    "attn.qkv.weight": tuple(f"attention.{part}_proj.weight" for part in "qkv"),
    "attn.q_bias": "attention.q_proj.bias",  # the keys have none
    "attn.v_bias": "attention.v_proj.bias",
    "attn.proj.": "attention.o_proj.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
}
_PLAIN_MLP: Table = {"mlp.fc1.": "mlp.up_proj.", "mlp.fc2.": "mlp.down_proj."}
_GATED_MLP: Table = {"mlp.fc1_g.": "mlp.gate_proj.", "mlp.fc1_x.": "mlp.up_proj.", "mlp.fc2.": "mlp.down_proj."}


def convert_dinov3(config: Config, tensors: State) -> tuple[dict[str, Any], State]:
    """Return the arguments of timm's model and its weights.

    Biases of queries and values that are all zero, as in the distilled models, are left out, as timm leaves them out.

    Raises:
        ValueError: If the activation is another than that of the published models.
    """
    side = config.image
    expected = "silu" if side.use_gated_mlp else "gelu"
    if side.hidden_act != expected:
        raise ValueError(
            f"'hidden_act' of a DINOv3 {'with' if side.use_gated_mlp else 'without'} gates must be {expected}, "
            f"got {side.hidden_act}."
        )
    rest = without_empty(without(without_prefix(tensors, PREFIXES), IGNORED))
    block = {**_BLOCK, **(_GATED_MLP if side.use_gated_mlp else _PLAIN_MLP)}
    state = {**take(rest, _ENDS), **take_blocks(rest, block, side.num_hidden_layers, "layer.", "blocks."), **rest}
    biases = {name: tensor for name, tensor in state.items() if name.endswith((".attn.q_bias", ".attn.v_bias"))}
    if not any(bias.any() for bias in biases.values()):
        state = {name: tensor for name, tensor in state.items() if name not in biases}
        biases = {}
    return {**_arguments(side), "qkv_bias": bool(biases)}, state


def build_dinov3(arguments: dict[str, Any]) -> Eva:
    """Build timm's model."""
    return Eva(**arguments)


def _arguments(side: Side) -> dict[str, Any]:
    return {
        "img_size": side.image_size,
        "patch_size": side.patch_size,
        "embed_dim": side.hidden_size,
        "depth": side.num_hidden_layers,
        "num_heads": side.num_attention_heads,
        "mlp_ratio": mlp_ratio(side.intermediate_size, side.hidden_size),
        "swiglu_mlp": side.use_gated_mlp,
        "swiglu_align_to": 1 if side.use_gated_mlp else 0,  # separate matrices, of the width as given
        "num_reg_tokens": side.num_register_tokens,
        "init_values": 1.0,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": side.rope_theta,
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "dynamic_img_size": True,
        "norm_layer": partial(nn.LayerNorm, eps=side.layer_norm_eps),
        "num_classes": 0,
    }
