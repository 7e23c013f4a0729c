"""Backbones rebuilt from recorded arrays."""

import json
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from selfprompt.models.loading.by_name import Backbone, Preprocess, Tokenizer
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_vit import TimmViT
from tests.parity.report import Arrays

GOLDEN = Path(__file__).parents[1] / "golden"


def config_of(arrays: Arrays) -> dict[str, Any]:
    """Return the JSON that a file contains."""
    if "config_json" in arrays:
        return json.loads(str(arrays["config_json"]))
    return json.loads(bytes(arrays["meta_json"]).decode())


def related_file(path: Path, name: str) -> Path:
    """Another file that a recorded file refers to: in its folder, or else in ours."""
    near = path.with_name(name)
    return near if near.exists() else GOLDEN / name


def vit_weights(arrays: Arrays) -> dict[str, np.ndarray]:
    """Return the ``w.*`` arrays of a file, or of ``spt_weights.npz`` in its folder or in ``tests/golden``."""
    weights = arrays.group("w.")
    return weights or Arrays(related_file(arrays.path, "spt_weights.npz")).group("w.")


def vit_backbone(weights: Mapping[str, np.ndarray], config: Mapping[str, Any], dtype: torch.dtype) -> Backbone:
    """Return a timm ViT with the recorded sizes and weights; the arrays present determine the token layout."""
    patch, size = config["patch_size"], config["img_size"]
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    class_token = "cls_token" in weights
    distilled = "dist_token" in weights
    height, width = (size, size) if isinstance(size, int) else size
    patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
    patches = (height // patch_height) * (width // patch_width)
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": config["embed_dim"],
        "depth": config["depth"],
        "num_heads": config["num_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4),
        "num_classes": 0,  # methods add their head
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "pre_norm": "norm_pre.weight" in weights,
        "class_token": class_token,
        "reg_tokens": registers,
        "no_embed_class": weights["pos_embed"].shape[1] == patches,
        "global_pool": "token" if class_token else "avg",
        "fc_norm": "fc_norm.weight" in weights,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in weights else None,
    }
    eps = config.get("layer_norm_eps")
    if eps:
        options["norm_layer"] = partial(torch.nn.LayerNorm, eps=eps)
    if distilled:
        for name in ("class_token", "reg_tokens", "no_embed_class", "global_pool", "fc_norm"):
            options.pop(name)
    vit = (VisionTransformerDistilled if distilled else VisionTransformer)(**options)
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    vit.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("head")})
    tower = TimmViT(vit.to(dtype))
    preprocess = Preprocess(height, (0.5,) * 3, (0.5,) * 3)
    return Backbone("recorded", tower, None, None, 1.0, preprocess)


def seeded_weights(names: Sequence[str], shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return the full-size weights that a recipe describes (golden README, spt_vitb16_mae_deep)."""
    weights = {}
    for name in names:
        shape = shapes[name]
        z = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
            z = 1 + 0.15 * z
        elif "norm" in name and name.endswith(".bias"):
            z = 0.1 * z
        elif name == "cls_token":
            z = 0.5 * z
        elif name == "pos_embed":
            z = 0.3 * z
        elif name == "patch_embed.proj.weight" or name == "head.weight":
            z = z / np.sqrt(768)
        elif name.endswith(".bias"):
            z = 0.05 * z
        else:
            z = 1.2 * z / np.sqrt(shape[1])
        weights[name] = z.astype(np.float32)
    return weights


class RecordedTokenizer:
    """A tokenizer of CLIP's kind that knows the recorded texts.

    Args:
        words: Ids of each text, without start and end.
        row: A recorded text, from start to padding; the end has the largest id.
    """

    def __init__(self, words: Mapping[str, Sequence[int]], row: torch.Tensor) -> None:
        self.words, self.start, self.end, self.context = words, int(row[0]), int(row.max()), len(row)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        ids = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            found = [self.start, *self.encode(text), self.end]
            row[: len(found)] = torch.tensor(found)
        return ids

    def encode(self, text: str) -> list[int]:
        return list(self.words[text])


def words_of(row: torch.Tensor) -> list[int]:
    """Return the ids of a recorded text of CLIP's kind between start and end."""
    return row[1 : row.argmax()].tolist()


def clip_backbone(weights: Mapping[str, np.ndarray], meta: Mapping[str, Any], tokenizer: Tokenizer) -> Backbone:
    """Return an OpenAI CLIP with the recorded sizes and weights, and a tokenizer that knows the recorded texts."""
    clip = open_clip.model.CLIP(
        meta["embed"],
        open_clip.model.CLIPVisionCfg(
            image_size=meta["res"],
            layers=meta["vl"],
            width=meta["vw"],
            patch_size=meta["patch"],
            head_width=64,
        ),
        open_clip.model.CLIPTextCfg(
            context_length=meta["ctxlen"],
            vocab_size=meta["vocab"],
            width=meta["tw"],
            heads=max(1, meta["tw"] // 64),
            layers=meta["tl"],
        ),
        quick_gelu=True,
    )
    clip.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()}, strict=True)
    vision, text = clip_towers(clip)
    preprocess = Preprocess(meta["res"], (0.5,) * 3, (0.5,) * 3)
    return Backbone("recorded", vision, text, tokenizer, float(np.exp(weights["logit_scale"])), preprocess)
