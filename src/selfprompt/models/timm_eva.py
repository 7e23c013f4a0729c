"""timm's Eva as a tower: EVA, EVA-02, their CLIPs, Perception Encoder, ROPE-ViT, DINOv3 and LingBot."""

import hashlib
from typing import Any, ClassVar, cast

import torch
from timm.layers import AttentionRope, RotaryEmbeddingDinoV3, get_mixed_freqs
from timm.models.eva import Eva, EvaAttention, EvaBlockPostNorm
from torch import Tensor, nn

from selfprompt.models.block import BlockParts, Map, Rotary, Weights, check_names, layer_weights, with_weights
from selfprompt.models.timm_vit import TimmViT, attention_output, block_layers, feed_forward
from selfprompt.models.tokens import Tokens


def timm_tower(vit: Any, head: nn.Module | None = None) -> TimmViT:
    """Wrap a plain ViT or an Eva of timm; arguments and errors as for ``TimmViT``."""
    return TimmEva(vit, head) if isinstance(vit, Eva) else TimmViT(vit, head)


def has_blocks(model: nn.Module) -> bool:
    """Return whether a model of timm is a plain ViT or an Eva, so that prompts can enter its blocks."""
    return type(model) in (*TimmViT.kinds, *TimmEva.kinds)


def is_dinov3(vit: Any) -> bool:
    """Return whether a model of timm has DINOv3's architecture, whose class token is the published feature."""
    return isinstance(getattr(vit, "rope", None), RotaryEmbeddingDinoV3) and vit.cls_token is not None


class TimmEva(TimmViT):
    """timm's ``Eva`` as a tower; queries and keys of the patches are rotated by their positions.

    Prompts enter between the prefix and the patches, as in a plain ViT. Like the prefix they have no position and are
    not rotated.

    Args:
        vit: The model, frozen in place. Its classifier is not used.
        head: Applied to the pooled features; for a ViT that is the image side of a CLIP.

    Raises:
        TypeError: If the model is another class, or several of its heads share their keys.
        ValueError: If it has no pooling or no fixed image size.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (Eva,)
    table: Tensor | None

    def __init__(self, vit: Eva, head: nn.Module | None = None) -> None:
        super().__init__(vit, head)
        if any(getattr(block.attn, "num_kv_groups", 1) > 1 for block in vit.blocks):
            raise TypeError("Eva is not supported with keys that several heads share (Sapiens2); use DINOv3.")
        self.register_buffer("table", _fixed_table(vit), persistent=False)  # (1, N, 2 D / heads)

    def set_image_size(self, size: int) -> str:
        """Resample the absolute positions, if there are any, and compute the rotary ones for the new grid."""
        old = self.image_size[0]
        super().set_image_size(size)
        self.table = _fixed_table(self.vit)
        if not cast(Any, self.vit).rope_mixed or size <= old:
            return ""
        return f"rotary positions beyond the {old} pixels of the pretraining are extrapolated"

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed patches, add prefix and positions, apply ``norm_pre``: (B, 3, H, W) -> (B, prefix + N, D).

        Raises:
            ValueError: If the images have another size than the table of rotations.
        """
        if tuple(inputs.shape[-2:]) != self.image_size:
            sizes = [" x ".join(map(str, size)) for size in (self.image_size, inputs.shape[-2:])]
            raise ValueError(f"Images must have {sizes[0]} pixels, got {sizes[1]}.")
        x, _ = self.vit._pos_embed(self.vit.patch_embed(inputs))
        return Tokens(self.vit.norm_pre(x), self.prefix)

    def rotary(self, index: int) -> Rotary | None:
        """Return the rotation of a block; in the "mixed" kind each block and head has its own, with learned angles."""
        vit: Any = self.vit
        rope, half = vit.rope, vit.blocks[index].attn.rotate_half
        if vit.rope_mixed:
            return Rotary(get_mixed_freqs(rope.freqs[:, index], rope.t_x, rope.t_y), half)
        return None if self.table is None else Rotary(self.table, half)

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts:
        """Return the parts of a block."""
        return block_parts(self.vit.blocks[index], self.rotary(index), weights)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block that can be replaced."""
        return block_weights(self.vit.blocks[index])

    def upstream_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Raise an error: timm's own block would rotate prompts."""
        raise NotImplementedError("Blocks of an Eva run by their parts.")

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values, with all that the weights do not show."""
        vit: Any = self.vit
        attn, pool, rope = vit.blocks[0].attn, vit.attn_pool, vit.rope
        return {
            **super().facts(),
            "attention": type(attn).__name__,
            "mlp": type(vit.blocks[0].mlp).__name__,
            "pool_heads": None if pool is None else pool.num_heads,
            "rotary": None if rope is None else {"half": attn.rotate_half, **_rotary_facts(rope, self.table)},
        }


def _fixed_table(vit: Any) -> Tensor | None:
    """Return the rotations of the patches of all blocks; None if there are none, or each block has its own."""
    if vit.rope is None or vit.rope_mixed:
        return None
    table: Tensor = vit.rope.get_embed(shape=list(vit.patch_embed.grid_size))
    return table[None]


def block_parts(block: Any, rotary: Rotary | None, weights: Weights | None = None) -> BlockParts:
    """Return the parts of an ``EvaBlock`` or ``EvaBlockPostNorm``; the latter's norms follow attention and MLP."""
    attn = block.attn
    weight, bias = stacked_projections(attn)
    if weights is not None:
        check_names(weights, block_weights(block))
        weight, bias = weights.get("qkv.weight", weight), weights.get("qkv.bias", bias)
    norm1, norm2 = with_weights(block.norm1, "norm1", weights), with_weights(block.norm2, "norm2", weights)
    project, mlp = attention_output(attn, weights), feed_forward(block.mlp, weights)
    after = isinstance(block, EvaBlockPostNorm)

    def out_proj(y: Tensor, queries: Tensor) -> Tensor:
        y = project(y, queries)
        return norm1(y) if after else _scaled(y, block.gamma_1)

    def run_mlp(x: Tensor) -> Tensor:
        return norm2(mlp(x)) if after else _scaled(mlp(norm2(x)), block.gamma_2)

    norm: Map = nn.Identity() if after else norm1
    return BlockParts(norm, weight, bias, attn.num_heads, attn.q_norm, attn.k_norm, out_proj, run_mlp, rotary)


