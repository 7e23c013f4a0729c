"""A plain ViT with an explicit softmax, with deep prompts (SPT, VPT), a linear probe, and collection of tokens.

Independent of the library's towers, prompters and methods; weights are taken by name.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone


class Attention(nn.Module):
    """Multi-head attention with an explicit softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return cast(Tensor, self.proj((weights @ v).transpose(1, 2).reshape(batch, length, width)))


class MLP(nn.Module):
    """Two linear layers with a GELU in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """A pre-norm residual block of attention and an MLP."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Embeds patches as tokens."""

    def __init__(self, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.proj(images).flatten(2).transpose(1, 2))  # (B, D, h, w) -> (B, N, D)


class PlainViT(nn.Module):
    """A ViT with a class token and absolute position embeddings."""

    def __init__(self, facts: Mapping[str, Any], length: int) -> None:
        super().__init__()
        width, eps = facts["width"], facts["norm_eps"]
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, length, width))
        height, breadth = facts["patch_size"]
        self.patch_embed = PatchEmbed(width, (height, breadth))
        self.blocks = nn.ModuleList(Block(width, facts["heads"], eps) for _ in range(facts["depth"]))
        self.norm = nn.LayerNorm(width, eps)

    def stem(self, images: Tensor) -> Tensor:
        """Return the input of block 0 without prompts, (B, 1 + N, D)."""
        x = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed

    def forward(self, images: Tensor, prompts: Tensor | None = None, *, average: bool = False) -> Tensor:
        """Return features, (B, D).

        Args:
            images: (B, 3, H, W).
            prompts: Deep prompts, (depth, P, D), inserted again before each block.
            average: Whether to return the normalised mean over prompts and patches, not the normalised class token.
        """
        x = self.stem(images)
        for index, block in enumerate(self.blocks):
            if prompts is not None:
                patches = x[:, 1:] if index == 0 else x[:, 1 + prompts.shape[1] :]
                x = torch.cat([x[:, :1], prompts[index].expand(len(x), -1, -1), patches], dim=1)
            x = block(x)
        return cast(Tensor, self.norm(x[:, 1:].mean(dim=1)) if average else self.norm(x)[:, 0])

    @torch.no_grad()
    def collect(self, images: Tensor) -> Tensor:
        """Return the patch tokens entering each block, (depth, B, N, D); all are kept, as in the released code."""
        layers = [self.patch_embed(images)]
        x = self.stem(images)
        for block in self.blocks[:-1]:
            x = block(x)
            layers.append(x[:, 1:])
        return torch.stack(layers)


def plain_vit(backbone: Backbone) -> PlainViT:
    """Build a frozen plain ViT that shares the tensors of a backbone.

    Raises:
        ValueError: If the backbone has another architecture.
    """
    facts = json.loads(backbone.architecture)["vision"]
    state = {name.removeprefix("vit."): tensor for name, tensor in backbone.vision.state_dict().items()}
    if facts["family"] != "timm" or facts["activation"] != "GELU" or "pos_embed" not in state:
        raise ValueError(f"The plain baseline is the ViT of 2020; {backbone.name} has another architecture.")
    with torch.device("meta"):  # no memory or initialisation for weights that are replaced
        vit = PlainViT(facts, state["pos_embed"].shape[1])
    vit.load_state_dict(state, assign=True)
    return vit.requires_grad_(False).eval()


class PlainPrompted(nn.Module):
    """A linear head on the plain ViT, with or without deep prompts.

    Args:
        vit: Frozen.
        trainable: ``head.weight``, ``head.bias`` and, with deep prompts, ``prompts``, (depth, P, D); they are copied.
        average: Whether to pool the mean over prompts and patches instead of the class token.
    """

    def __init__(self, vit: PlainViT, trainable: Mapping[str, Tensor], *, average: bool) -> None:
        super().__init__()
        self.vit, self.average = vit, average
        weight = trainable["head.weight"]
        self.head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(trainable["head.bias"])
        self.prompts = nn.Parameter(trainable["prompts"].detach().clone()) if "prompts" in trainable else None

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits, (B, C)."""
        if self.prompts is None:
            with torch.no_grad():
                features = self.vit(images, average=self.average)
        else:
            features = self.vit(images, self.prompts, average=self.average)
        return cast(Tensor, self.head(features))

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the logits."""
        logits = self.logits(images)
        return F.cross_entropy(logits, labels), logits
