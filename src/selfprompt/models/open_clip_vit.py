"""open_clip's CLIP and CustomTextCLIP as two towers; the only module that uses open_clip's private names.

open_clip is imported only where its classes are distinguished; the embedded CLIP has the same names and works without.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.block import (
    BlockParts,
    Weights,
    activation_name,
    check_names,
    layer_weights,
    pick,
    quick_gelu,
    with_weights,
)
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.hf_text import HfText, HfTextModel
from selfprompt.models.image_size import check_multiple, resampled
from selfprompt.models.text_layout import TextFormat, TextLayout
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Pooling, Prompter, TextTower, VisionTower

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import VisionTransformer

    from selfprompt.models.embedded_clip import EmbeddedClip, EmbeddedVision


def clip_towers(
    model: "CLIP | CustomTextCLIP | CoCa", text_format: TextFormat | None = None
) -> tuple[VisionTower, TextTower]:
    """Wrap an open_clip model in two towers that share its weights; freezes it in place.

    Args:
        model: The model.
        text_format: What its tokenizer puts around the words of a text; None for CLIP's tokenizer.

    Raises:
        TypeError: If prompts cannot enter its text side.
    """
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    if type(model) is CoCa:
        return vision_tower(model.visual), CoCaText(model, text_format)
    if type(model) not in (CLIP, CustomTextCLIP):
        raise TypeError(f"{type(model).__name__} is not supported. Supported: CLIP, CustomTextCLIP and CoCa.")
    text = getattr(model, "text", None)
    if isinstance(text, HfTextModel):
        return vision_tower(model.visual), HfText(text, text_format)
    return vision_tower(model.visual), OpenClipText(model, text_format)


def vision_tower(visual: nn.Module) -> VisionTower:
    """Wrap an open_clip image side: open_clip's own ViT, or a plain ViT or Eva of timm inside ``TimmModel``.

    Of all others (``ModifiedResNet``, a timm ConvNeXt, ...) only the features are known.

    Raises:
        TypeError: If the image side does not give one vector per image.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    from selfprompt.models.timm_eva import has_blocks, timm_tower

    if type(visual) is VisionTransformer:
        return OpenClipVision(visual)
    trunk: Any = getattr(visual, "trunk", None)
    if type(visual) is TimmModel and has_blocks(trunk):
        return timm_tower(
            trunk, head=nn.Sequential(getattr(trunk, "head", nn.Identity()), cast(nn.Module, visual.head))
        )
    size: Any = visual.image_size  # a number or a pair
    return FeatureTower(visual, (size, size) if isinstance(size, int) else tuple(size))


