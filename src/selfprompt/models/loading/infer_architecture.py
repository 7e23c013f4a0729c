"""Architectures inferred from the shapes in a checkpoint, for files without a name."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

NAME_VIT = "name the architecture: timm/<name>@<file>."
NAME_CLIP = "name the architecture: open_clip/<model>@<file>."
LONGEST_TEXT = 4096
"""Limit on the positions of the text side, because the attention mask grows with their square."""

Shapes = Mapping[str, tuple[int, ...]]

# widths whose published models do not have heads of 64 channels: SO400M, H, g, bigG, e
_SIXTEEN_HEADS = (1152, 1280, 1408, 1664, 1792)


def heads_of(width: int) -> int:
    """Return the number of heads of a published ViT of this width.

    Raises:
        ValueError: If the width does not determine it.
    """
    if width in _SIXTEEN_HEADS:
        return 16
    if width % 64 or not width:
        raise ValueError(f"The number of heads cannot be inferred from the width {width}; {NAME_VIT}")
    return width // 64


def vit_architecture(shapes: Shapes, layout: str) -> dict[str, Any]:
    """Infer the arguments of timm's ``VisionTransformer`` from a state dict with timm's names.

    Returns:
        The arguments, and under ``distilled`` whether it is a ``VisionTransformerDistilled``.

    Raises:
        ValueError: If the shapes do not determine all arguments.
    """
    _refuse(shapes, ("norm_pre.", "attn_pool.", "blocks.0.attn.q_", "blocks.0.gamma_1", "blocks.0.mlp.w"))
    width, _, *patch = _shape(shapes, "patch_embed.proj.weight", 4)
    registers = shapes.get("reg_token", (1, 0, width))[1]
    distilled = "dist_token" in shapes
    prefix = int("cls_token" in shapes) + registers + int(distilled)
    length = _shape(shapes, "pos_embed", 3)[1]
    grid, no_embed_class = _grid(length, prefix)
    result: dict[str, Any] = {
        "img_size": (grid * patch[0], grid * patch[1]),
        "patch_size": tuple(patch),
        "embed_dim": width,
        "depth": _count(shapes, "blocks."),
        # MoCo v3's ViT-S has 12 heads of 32 channels
        "num_heads": 12 if layout == "moco" and width == 384 else heads_of(width),
        "mlp_ratio": _shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "class_token": "cls_token" in shapes,
        "reg_tokens": registers,
        "no_embed_class": no_embed_class,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
        "global_pool": "avg" if "fc_norm.weight" in shapes or "cls_token" not in shapes else "token",
        "fc_norm": "fc_norm.weight" in shapes,
    }
    return {**result, "distilled": distilled}


def npz_architecture(shapes: Shapes) -> dict[str, Any]:
    """Infer the arguments of timm's ``VisionTransformer`` from the arrays of a JAX ViT (augreg, big_vision).

    Raises:
        ValueError: If the arrays are not a JAX ViT's, or it has no class token.
    """
    roots = [key.removesuffix("embedding/kernel") for key in shapes if key.endswith("embedding/kernel")]
    if not roots:
        raise ValueError("An .npz must hold a JAX ViT, and this one has no 'embedding/kernel'.")
    inner = {key.removeprefix(roots[0]): shape for key, shape in shapes.items() if key.startswith(roots[0])}
    if "cls" not in inner:
        raise ValueError(f"This .npz holds a ViT without a class token; {NAME_VIT}")
    height, wide, _, width = _shape(inner, "embedding/kernel", 4)
    key = "pos_embedding" if "pos_embedding" in inner else "Transformer/posembed_input/pos_embedding"
    grid, no_embed_class = _grid(_shape(inner, key, 3)[1], 1)
    stacked = inner.get("Transformer/encoderblock/LayerNorm_0/scale")
    blocks = {name: shape for name, shape in inner.items() if name.startswith("Transformer/encoderblock")}
    queries = [shape for name, shape in blocks.items() if name.endswith("query/kernel")]
    hidden = [shape for name, shape in blocks.items() if name.endswith("Dense_0/kernel")]
    if not queries or not hidden:
        raise ValueError(f"This .npz has no blocks that timm's loader knows; {NAME_VIT}")
    return {
        "img_size": (grid * height, grid * wide),
        "patch_size": (height, wide),
        "embed_dim": width,
        "depth": stacked[0] if stacked else _count(inner, "Transformer/encoderblock_", "/"),
        "num_heads": queries[0][-2],
        "mlp_ratio": hidden[0][-1] / width,
        "no_embed_class": no_embed_class,
    }


def clip_architecture(shapes: Shapes) -> dict[str, Any]:
    """Infer ``embed_dim``, ``vision_cfg`` and ``text_cfg`` of open_clip's ``CLIP`` from its state dict.

    Raises:
        ValueError: If it is another kind of CLIP (custom text side, timm image side).
    """
    if any(key not in shapes for key in ("token_embedding.weight", "visual.conv1.weight", "text_projection")):
        raise ValueError(f"Only the architecture of a plain CLIP can be inferred from arrays; {NAME_CLIP}")
    resnet = "visual.layer1.0.conv1.weight" in shapes
    vision = _resnet_architecture(shapes) if resnet else _vision_architecture(shapes)
    context, text_width = _shape(shapes, "positional_embedding", 2)
    if context > LONGEST_TEXT:
        raise ValueError(f"The text side has {context} positions, more than {LONGEST_TEXT}; {NAME_CLIP}")
    text = {
        "context_length": context,
        "vocab_size": _shape(shapes, "token_embedding.weight", 2)[0],
        "width": text_width,
        "heads": heads_of(text_width) if text_width != 1280 else 20,  # bigG's text side has heads of 64
        "layers": _count(shapes, "transformer.resblocks."),
        "mlp_ratio": _shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / text_width,
    }
    return {"embed_dim": _shape(shapes, "text_projection", 2)[1], "vision_cfg": vision, "text_cfg": text}


def _vision_architecture(shapes: Shapes) -> dict[str, Any]:
    """Return ``vision_cfg`` of open_clip's own ViT."""
    width, _, *patch = _shape(shapes, "visual.conv1.weight", 4)
    if patch[0] != patch[1]:
        raise ValueError(f"The patches are not square; {NAME_CLIP}")
    grid, no_class = _grid(_shape(shapes, "visual.positional_embedding", 2)[0], 1)
    if no_class:
        raise ValueError(f"The image side has no position for a class token; {NAME_CLIP}")
    return {
        "layers": _count(shapes, "visual.transformer.resblocks."),
        "width": width,
        "head_width": width // heads_of(width),
        "mlp_ratio": _shape(shapes, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0] / width,
        "patch_size": patch[0],
        "image_size": grid * patch[0],
        "no_ln_pre": "visual.ln_pre.weight" not in shapes,
    }