def block_weights(block: Any) -> dict[str, Tensor]:
    """Return the weights and biases of a block that can be replaced; q, k and v stacked, as in ``Weights``."""
    weight, bias = stacked_projections(block.attn)
    qkv = {"qkv.weight": weight} | ({} if bias is None else {"qkv.bias": bias})
    return qkv | layer_weights({name: layer for name, layer in block_layers(block).items() if name != "qkv"})


def stacked_projections(attn: EvaAttention | AttentionRope) -> tuple[Tensor, Tensor | None]:
    """Return the stacked projection to q, k and v, (3A, D), and its bias, (3A,).

    Where only some of the three have a bias (q and v of EVA), the others get zeros; None if none has one.
    """
    if attn.qkv is not None and attn.qkv.bias is not None:
        return attn.qkv.weight, attn.qkv.bias
    if attn.qkv is not None:
        weight, biases = attn.qkv.weight, [getattr(attn, f"{part}_bias", None) for part in "qkv"]
    else:
        layers = [attn.get_submodule(f"{part}_proj") for part in "qkv"]
        weight, biases = torch.cat([layer.weight for layer in layers]), [layer.bias for layer in layers]
    if all(bias is None for bias in biases):
        return weight, None
    zeros = weight.new_zeros(len(weight) // 3)
    return weight, torch.cat([zeros if bias is None else bias for bias in biases])


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x


def _rotary_facts(rope: Any, table: Tensor | None) -> dict[str, object]:
    """Return what determines the angles of the patches and is no weight."""
    reference, temperature = getattr(rope, "ref_feat_shape", None), getattr(rope, "temperature", None)
    return {
        "kind": type(rope).__name__,
        "temperature": None if temperature is None else float(temperature),
        "grid_offset": float(getattr(rope, "grid_offset", 0)),
        "grid_indexing": getattr(rope, "grid_indexing", None),
        "reference_grid": None if reference is None else list(reference),
        "table": _rounded_hash(torch.stack([rope.t_x, rope.t_y]) if table is None else table),
    }


def _rounded_hash(table: Tensor) -> str:
    """Return a hash of computed numbers that ignores their last digits, in which processors differ.

    Rounded to quarters, many numbers still tell two tables apart. The shift keeps those of timm's models at least 1e-5
    from where they round.
    """
    quarters = (4 * table.detach().double().cpu() + 0.37).round().to(torch.int16)
    return hashlib.sha256(quarters.numpy().tobytes()).hexdigest()[:16]
