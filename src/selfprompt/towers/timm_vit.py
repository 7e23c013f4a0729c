"""timm's plain VisionTransformer as a tower; the one place that touches timm's private names."""

from typing import cast

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from selfprompt.tokens import Tokens
from selfprompt.towers.base import Update, VisionTower

_REASONS = {
    "eva": "its blocks need rotary embeddings, which must skip the prompts (EVA, EVA-02, DINOv3)",
    "beit": "its attention adds a relative position bias for a fixed number of tokens",
    "swin": "its attention works in windows of the image, where a prompt has no place",
    "naflexvit": "its blocks need masks for images of different sizes",
    "vision_transformer_relpos": "its attention adds a relative position bias for a fixed number of tokens",
    "vision_transformer_sam": "its attention works in windows of the image, where a prompt has no place",
}


def why_unsupported(module: str) -> str:
    """Say why models of a timm module cannot be towers, ``"timm.models.eva"`` -> half a sentence."""
    family = module.rpartition(".")[2]
    for start, reason in _REASONS.items():
        if family.startswith(start):
            return reason
    return "its forward is not a plain sequence of blocks over tokens"


class TimmViT(VisionTower):
    """A plain timm ``VisionTransformer`` or ``VisionTransformerDistilled`` as a tower.

    Everything before block 0, ``norm_pre`` included, happens in ``embed``: prompts go in behind it.

    Args:
        vit: The model; frozen in place. Its classifier is not used.
        head: Applied to the pooled features, for a ViT that is the image side of a CLIP.

    Raises:
        TypeError: If the model is another class (EVA, BEiT, Swin, ...).
        ValueError: If it has no pooling or no fixed image size.
    """

    def __init__(self, vit: VisionTransformer, head: nn.Module | None = None) -> None:
        super().__init__()
        if type(vit) not in (VisionTransformer, VisionTransformerDistilled):
            reason = why_unsupported(type(vit).__module__)
            raise TypeError(
                f"{type(vit).__name__} is not supported: {reason}. Supported: plain timm VisionTransformer."
            )
        if not vit.global_pool:
            raise ValueError("global_pool must not be empty: the tower needs one vector an image.")
        if vit.patch_embed.img_size is None:
            raise ValueError("img_size must be given: the tower needs the size of its images.")
        self.vit = vit
        self.head = nn.Identity() if head is None else head
        self.depth = len(vit.blocks)
        self.width = vit.embed_dim
        self.image_size = tuple(vit.patch_embed.img_size)
        self.patch_size = tuple(vit.patch_embed.feat_ratio(as_scalar=False))
        self.prefix = vit.num_prefix_tokens
        self.class_token = vit.cls_token is not None
        self.freeze()
        self.features = self.head(next(vit.parameters()).new_zeros(1, self.width)).shape[-1]

    def patches(self, images: Tensor) -> Tensor:
        """Patch embedding alone, (B, N, D)."""
        x = self.vit.patch_embed(images)
        return x.flatten(1, 2) if x.ndim == 4 else x  # (B, h, w, D) with dynamic_img_size

    def embed(self, inputs: Tensor) -> Tokens:
        """Patches, prefix, positions and ``norm_pre``: (B, 3, H, W) -> (B, prefix + N, D)."""
        x = self.vit._pos_embed(self.vit.patch_embed(inputs))
        return Tokens(self.vit.norm_pre(self.vit.patch_drop(x)), self.prefix)

    def block(
        self, index: int, tokens: Tokens, *, temperature: Tensor | None = None, update: Update | None = None
    ) -> Tokens:
        """Run one block; a temperature or an update needs the plain ``Block`` with ``Attention``."""
        layer = self.vit.blocks[index]
        if temperature is None and update is None:
            return tokens._replace(x=layer(tokens.x))
        return tokens._replace(x=_changed(layer, tokens.x, temperature, update))

    def attention(
        self, index: int, tokens: Tokens, *, temperature: Tensor | None = None, update: Update | None = None
    ) -> Tensor:
        """Attention weights, (B, heads, L, L), of the plain ``Block`` with ``Attention``."""
        return attention_weights(self.vit.blocks[index], tokens.x, temperature, update)

    def _native(self, x: Tensor) -> Tensor:
        return self.head(self.vit.forward_head(self.vit.norm(x), pre_logits=True))

    def _finish(self, rows: Tensor) -> Tensor:
        # of norm and fc_norm one is real, the other the identity
        return self.head(self.vit.fc_norm(self.vit.norm(rows.mean(dim=1))))

    def facts(self) -> dict[str, object]:
        """What was built, beside the weights."""
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
            "activation": type(getattr(mlp, "act", None)).__name__,
            "norm_eps": getattr(getattr(first, "norm1", None), "eps", None),
            "prefix": self.prefix,
            "pool": self.vit.global_pool,
        }


def attention_weights(
    layer: nn.Module, x: Tensor, temperature: Tensor | None = None, update: Update | None = None
) -> Tensor:
    """Attention weights, (B, heads, L, L), of a plain block from what enters it, (B, L, D).

    Raises:
        TypeError: If it is another kind of block.
    """
    block, attn = _plain(layer, "Looking at")
    q, k, _ = _queries_keys_values(attn, block.norm1(x), temperature, update)
    return (q @ k.transpose(-2, -1) * attn.scale).softmax(dim=-1)


def _plain(layer: nn.Module, what: str) -> tuple[Block, Attention]:
    """The layer and its attention, if they are timm's plain ones."""
    if type(layer) is not Block or type(layer.attn) is not Attention:
        raise TypeError(
            f"{what} the attention needs timm's plain Block with Attention, got {type(layer).__name__} "
            f"with {type(getattr(layer, 'attn', None)).__name__}; use a method that leaves it alone."
        )
    return layer, layer.attn


def _changed(layer: nn.Module, x: Tensor, temperature: Tensor | None, update: Update | None) -> Tensor:
    """A plain block whose attention logits are divided by ``temperature``, with something added to q, k and v."""
    block, attn = _plain(layer, "Changing")
    x = x + block.drop_path1(block.ls1(_attend(attn, block.norm1(x), temperature, update)))
    return cast(Tensor, x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def _attend(attn: Attention, x: Tensor, temperature: Tensor | None, update: Update | None) -> Tensor:
    """timm's ``Attention.forward`` with q / temperature and an update of q, k and v; dropout is off in a tower."""
    y = F.scaled_dot_product_attention(*_queries_keys_values(attn, x, temperature, update))
    y = attn.norm(y.transpose(1, 2).reshape(*x.shape[:2], attn.attn_dim))
    if attn.gate is not None:
        y = y * attn.gate(x).sigmoid()
    return cast(Tensor, attn.proj(y))


def _queries_keys_values(
    attn: Attention, x: Tensor, temperature: Tensor | None, update: Update | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries divided by ``temperature``, keys and values, (B, heads, L, D / heads) each, of normed tokens."""
    batch, length, _ = x.shape
    qkv = attn.qkv(x)
    if update is not None:
        qkv = qkv + (F.linear(x, update) if isinstance(update, Tensor) else update(x))
    qkv = qkv.reshape(batch, length, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    q = attn.q_norm(q)
    if temperature is not None:
        q = q / temperature.to(q.dtype)
    return q, attn.k_norm(k), v