def _resnet_architecture(shapes: Shapes) -> dict[str, Any]:
    """Return ``vision_cfg`` of CLIP's ResNet, which pools a grid of a 32nd of the image."""
    grid, _ = _grid(_shape(shapes, "visual.attnpool.positional_embedding", 2)[0], 1)
    return {
        "layers": tuple(_count(shapes, f"visual.layer{stage}.") for stage in range(1, 5)),
        "width": _shape(shapes, "visual.layer1.0.conv1.weight", 4)[0],
        "image_size": 32 * grid,
    }


def _refuse(shapes: Shapes, starts: tuple[str, ...]) -> None:
    for start in starts:
        if any(key.startswith(start) for key in shapes):
            raise ValueError(f"The module of {start!r} cannot be inferred from the arrays; {NAME_VIT}")


def _shape(shapes: Shapes, key: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(key)
    if shape is None or len(shape) != dimensions:
        problem = "is missing" if shape is None else f"has shape {shape}"
        raise ValueError(f"{key!r} must be an array of {dimensions} dimensions, and it {problem}; {NAME_VIT}")
    return shape


def _count(shapes: Shapes, start: str, stop: str = ".") -> int:
    """Count the numbered modules whose names begin with ``start``."""
    return len({key.removeprefix(start).partition(stop)[0] for key in shapes if key.startswith(start)})


def _grid(length: int, prefix: int) -> tuple[int, bool]:
    """Return the side of the square of patches, and whether the prefix has no positions."""
    for count, without in ((length - prefix, False), (length, True)):
        if count > 0 and isqrt(count) ** 2 == count:
            return isqrt(count), without
    raise ValueError(f"{length} positions do not form a square of patches; {NAME_VIT}")
