"""timm's plain VisionTransformer as a tower."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from timm.layers import Attention, Mlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from selfprompt.models.block import (
    BlockParts,
    Map,
    Weights,
    activation_name,
    check_names,
    layer_weights,
    with_weights,
)
from selfprompt.models.image_size import check_multiple, resampled
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import VisionTower

_REASONS = {
    "beit": "its attention adds a relative position bias for a fixed number of tokens",
    "swin": "its attention works in windows of the image, to which a prompt does not belong",
    "naflexvit": "its blocks need masks for images of different sizes",
    "vision_transformer_relpos": "its attention adds a relative position bias for a fixed number of tokens",
    "vision_transformer_sam": "its attention works in windows of the image, to which a prompt does not belong",
}


def why_unsupported(module: str) -> str:
    """Return why models of a timm module ("timm.models.eva") cannot be towers, as a clause."""
    family = module.rpartition(".")[2]
    for start, reason in _REASONS.items():
        if family.startswith(start):
            return reason
    return "its forward is not a plain sequence of blocks over tokens"


class TimmViT(VisionTower):
    """A plain timm ``VisionTransformer`` or ``VisionTransformerDistilled`` as a tower.

    ``embed`` includes everything before block 0, also ``norm_pre``; prompts enter after it.

    Attributes:
        bilinear_positions: Whether another image size resamples the positions bilinearly (NaFlex), not bicubically.

    Args:
        vit: The model, frozen in place. Its classifier is not used.
        head: Applied to the pooled features; for a ViT that is the image side of a CLIP.

    Raises:
        TypeError: If the model is another class (BEiT, Swin, ...).
        ValueError: If it has no pooling or no fixed image size.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]] = (VisionTransformer, VisionTransformerDistilled)

    def __init__(self, vit: Any, head: nn.Module | None = None) -> None:
        super().__init__()
        if type(vit) not in self.kinds:
            reason = why_unsupported(type(vit).__module__)
            raise TypeError(
                f"{type(vit).__name__} is not supported: {reason}. Supported: plain timm VisionTransformer and Eva."
            )
        if not vit.global_pool:
            raise ValueError("global_pool must not be empty: the tower needs one vector per image.")
        if vit.patch_embed.img_size is None:
            raise ValueError("img_size must be given: the tower needs the size of its images.")
        self.vit: VisionTransformer = vit
        self.head = nn.Identity() if head is None else head
        self.bilinear_positions = False
        self.depth = len(vit.blocks)
        self.width = vit.embed_dim
        self.image_size = tuple(vit.patch_embed.img_size)
        self.patch_size = tuple(vit.patch_embed.feat_ratio(as_scalar=False))
        self.prefix = vit.num_prefix_tokens
        self.class_token = vit.cls_token is not None
        self.freeze()
        self.unprojected_features = vit.num_features
        self.features = self.head(next(vit.parameters()).new_zeros(1, self.width)).shape[-1]

    def patches(self, images: Tensor) -> Tensor:
        """Embed the patches alone, (B, N, D)."""
        x = self.vit.patch_embed(images)
        result: Tensor = x.flatten(1, 2) if x.ndim == 4 else x  # (B, h, w, D) with dynamic_img_size
        return result

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed patches, add prefix and positions, apply ``norm_pre``: (B, 3, H, W) -> (B, prefix + N, D)."""
        x = self.vit._pos_embed(self.vit.patch_embed(inputs))
        return Tokens(self.vit.norm_pre(self.vit.patch_drop(x)), self.prefix)

    def set_image_size(self, size: int) -> str:
        """Resample the positions as timm does, or bilinearly for a model that was trained so."""
        check_multiple(size, self.patch_size[0], "the patch size of this backbone")
        positions, grid = self.vit.pos_embed, self.vit.patch_embed.grid_size
        self.vit.set_input_size(img_size=(size, size))
        if self.bilinear_positions and positions is not None:
            values = resampled(positions[0], grid, self.vit.patch_embed.grid_size, "bilinear")
            self.vit.pos_embed = nn.Parameter(values[None], requires_grad=False)
        self.image_size = (size, size)
        return ""

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts | None:
        """Return the parts of a block, if it is timm's plain ``Block`` with ``Attention``."""
        return block_parts(self.vit.blocks[index], weights)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block that can be replaced, if it is timm's plain ``Block`` with ``Attention``."""
        block = self.vit.blocks[index]
        if not _is_plain(block):
            raise TypeError(f"Changing a block {self.requirement(index)}; use a method that leaves it alone.")
        return layer_weights(block_layers(block))

    def upstream_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run upstream's own block; images have no mask."""
        return cast(Tensor, self.vit.blocks[index](x))

    def requirement(self, index: int) -> str:
        """Return the end of the message that refuses a block."""
        block = self.vit.blocks[index]
        kinds = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        return f"needs timm's plain Block with Attention, got {kinds}"

    @property
    def native_prefix(self) -> bool:
        """Whether only class tokens are pooled."""
        return self.vit.global_pool == "token" and self.vit.attn_pool is None

    def _pool_native(self, x: Tensor) -> Tensor:
        return self.vit.forward_head(self.vit.norm(x), pre_logits=True)

    def _pool_mean(self, rows: Tensor) -> Tensor:
        # one of norm and fc_norm is the identity
        return cast(Tensor, self.vit.fc_norm(self.vit.norm(rows.mean(dim=1))))

    def project(self, pooled: Tensor) -> Tensor:
        """Apply the head."""
        return cast(Tensor, self.head(pooled))

    def projection(self) -> Tensor:
        """Return the matrix of the head, (U, E), if it is linear without a bias; the identity without a head."""
        layers = [layer for layer in self.head.modules() if not list(layer.children())]
        layers = [layer for layer in layers if not isinstance(layer, (nn.Identity, nn.Dropout, nn.Sequential))]
        if not layers:
            return torch.eye(self.features, out=next(self.parameters()).new_empty(0))
        if len(layers) != 1 or not isinstance(layers[0], nn.Linear) or layers[0].bias is not None:
            return super().projection()
        return layers[0].weight.t()

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values."""
        first = self.vit.blocks[0]
        attention, mlp = getattr(first, "attn", None), getattr(first, "mlp", None)
        return {
            "family": "timm",
            "class": type(self.vit).__name__,
            "block": type(first).__name__,
            "image_size": list(self.image_size),
            "patch_size": list(self.patch_size),
            "depth": self.depth,
            "width": self.width,
            "heads": getattr(attention, "num_heads", None),
            "activation": activation_name(getattr(mlp, "act", None)),
            "norm_eps": getattr(getattr(first, "norm1", None), "eps", None),
            "prefix": self.prefix,
            "pool": self.vit.global_pool,
        }


def block_parts(block: Any, weights: Weights | None = None) -> BlockParts | None:
    """Return the parts of timm's plain block; None for other kinds. Dropout and drop path are off in a tower."""
    if not _is_plain(block):
        return None
    attn = block.attn
    if weights is not None:
        check_names(weights, layer_weights(block_layers(block)))
    norm1, norm2 = with_weights(block.norm1, "norm1", weights), with_weights(block.norm2, "norm2", weights)
    project, mlp = attention_output(attn, weights), feed_forward(block.mlp, weights)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    if weights is not None:
        weight, bias = weights.get("qkv.weight", weight), weights.get("qkv.bias", bias)
    return BlockParts(
        norm1,
        weight,
        bias,
        attn.num_heads,
        attn.q_norm,
        attn.k_norm,
        out_proj=lambda y, queries: block.ls1(project(y, queries)),
        mlp=lambda x: block.ls2(mlp(norm2(x))),
    )


