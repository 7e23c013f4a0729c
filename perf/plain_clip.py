"""A plain CLIP of torch's stock modules, run as released code runs it: sequence first, texts with all padding.

Independent of the library's towers, prompters and methods; weights are taken by name.
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
    """A pre-norm residual block of attention and an MLP."""

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
"""Edits the sequence, (L, B, D), before the block with the given index."""


def unchanged(index: int, x: Tensor) -> Tensor:
    """Return the sequence as it is."""
    return x


class PlainVision(nn.Module):
    """The vision tower; its sequence is class token, patches, prompts (with ``ln_pre``, without positions)."""

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
        """Return features, (B, E), not normalised.

        Args:
            images: (B, 3, H, W).
            prompts: Prompts shared by all images, (P, D).
            refresh: Called before each block.
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
        result: Tensor = (x[:, 1 : self.length].mean(dim=1) if self.average else x[:, 0]) @ self.proj
        return result


class PlainText(nn.Module):
    """The text tower; every text has the full context length."""

    def __init__(self, facts: Mapping[str, Any], features: int) -> None:
        super().__init__()
        width, context = facts["width"], facts["context"]
        self.token_embedding = nn.Embedding(facts["vocabulary"], width)
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.blocks = _blocks(facts)
        self.ln_final = nn.LayerNorm(width, facts["norm_eps"])
        self.text_projection = nn.Parameter(torch.empty(width, features))

    def forward(self, x: Tensor, ends: Tensor, refresh: Refresh = unchanged) -> Tensor:
        """Return features, (C, E), not normalised.

        Args:
            x: Token embeddings, (C, T, D).
            ends: Position of EOT in each text, (C,).
            refresh: Called before each block.
        """
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), device=x.device).triu(1)
        x = (x + self.positional_embedding).permute(1, 0, 2)  # (C, T, D) -> (T, C, D)
        for index, block in enumerate(self.blocks):
            x = block(refresh(index, x), mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(len(x), device=x.device), ends] @ self.text_projection


class PlainCLIP(nn.Module):
    """Both towers, the logit scale, and the tokenizer."""

    def __init__(
        self, visual: PlainVision, text: PlainText, scale: float, tokenizer: Callable[[Sequence[str]], Tensor]
    ) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.scale = scale
        self.tokenizer = tokenizer

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the token embeddings of the texts, (C, T, D), and the positions of EOT, (C,)."""
        ids = self.tokenizer(list(texts)).to(self.text.positional_embedding.device)
        with torch.no_grad():
            return self.text.token_embedding(ids), ids.argmax(dim=-1)


def plain_clip(backbone: Backbone) -> PlainCLIP:
    """Build a frozen plain CLIP that shares the tensors of a backbone.

    Raises:
        ValueError: If the backbone has another architecture.
    """
    facts = json.loads(backbone.architecture)
    vision, text = facts["vision"], facts["text"]
    if text is None or vision["family"] != "open_clip" or vision["pool"] not in ("tok", "avg"):
        raise ValueError(f"The plain baseline is OpenAI's CLIP architecture; {backbone.name} has another one.")
    text_tower, tokenizer = backbone.text_side()
    image_state = _renamed(backbone.vision.state_dict(), "visual.")
    text_state = _renamed(text_tower.state_dict(), "")
    with torch.device("meta"):  # no memory or initialisation for weights that are replaced
        visual = PlainVision(vision, image_state["proj"].shape[1], norm_first="ln_pre.weight" in image_state)
        side = PlainText(text, text_state["text_projection"].shape[1])
    visual.load_state_dict(image_state, assign=True)
    side.load_state_dict(text_state, assign=True)
    return PlainCLIP(visual, side, backbone.scale, tokenizer).requires_grad_(False).eval()


def _blocks(facts: Mapping[str, Any]) -> nn.ModuleList:
    width, heads, activation, eps = (facts[name] for name in ("width", "heads", "activation", "norm_eps"))
    return nn.ModuleList(Block(width, heads, activation, eps) for _ in range(facts["depth"]))


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename weights to the names in this file."""
    return {name.removeprefix(prefix).replace("transformer.resblocks", "blocks"): t for name, t in state.items()}


def unit(vectors: Tensor) -> Tensor:
    """L2-normalise vectors."""
    result: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return result
