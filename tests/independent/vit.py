"""A prompted ViT in PyTorch, written from the papers, and files of its results in the recorded format."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Sizes of a toy ViT and which tokens precede its patches."""

    image: tuple[int, int] = (32, 32)
    patch: int = 8
    width: int = 32
    depth: int = 3
    heads: int = 2
    mlp_ratio: float = 4
    classes: int = 4
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    prefix_positions: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    qkv_bias: bool = True
    final_norm: str = "norm"
    eps: float = 1e-6
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def patches(self) -> int:
        return (self.image[0] // self.patch) * (self.image[1] // self.patch)

    @property
    def prefix(self) -> int:
        return self.class_token + self.distilled + self.registers

    @property
    def config(self) -> dict[str, Any]:
        """The fields of ``config_json``."""
        height, width = self.image
        return {
            "img_size": height if height == width else [height, width],
            "patch_size": self.patch,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "num_classes": self.classes,
            "layer_norm_eps": self.eps,
            **self.extra,
        }


def draw_weights(layout: Layout, seed: int) -> Weights:
    """Random weights under timm's names; every gain, bias and position matters."""
    generator = torch.Generator().manual_seed(seed)
    width, hidden = layout.width, int(layout.width * layout.mlp_ratio)

    def draw(*shape: int, std: float = 0.3, mean: float = 0.0) -> Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    weights = {
        "patch_embed.proj.weight": draw(width, 3, layout.patch, layout.patch, std=0.08),
        "head.weight": draw(layout.classes, width),
        "head.bias": draw(layout.classes),
    }
    if not layout.pre_norm:  # as in timm: a norm after the embedding replaces the bias
        weights["patch_embed.proj.bias"] = draw(width)
    positions = layout.patches + (layout.prefix if layout.prefix_positions else 0)
    weights["pos_embed"] = draw(1, positions, width)
    if layout.class_token:
        weights["cls_token"] = draw(1, 1, width)
    if layout.distilled:
        weights["dist_token"] = draw(1, 1, width)
    if layout.registers:
        weights["reg_token"] = draw(1, layout.registers, width)
    norms = [layout.final_norm] + ["norm_pre"] * layout.pre_norm
    for i in range(layout.depth):
        block = f"blocks.{i}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        weights[f"{block}.attn.qkv.weight"] = draw(3 * width, width, std=1.2 * width**-0.5)
        if layout.qkv_bias:
            weights[f"{block}.attn.qkv.bias"] = draw(3 * width)
        if layout.layer_scale:
            weights |= {f"{block}.ls{k}.gamma": draw(width, mean=0.7) for k in (1, 2)}
        for name, (rows, columns) in {
            "attn.proj": (width, width),
            "mlp.fc1": (hidden, width),
            "mlp.fc2": (width, hidden),
        }.items():
            weights[f"{block}.{name}.weight"] = draw(rows, columns, std=columns**-0.5)
            weights[f"{block}.{name}.bias"] = draw(rows)
    for name in norms:
        weights |= {f"{name}.weight": draw(width, mean=1.0), f"{name}.bias": draw(width)}
    return weights


def norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    """Layer norm over the last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """x W^T + b; a missing bias is 0."""
    y = x @ weights[f"{name}.weight"].t()
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def block(x: Tensor, weights: Weights, index: int, layout: Layout, temperature: Tensor | float = 1.0) -> Tensor:
    """x + Attn(LN1 x), then x + MLP(LN2 x), with attention logits divided by a temperature."""
    name = f"blocks.{index}"
    y = linear(norm(x, weights, f"{name}.norm1", layout.eps), weights, f"{name}.attn.qkv")
    q, k, v = (part.unflatten(-1, (layout.heads, -1)).transpose(1, 2) for part in y.chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) / (layout.width / layout.heads) ** 0.5 / temperature
    mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + weights.get(f"{name}.ls1.gamma", 1) * linear(mixed, weights, f"{name}.attn.proj")
    y = linear(norm(x, weights, f"{name}.norm2", layout.eps), weights, f"{name}.mlp.fc1")
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    return x + weights.get(f"{name}.ls2.gamma", 1) * linear(y, weights, f"{name}.mlp.fc2")


def patch_embedding(images: Tensor, weights: Weights, layout: Layout) -> Tensor:
    """Patches in raster order, each multiplied by one matrix, (B, N, D)."""
    side = layout.patch
    squares = images.unfold(2, side, side).unfold(3, side, side)  # (B, 3, h, w, side, side)
    flat = squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    matrix = weights["patch_embed.proj.weight"].flatten(1)
    return flat @ matrix.t() + weights.get("patch_embed.proj.bias", 0)


def stem(images: Tensor, weights: Weights, layout: Layout) -> Tensor:
    """Return the input of block 0 without prompts, (B, prefix + N, D)."""
    patches = patch_embedding(images, weights, layout)
    names = [name for name in ("cls_token", "dist_token", "reg_token") if name in weights]
    prefix = [weights[name].expand(len(images), -1, -1) for name in names]
    if layout.prefix_positions:
        x = torch.cat([*prefix, patches], dim=1) + weights["pos_embed"]
    else:
        x = torch.cat([*prefix, patches + weights["pos_embed"]], dim=1)
    return norm(x, weights, "norm_pre", layout.eps) if layout.pre_norm else x


def pooled(x: Tensor, weights: Weights, layout: Layout, average: bool) -> Tensor:
    """Pool the mean of everything after the prefix, then the norm; or the norm, then row 0."""
    if average:
        return norm(x[:, layout.prefix :].mean(dim=1), weights, layout.final_norm, layout.eps)
    return norm(x, weights, layout.final_norm, layout.eps)[:, 0]


Edit = Callable[[int, Tensor], Tensor]


def run(
    images: Tensor, weights: Weights, layout: Layout, prompts: Tensor, *, average: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """SPT: features, and the streams entering and leaving each block; prompts are (1 or depth, P, D)."""
    x, first, count = stem(images, weights, layout), layout.prefix, prompts.shape[1]
    x = torch.cat([x[:, :first], prompts[0].expand(len(x), -1, -1), x[:, first:]], dim=1)
    entering, leaving = [], []
    for i in range(layout.depth):
        if i > 0 and len(prompts) > 1:
            block_prompts = prompts[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :first], block_prompts, x[:, first + count :]], dim=1)
        entering.append(x)
        x = block(x, weights, i, layout)
        leaving.append(x)
    return pooled(x, weights, layout, average), entering, leaving


def run_gated(
    images: Tensor,
    weights: Weights,
    layout: Layout,
    prompts: Tensor,
    gates: Tensor,
    temperatures: Tensor,
    *,
    average: bool,
) -> Tensor:
    """GateVPT's features; prompts are (1, P, D)."""
    x, first, count = stem(images, weights, layout), layout.prefix, prompts.shape[1]
    x = torch.cat([x[:, :first], prompts[0].expand(len(x), -1, -1), x[:, first:]], dim=1)
    for i in range(layout.depth):
        after = block(x, weights, i, layout, temperatures[i])
        if i < len(gates):
            share = torch.sigmoid(gates[i])
            mixed = share * after[:, first : first + count] + (1 - share) * x[:, first : first + count]
            after = torch.cat([after[:, :first], mixed, after[:, first + count :]], dim=1)
        x = after
    return pooled(x, weights, layout, average)


def collect(images: Tensor, weights: Weights, layout: Layout) -> Tensor:
    """Return the patch tokens of each layer, (depth, B, N, D): the patch embedding, then the inputs of the blocks."""
    layers = [patch_embedding(images, weights, layout)]
    x = stem(images, weights, layout)
    for i in range(layout.depth - 1):
        x = block(x, weights, i, layout)
        layers.append(x[:, layout.prefix :])
    return torch.stack(layers)


def save(path: Path, layout: Layout, weights: Weights, arrays: Mapping[str, Any], **config: Any) -> Path:
    """Write a file in the recorded format."""
    plain = {name: np.asarray(value.detach() if isinstance(value, Tensor) else value) for name, value in arrays.items()}
    stored = {f"w.{name}": tensor.numpy() for name, tensor in weights.items()}
    np.savez(path, config_json=json.dumps(layout.config | config), **stored, **plain)
    return path


def in_both_precisions(
    weights: Weights, inputs: Mapping[str, Tensor], labels: Tensor, features: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """Features, logits, loss and gradients in float32 and, with the suffix ``_f64``, in float64.

    Args:
        inputs: The trainable tensors by recorded name; each gets a gradient.
        features: Called with weights and trainable tensors of one precision.
    """
    arrays: dict[str, Tensor] = {"labels": labels, **inputs}
    for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
        cast = {name: tensor.to(dtype) for name, tensor in weights.items()}
        trainable = {name: tensor.to(dtype, copy=True).requires_grad_() for name, tensor in inputs.items()}
        head = [cast[f"head.{part}"].clone().requires_grad_() for part in ("weight", "bias")]
        pooled_features = features(cast, **trainable)
        logits = pooled_features @ head[0].t() + head[1]
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        arrays |= {f"features{suffix}": pooled_features, f"logits{suffix}": logits, f"loss{suffix}": loss}
        arrays |= {f"grad_{name}{suffix}": tensor.grad for name, tensor in trainable.items()}
        arrays |= {f"grad_head_weight{suffix}": head[0].grad, f"grad_head_bias{suffix}": head[1].grad}
    return arrays
