"""The names of the tensors in an artifact: existing artifacts must keep loading, so methods never rename one."""

import copy

import pytest
import torch

from selfprompt.methods.registry import build_method
from tests.methods.test_contract import CASES
from tests.methods.tiny import NAMES, backbone

KINDS = ("weight", "bias")
HEAD = {"head.weight", "head.bias"}
CLIP_LORA = {f"{side}_updates.{factor}" for side in ("text", "image") for factor in ("down", "up")}
NORMS = {f"norm_{part}.{name}" for part in ("attention", "mlp") for name in ("weight", "bias")}
BIASES = {f"{name}_bias" for name in ("norm1", "qkv", "out", "norm2", "up", "down")}
BLOCK_NORMS = {f"{name}_{kind}" for name in ("norm1", "norm2") for kind in ("weight", "bias")}
GATES = {"keep_tokens", "keep_attention"}
ATTENTION = {f"attention.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
FULL_FUSION = NORMS | GATES | ATTENTION | {"down.weight", "up.weight"}
LOW_RANK_FUSION = (
    NORMS
    | GATES
    | {f"attention.{name}.first.weight" for name in ("query", "key", "value", "out_proj")}
    | {
        f"attention.{name}.second.{part}"
        for name in ("query", "key", "value", "out_proj")
        for part in ("weight", "bias")
    }
    | {f"{name}.{factor}.weight" for name in ("down", "up") for factor in ("first", "second")}
)


def both_towers(names: set[str]) -> set[str]:
    """Names of tuned weights of the blocks of both towers."""
    return {f"{side}_weights.{name}" for side in ("image", "text") for name in names}


def sep(fusion: set[str], text: int, image: int) -> set[str]:
    """SEP's names for fusion modules of this kind, as many in each tower; its class prototypes are left out."""
    counts = {"text": text, "image": image}
    fusions = {f"{side}_fusions.{i}.{name}" for side, count in counts.items() for i in range(count) for name in fusion}
    return fusions | {"text_prompts", "image_prompts"}


MMRL = {f"{side}_maps.{kind}" for side in ("image", "text") for kind in ("weight", "bias")}
MMRL |= {"tokens", "projection", "known"}
SINGULAR = {f"{side}_values.{name}" for side in ("image", "text") for name in ("q", "k", "v", "out", "up", "down")}
LAYERS = [f"{name}.{kind}" for name in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj") for kind in KINDS]
UPPER = {
    f"{side}.transformer.resblocks.{index}.{name}"
    for side, blocks in (("vision.visual", (3, 4, 5)), ("text", (2, 3)))
    for index in blocks
    for name in (*LAYERS, "attn.in_proj_weight", "attn.in_proj_bias")
}
UPPER |= {f"{norm}.{kind}" for norm in ("vision.visual.ln_post", "text.ln_final") for kind in KINDS}
UPPER |= {"vision.visual.proj", "text.text_projection"}
KEYS = {
    "ape, clip": {"channels", "support", "labels", "weights"},
    "ape, trained": {"channels", "support", "labels", "weights", "shift"},
    "bitfit, clip": both_towers(BIASES),
    "bitfit, head": HEAD | {f"image_weights.{name}" for name in BIASES},
    "bpt, clip": HEAD | {"tokens", "channels", "fixed"},
    "bpt, shallow": HEAD | {"tokens", "channels"},
    "bpt, mae": HEAD | {"tokens", "channels", "fixed"},
    "clap, clip": {"weight", "known"},
    "class-lora, clip": CLIP_LORA | {"vectors", "known"},
    "clip-lora, clip": CLIP_LORA,
    "clip-lora, dropout": CLIP_LORA,
    "clip-svd, clip": {
        f"{side}_values.{name}" for side in ("image", "text") for name in ("q", "k", "v", "out", "up", "down")
    },
    "cocoop, clip": {"context", *(f"network.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias"))},
    "coop, clip": {"context"},
    "coop, class specific": {"context"},
    "gda, clip": {"alpha", "bias", "known", "support", "weight"},
    "gda, these names only": {"alpha", "bias", "known", "weight"},
    "gatevpt, clip": HEAD | {"prompts", "gates", "temperatures"},
    "gatevpt, mae": HEAD | {"prompts", "gates", "temperatures"},
    "ivlp, clip": {"text_prompts", "image_prompts"},
    "kgcoop, clip": {"context"},
    "linear, clip": HEAD,
    "linear, mae": HEAD,
    "ln-tuning, clip": both_towers(BLOCK_NORMS),
    "ln-tuning, head": HEAD | {f"image_weights.{name}" for name in BLOCK_NORMS},
    "logistic, clip": HEAD,
    "logistic, mae": HEAD,
    "lppp, clip": HEAD,
    "lpclip, clip": HEAD,
    "maple, clip": {
        "text_prompts",
        *(f"couplings.{block}.{name}" for block in range(4) for name in ("weight", "bias")),
    },
    "mmrl, clip": MMRL,
    "prograd, clip": {"context"},
    "proker, clip": {"support", "values", "beta", "known"},
    "prolip, clip": {"projection"},
    "promptsrc, clip": {"text_prompts", "image_prompts"},
    "ridge, clip": HEAD,
    "ridge, mae": HEAD,
    "semobridge, clip": {"bridged", "means", "weights", "known"},
    "semobridge, trained": {"bridged", "means", "weights", "known", "inverse"},
    "sep, clip": sep(FULL_FUSION, 3, 5),
    "sep, shared fusion": sep(FULL_FUSION, 1, 1),
    "sep, low rank": sep(LOW_RANK_FUSION, 2, 2),
    "simpleshot, clip": HEAD | {"mean"},
    "simpleshot, mae": HEAD | {"mean"},
    "simpleshot, not centred": HEAD,
    "skip-tuning, clip": UPPER,
    "spt, clip": HEAD | {"prompts"},
    "spt, mae": HEAD | {"prompts"},
    "ss-text, clip": {"weight", "known"},
    "tcp, clip": {"context", "down.weight", "down.bias", "up.weight", "up.bias"},
    "tip-adapter, clip": {"keys", "labels", "alpha", "beta"},
    "tip-adapter, keys trained": {"keys", "labels", "alpha", "beta"},
    "tipx, clip": {"support", "labels", "levels", "kl_range", "cosine_range"},
    "two-stage, clip": both_towers(BLOCK_NORMS) | {"classifier", "known"},
    "vfpt, clip": HEAD | {"prompts"},
    "vfpt, mae": HEAD | {"prompts"},
    "vfpt, shallow": HEAD | {"prompts"},
    "vipamin, clip": HEAD | {"prompts"},
    "vipamin, deep": HEAD | {"prompts"},
    "vipamin, mae": HEAD | {"prompts"},
    "vit-lora, clip": HEAD | {"updates.down", "updates.up", "mean", "factor"},
    "vit-lora, mae": HEAD | {"updates.down", "updates.up", "mean", "factor"},
    "vpt, clip": HEAD | {"prompts"},
    "vpt, mae": HEAD | {"prompts"},
    "vpt, projected": HEAD | {"prompts", "projection.weight", "projection.bias"},
    "vpt-clip, clip": {"prompts"},
    "zero-shot, clip": set(),
}


@pytest.mark.parametrize("label", KEYS)
def test_an_artifact_has_the_names_that_it_always_had(label: str) -> None:
    assert set(CASES[label].build().adapter_state_dict()) == KEYS[label]


@pytest.mark.parametrize("name", ["coop", "full", "tip-adapter"])
def test_buffers_of_a_tower_are_no_part_of_an_artifact(name: str) -> None:
    plain, other = backbone("clip"), copy.deepcopy(backbone("clip"))
    for tower in (other.vision, other.text):
        tower.register_buffer("positions", torch.arange(4.0))
    assert build_method(name, other, NAMES).adapter_state_dict().keys() == (
        build_method(name, plain, NAMES).adapter_state_dict().keys()
    )
