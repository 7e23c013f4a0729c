"""CLIP written plainly with torch's stock modules, as released code runs it: sequence first, texts with all padding.

Knows nothing of the library's towers, prompters and methods; it takes their weights by name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone


class QuickGELU(nn.Module):
    """``x sigmoid(1.702 x)``, the activation of OpenAI's weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {"GELU": nn.GELU, "QuickGELU": QuickGELU}


class Block(nn.Module):
    """A residual block: attention, then an MLP, each behind a layer norm."""

    def __init__(self, width: int, heads: int, activation: str, eps: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("activation", ACTIVATIONS[activation]())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(L, B, D) to (L, B, D)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


Refresh = Callable[[int, Tensor], Tensor]
"""What a method does to the sequence, (L, B, D), in front of block number i."""


def unchanged(index: int, x: Tensor) -> Tensor:
    """No prompts."""
    return x


class PlainVision(nn.Module):
    """The image side. Its sequence is class token, patches, then prompts, which get ``ln_pre`` but no position."""

    def __init__(self, facts: Mapping[str, Any], features: int, *, norm_first: bool) -> None:
        super().__init__()
        width, patch, side = facts["width"], facts["patch_size"], facts["image_size"]
        self.length = 1 + (side[0] // patch[0]) * (side[1] // patch[1])
        self.average = facts["pool"] == "avg"
        self.conv1 = nn.Conv2d(3, width, kernel_size=tuple(patch), stride=tuple(patch), bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.length, width))
        self.ln_pre = nn.LayerNorm(width, facts["norm_eps"]) if norm_first else nn.Identity()
        self.blocks = _blocks(facts)
        self.ln_post = nn.LayerNorm(width, facts["norm_eps"])
        self.proj = nn.Parameter(torch.empty(width, features))

    def forward(self, images: Tensor, prompts: Tensor | None = None, refresh: Refresh = unchanged) -> Tensor:
        """Features, (B, E), not normalised.

        Args:
            images: (B, 3, H, W).
            prompts: (P, D), shared by the images.
            refresh: Called in front of each block.
        """
        x = self.conv1(images).flatten(2).permute(0, 2, 1)  # (B, D, h, w) -> (B, N, D)
        first = self.class_embedding.expand(len(x), 1, -1).to(x.dtype)
        x = torch.cat([first, x], dim=1) + self.positional_embedding
        if prompts is not None:
            x = torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1)
        x = self.ln_pre(x).permute(1, 0, 2)  # (B, L, D) -> (L, B, D)
        for index, block in enumerate(self.blocks):
            x = block(refresh(index, x))
        x = self.ln_post(x.permute(1, 0, 2))
        return (x[:, 1 : self.length].mean(dim=1) if self.average else x[:, 0]) @ self.proj


class PlainText(nn.Module):
    """The text side: every text has all positions of the context."""

    def __init__(self, facts: Mapping[str, Any], features: int) -> None:
        super().__init__()
        width, context = facts["width"], facts["context"]
        self.token_embedding = nn.Embedding(facts["vocabulary"], width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.blocks = _blocks(facts)
        self.ln_final = nn.LayerNorm(width, facts["norm_eps"])
        self.text_projection = nn.Parameter(torch.empty(width, features))

    def forward(self, x: Tensor, ends: Tensor, refresh: Refresh = unchanged) -> Tensor:
        """Features, (C, E), not normalised.

        Args:
            x: Token embeddings, (C, T, D).
            ends: Position of the end of each text, (C,).
            refresh: Called in front of each block.
        """
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1)
        x = (x + self.positional_embedding).permute(1, 0, 2)  # (C, T, D) -> (T, C, D)
        for index, block in enumerate(self.blocks):
            x = block(refresh(index, x), mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection


class PlainCLIP(nn.Module):
    """Both sides, the scale of the logits, and the tokenizer."""

    def __init__(
        self, visual: PlainVision, text: PlainText, scale: float, tokenizer: Callable[[Sequence[str]], Tensor]
    ) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.scale = scale
        self.tokenizer = tokenizer

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeddings of all positions of the texts, (C, T, D), and where each text ends, (C,)."""
        ids = self.tokenizer(list(texts)).to(self.text.positional_embedding.device)
        with torch.no_grad():
            return self.text.token_embedding(ids), ids.argmax(dim=-1)


def plain_clip(backbone: Backbone) -> PlainCLIP:
    """A plain CLIP that reads the very tensors of a backbone (they are shared, not copied), frozen.

    Raises:
        ValueError: If the backbone is no CLIP of the plain kind.
    """
    facts = json.loads(backbone.architecture)
    vision, text = facts["vision"], facts["text"]
    if text is None or vision["family"] != "open_clip" or vision["pool"] not in ("tok", "avg"):
        raise ValueError(f"The plain baseline is OpenAI's CLIP architecture; {backbone.name} has another one.")
    text_tower, tokenizer = backbone.text_side()
    image_state = _renamed(backbone.vision.state_dict(), "visual.")
    text_state = _renamed(text_tower.state_dict(), "")
    with torch.device("meta"):  # no memory and no random start for weights that are replaced at once
        visual = PlainVision(vision, image_state["proj"].shape[1], norm_first="ln_pre.weight" in image_state)
        side = PlainText(text, text_state["text_projection"].shape[1])
    visual.load_state_dict(image_state, assign=True)
    side.load_state_dict(text_state, assign=True)
    return PlainCLIP(visual, side, backbone.scale, tokenizer).requires_grad_(False).eval()


def _blocks(facts: Mapping[str, Any]) -> nn.ModuleList:
    width, heads, activation, eps = (facts[name] for name in ("width", "heads", "activation", "norm_eps"))
    return nn.ModuleList(Block(width, heads, activation, eps) for _ in range(facts["depth"]))


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under this file's names."""
    return {name.removeprefix(prefix).replace("transformer.resblocks", "blocks"): t for name, t in state.items()}


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)