class OpenClipVision(VisionTower):
    """open_clip's ``VisionTransformer`` as a tower; prompts enter after the position embedding, before ``ln_pre``.

    Args:
        visual: The image side of a CLIP; frozen in place.

    Raises:
        TypeError: If it returns one vector per token instead of one per image.
    """

    def __init__(self, visual: "VisionTransformer | EmbeddedVision") -> None:
        super().__init__()
        if visual.pool_type == "none":
            raise TypeError("pool_type 'none' is not supported: the tower needs one vector per image.")
        self.visual = visual
        self.depth = len(visual.transformer.resblocks)
        self.width = visual.conv1.out_channels
        self.unprojected_features = visual.ln_post.normalized_shape[0]
        self.features = visual.output_dim if visual.proj is not None else self.unprojected_features
        self.image_size = tuple(visual.image_size)
        self.patch_size = tuple(visual.patch_size)
        self.prefix = 1
        self.class_token = True
        self.freeze()

    def set_image_size(self, size: int) -> str:
        """Resample the positions as open_clip does."""
        check_multiple(size, self.patch_size[0], "the patch size of this backbone")
        old, new = (
            (height // self.patch_size[0], width // self.patch_size[1])
            for height, width in (self.image_size, (size, size))
        )
        positions = resampled(self.visual.positional_embedding.detach(), old, new)
        self.visual.positional_embedding = nn.Parameter(positions, requires_grad=False)
        self.image_size = self.visual.image_size = (size, size)
        return ""

    def patches(self, images: Tensor) -> Tensor:
        """Embed the patches alone, (B, N, D)."""
        return cast(Tensor, self.visual.conv1(images).flatten(2).transpose(1, 2))  # (B, D, h, w) -> (B, N, D)

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed patches, add class token and positions: (B, 3, H, W) -> (B, 1 + N, D)."""
        x = self.patches(inputs)
        first = self.visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + self.visual.positional_embedding.to(x.dtype)
        return Tokens(x, self.prefix)

    def enter(self, tokens: Tokens) -> Tokens:
        """Apply ``ln_pre``; upstream's patch dropout does nothing in eval mode."""
        return tokens._replace(x=self.visual.ln_pre(tokens.x))

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts | None:
        """Return the parts of a block, if its attention is the softmax of scaled products."""
        return block_parts(self.visual.transformer.resblocks[index], weights)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block that can be replaced, if its attention is the softmax of scaled products."""
        block = self.visual.transformer.resblocks[index]
        if not _scaled_products(block):
            raise TypeError(f"Changing a block {self.requirement(index)}; use a method that leaves it alone.")
        return block_weights(block)

    def upstream_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run upstream's own block."""
        return cast(Tensor, self.visual.transformer.resblocks[index](x, attn_mask=mask))

    def requirement(self, index: int) -> str:
        """Return the end of the message that refuses a block."""
        return _requirement(self.visual.transformer.resblocks[index])

    @property
    def native_prefix(self) -> bool:
        """Whether only the class token is pooled."""
        return self.visual.pool_type == "tok" and self.visual.attn_pool is None

    def _pool_native(self, x: Tensor) -> Tensor:
        return self.visual._pool(x)[0]

    def check_pooling(self, pooling: Pooling) -> None:
        """Raise ValueError for any pooling but upstream's where attention pools."""
        if self.visual.attn_pool is not None and pooling not in ("native", "unprojected"):
            raise ValueError("A CLIP with an attentional pooler has only the pooling 'native'; use another backbone.")
        super().check_pooling(pooling)

    def _pool_mean(self, rows: Tensor) -> Tensor:
        if self.visual.final_ln_after_pool:
            return cast(Tensor, self.visual.ln_post(rows.mean(dim=1)))
        return cast(Tensor, self.visual.ln_post(rows).mean(dim=1))

    def project(self, pooled: Tensor) -> Tensor:
        """Apply the projection, if there is one."""
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def projection(self) -> Tensor:
        """Return the projection, (U, E); the identity if there is none."""
        if self.visual.proj is None:
            return torch.eye(self.features, out=self.visual.conv1.weight.new_empty(0))
        return self.visual.proj

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values."""
        return {
            "family": "open_clip",
            **_block_facts(self.visual.transformer),
            "image_size": list(self.image_size),
            "patch_size": list(self.patch_size),
            "pool": self.visual.pool_type,
            "final_ln_after_pool": self.visual.final_ln_after_pool,
        }


class OpenClipText(TextTower):
    """The text side of an open_clip ``CLIP`` or ``CustomTextCLIP`` as a tower; shares the model's modules.

    Attributes:
        appends_class_token: Whether the token that is pooled stands behind each text.

    Args:
        model: The model, whose text side is frozen in place.
        text_format: What its tokenizer puts around the words of a text; None for CLIP's tokenizer.

    Raises:
        TypeError: If the text side is not open_clip's plain ``TextTransformer``.
        ValueError: If it pools another token than that with which the tokenizer ends a text.
    """

    appends_class_token = False

    def __init__(
        self, model: "CLIP | CustomTextCLIP | CoCa | EmbeddedClip", text_format: TextFormat | None = None
    ) -> None:
        super().__init__()
        text: Any = getattr(model, "text", model)  # CLIP has no module for its text side
        if text is not model:
            _check_text(text, self.appends_class_token)
        self.token_embedding = text.token_embedding
        self.positional_embedding = text.positional_embedding
        self.transformer: Any = text.transformer
        self.ln_final = text.ln_final
        self.text_projection = text.text_projection
        self.pool_type: str = model.text_pool_type if text is model else text.pool_type
        if self.appends_class_token:
            self.pool_type = "last"
        self.eos: int = model.text_eos_id if text is model else text.eos_id
        self.mask: Tensor | None
        self.register_buffer("mask", text.attn_mask, persistent=False)
        if self.pool_type == "none":
            raise TypeError("pool_type 'none' is not supported: the tower needs one vector per text.")
        self.depth = len(self.transformer.resblocks)
        self.width = self.token_embedding.embedding_dim
        self.context = len(self.positional_embedding) - self.appends_class_token
        self.causal = self.mask is not None
        self.text_format = text_format
        greatest = self.token_embedding.num_embeddings - 1
        self.layout = _text_layout(self.pool_type, self.eos, greatest, self.causal, text_format)
        self.freeze()
        self.features = self._project(self.ln_final.weight.new_zeros(1, self.width)).shape[-1]

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed tokens, without positions: (C, L) -> (C, L, D).

        Raises:
            ValueError: If the ids are longer than the context.
        """
        if inputs.shape[1] > self.context:
            raise ValueError(f"Texts must have at most {self.context} tokens, got {inputs.shape[1]}.")
        dtype = self.transformer.resblocks[0].mlp.c_fc.weight.dtype
        return Tokens(self.token_embedding(inputs).to(dtype), prefix=self.layout.start)

    def enter(self, tokens: Tokens) -> Tokens:
        """Add the positions."""
        positions = self.positional_embedding[: tokens.x.shape[1]]
        return tokens._replace(x=tokens.x + positions.to(tokens.x.dtype))

    def attention_mask(self, before: int, length: int) -> Tensor | None:
        """Return the causal mask, if the model has one."""
        if self.mask is None:
            return None
        end = before + length
        if end > len(self.mask):  # prompts without a position make texts longer than the context
            return self.mask.new_full((end, end), float("-inf")).triu(1)[before:]
        return self.mask[before:end, :end]

    def block_parts(self, index: int, weights: Weights | None = None) -> BlockParts | None:
        """Return the parts of a block, if its attention is the softmax of scaled products."""
        return block_parts(self.transformer.resblocks[index], weights)

    def block_weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block that can be replaced, if its attention is the softmax of scaled products."""
        block = self.transformer.resblocks[index]
        if not _scaled_products(block):
            raise TypeError(f"Changing a block {self.requirement(index)}; use a method that leaves it alone.")
        return block_weights(block)

    def upstream_block(self, index: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """Run upstream's own block."""
        return cast(Tensor, self.transformer.resblocks[index](x, attn_mask=mask))

    def requirement(self, index: int) -> str:
        """Return the end of the message that refuses a block."""
        return _requirement(self.transformer.resblocks[index])

    def pool(self, tokens: Tokens, inputs: Tensor, pooling: str = "native") -> Tensor:
        """Apply final norm and projection to the token that upstream pools, (C, E); "unprojected" has no projection.

        Raises:
            ValueError: For any other pooling.
        """
        if pooling not in ("native", "unprojected"):
            raise ValueError(f"Texts have only the poolings 'native' and 'unprojected', got {pooling!r}.")
        rows = self.pooled_rows(tokens, inputs, "native")
        last = tokens.x if tokens.x.shape[1] == 1 or rows is None else pick(tokens.x, rows)
        pooled: Tensor = self.ln_final(last[:, 0])
        return self._project(pooled) if pooling == "native" else pooled

    def projection(self) -> Tensor:
        """Return the projection, (U, E)."""
        if self.text_projection is None:
            return super().projection()
        if not isinstance(self.text_projection, nn.Linear):
            return cast(Tensor, self.text_projection)
        return super().projection() if self.text_projection.bias is not None else self.text_projection.weight.t()

    def _project(self, pooled: Tensor) -> Tensor:
        if self.text_projection is None:
            return pooled
        if isinstance(self.text_projection, nn.Linear):
            return cast(Tensor, self.text_projection(pooled))
        result: Tensor = pooled @ self.text_projection
        return result

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values."""
        return {
            "family": "open_clip",
            **_block_facts(self.transformer),
            "context": self.context,
            "vocabulary": self.token_embedding.num_embeddings,
            "pool": self.pool_type,
            "eos": self.eos if self.pool_type == "eos" else None,
            "causal": self.causal,
            **({} if self.text_format is None else {"tokenizer": asdict(self.text_format)}),
        }


class CoCaText(OpenClipText):
    """CoCa's text side: a class token behind the padding reads the text and is pooled.

    The mask that hides padding is shifted by one token in the published weights: the first padding is seen, the class
    token sees itself only in a text that fills the context. ``correct_cls_mask`` of a model says that its mask is not.
    """

    appends_class_token = True

    def __init__(self, model: "CoCa", text_format: TextFormat | None = None) -> None:
        super().__init__(model, text_format)
        text: Any = model.text
        self.class_token = text.cls_emb
        self.pad: int = text.pad_id
        self.shifted = not text.correct_cls_mask

    def embed(self, inputs: Tensor) -> Tokens:
        """Embed tokens and append the class token, without positions: (C, L) -> (C, L + 1, D)."""
        words = super().embed(inputs)
        last = self.class_token.to(words.x.dtype).expand(len(inputs), 1, -1)
        padding = F.pad(inputs == self.pad, (1, 0) if self.shifted else (0, 1))
        return Tokens(torch.cat([words.x, last], dim=1), words.prefix, padding=padding)

    def pooled_rows(self, tokens: Tokens, inputs: Tensor, pooling: Pooling) -> Tensor:
        """Return the index of the class token, (1,)."""
        return torch.tensor([tokens.x.shape[1] - 1], device=inputs.device)

    def shared_prefix(self, ids: Tensor, prompter: Prompter | None = None) -> tuple[Tensor, ...]:
        """Encode the first tokens of many texts once for all of them; the class token stands behind each text."""
        return tuple(stream[:-1] for stream in super().shared_prefix(ids, prompter))

    def facts(self) -> dict[str, object]:
        """Return the architecture as JSON values."""
        return {**super().facts(), "class_token": True, "shifted_mask": self.shifted}


def _text_layout(pool: str, eos: int, greatest: int, causal: bool, text_format: TextFormat | None) -> TextLayout:
    """Return the layout of texts of a tokenizer in a tower that pools as open_clip's word ``pool`` says."""
    reads: Literal["end", "last", "start"] = "start" if pool == "first" else "last" if pool == "last" else "end"
    read = greatest if pool == "argmax" else eos
    if text_format is not None and reads == "end" and text_format.end != read:
        raise ValueError(
            f"The text side reads the token {read}, and the tokenizer ends a text with {text_format.end}: they do not "
            "belong together; check pool_type, eos_id and the tokenizer of the model's configuration."
        )
    cut: Literal["end", "never"] = "end" if causal and reads == "end" else "never"
    if text_format is None:
        return TextLayout(end=eos if pool == "eos" else None, cut=cut, reads=reads)
    return TextLayout(len(text_format.start), text_format.end, text_format.pad, cut, reads)


def _check_text(text: nn.Module, class_token: bool) -> None:
    """Raise TypeError unless the text side is a ``TextTransformer``, plain or with a class token behind the text."""
    from open_clip.transformer import TextTransformer

    if type(text) is not TextTransformer:
        raise TypeError(
            f"{type(text).__name__} is not supported as a text tower. Supported: open_clip's own TextTransformer."
        )
    if (text.cls_emb is not None) != class_token or text.use_pad_mask:
        raise TypeError(
            "A text tower that masks its padding, or appends a class token outside of CoCa, is not supported."
        )


def block_parts(block: Any, weights: Weights | None = None) -> BlockParts | None:
    """Return the parts of an open_clip block; None if its attention uses cosines or scales its heads."""
    attn, mlp = block.attn, block.mlp
    if not _scaled_products(block):
        return None
    if weights is not None:
        check_names(weights, block_weights(block))
    norm1, norm2 = with_weights(block.ln_1, "norm1", weights), with_weights(block.ln_2, "norm2", weights)
    out = with_weights(attn.out_proj, "out", weights)
    inner, outer = getattr(attn, "ln_inner", None), getattr(block, "ln_attn", None)

    def out_proj(y: Tensor, _: Tensor) -> Tensor:
        y = out(y if inner is None else inner(y))
        return cast(Tensor, block.ls_1(y if outer is None else outer(y)))

    def run_mlp(x: Tensor) -> Tensor:
        x = norm2(x)
        quick = type(mlp.gelu).__name__ == "QuickGELU" and not hasattr(mlp, "ln")
        if weights is None and not quick:
            return cast(Tensor, block.ls_2(mlp(x)))
        up, down = with_weights(mlp.c_fc, "up", weights), with_weights(mlp.c_proj, "down", weights)
        if quick:
            return cast(Tensor, block.ls_2(down(quick_gelu(up(x)))))
        for name, layer in mlp.named_children():
            x = {"c_fc": up, "c_proj": down}.get(name, layer)(x)
        return cast(Tensor, block.ls_2(x))

    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if weights is not None:
        weight, bias = weights.get("qkv.weight", weight), weights.get("qkv.bias", bias)
    norm_q, norm_k = (getattr(attn, name, nn.Identity()) for name in ("ln_q", "ln_k"))
    return BlockParts(norm1, weight, bias, attn.num_heads, norm_q, norm_k, out_proj, run_mlp)


def block_weights(block: Any) -> dict[str, Tensor]:
    """Return the weights and biases of an open_clip block that can be replaced."""
    qkv = {"qkv.weight": block.attn.in_proj_weight, "qkv.bias": block.attn.in_proj_bias}
    return {name: tensor for name, tensor in qkv.items() if tensor is not None} | layer_weights(_layers(block))


def _layers(block: Any) -> dict[str, Any]:
    """Return the layers of a block by the names of ``Weights``; q, k and v are one parameter of the attention."""
    mlp = block.mlp
    return {"norm1": block.ln_1, "out": block.attn.out_proj, "norm2": block.ln_2, "up": mlp.c_fc, "down": mlp.c_proj}


def _scaled_products(block: Any) -> bool:
    """Return whether the attention is the softmax of scaled products."""
    attn = block.attn
    return getattr(attn, "logit_scale", None) is None and getattr(attn, "head_scale", None) is None


def _requirement(block: Any) -> str:
    """Return the end of the message that refuses a block."""
    return f"needs scaled products; the attention of this CLIP ({type(block).__name__}) uses cosines or scales heads"


def _block_facts(transformer: Any) -> dict[str, object]:
    """Return what all blocks of a transformer have in common."""
    first = transformer.resblocks[0]
    return {
        "block": type(first).__name__,
        "depth": len(transformer.resblocks),
        "width": first.ln_1.normalized_shape[0],
        "heads": first.attn.num_heads,
        "activation": activation_name(first.mlp.gelu),
        "norm_eps": first.ln_1.eps,
    }