def attention_output(attn: Any, weights: Weights | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what follows the heads of one of timm's attentions: norm, gate by the normed input, projection."""
    out = with_weights(attn.proj, "out", weights)

    def run(y: Tensor, queries: Tensor) -> Tensor:
        y = attn.norm(y)
        return out(y if attn.gate is None else y * attn.gate(queries).sigmoid())

    return run


def feed_forward(mlp: Any, weights: Weights | None) -> Map:
    """Return one of timm's MLPs; the plain one with the weights that are given."""
    if weights is None or type(mlp) is not Mlp:
        return cast(Map, mlp)
    up, down = with_weights(mlp.fc1, "up", weights), with_weights(mlp.fc2, "down", weights)
    return lambda x: down(mlp.norm(mlp.act(up(x))))


def block_layers(block: Any) -> dict[str, nn.Module]:
    """Return the layers of a plain block by the names of ``Weights``; the MLP only if it is plain, too."""
    own = {"norm1": block.norm1, "qkv": block.attn.qkv, "out": block.attn.proj, "norm2": block.norm2}
    return own | ({"up": block.mlp.fc1, "down": block.mlp.fc2} if type(block.mlp) is Mlp else {})


def _is_plain(block: nn.Module) -> bool:
    """Return whether a block is timm's plain one, whose attention is the softmax of scaled products."""
    return type(block) is Block and type(block.attn) is Attention
