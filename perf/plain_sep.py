"""Plain SEP: every step computes all features again, for all classes at once."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perf.plain_clip import PlainCLIP, unit


class PlainFusion(nn.Module):
    """The token fusion module of the paper, with attention across the batch (as released) or within each input."""

    def __init__(self, width: int, hidden: int, across: bool) -> None:
        super().__init__()
        self.across = across
        self.norm_attention = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, max(1, width // 64))
        self.norm_mlp = nn.LayerNorm(width)
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.keep_tokens = nn.Parameter(torch.empty(1))
        self.keep_attention = nn.Parameter(torch.empty(1))

    def forward(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Fuse tokens and prompts, (N, P, D) each, into new prompts of that shape."""
        query, key = self.norm_attention(prompts), self.norm_attention(tokens)
        if not self.across:  # attention runs along the first axis
            query, key = query.permute(1, 0, 2), key.permute(1, 0, 2)
        attended = self.attention(query, key, key, need_weights=False)[0]
        if not self.across:
            attended = attended.permute(1, 0, 2)
        fused = self.keep_tokens * tokens + (1 - self.keep_tokens) * attended
        hidden = self.down(self.norm_mlp(fused))
        hidden = self.up(hidden * torch.sigmoid(1.702 * hidden))
        return cast(Tensor, self.keep_attention * fused + (1 - self.keep_attention) * hidden)


class PlainSEP(nn.Module):
    """SEP on the plain CLIP.

    Args:
        clip: Frozen.
        classes: Class names.
        options: SEP's options; only those of the released code and the paper are supported.
        trainable: The trainable tensors by the library's names; they are copied.

    Raises:
        ValueError: For unsupported options, or if the tensors do not fit.
    """

    def __init__(self, clip: PlainCLIP, classes: Sequence[str], options: Any, trainable: Mapping[str, Tensor]) -> None:
        super().__init__()
        if options.fusion != "own" or options.fusion_rank or options.text_tokens != "following" or options.init_text:
            raise ValueError("The plain SEP has the released fusion modules, text tokens and random start only.")
        self.clip, self.options = clip, options
        with torch.device("meta"):
            self.text_prompts = _like(trainable["text_prompts"])
            self.image_prompts = _like(trainable["image_prompts"])
            self.text_fusions = _fusions(trainable, "text_fusions", options.fusion_axis)
            self.image_fusions = _fusions(trainable, "image_fusions", options.fusion_axis)
            self.prototypes = _like(trainable["prototypes"])
        tensors = {name: tensor.detach().clone() for name, tensor in trainable.items()}
        missing, unexpected = self.load_state_dict(tensors, strict=False, assign=True)
        if unexpected or any(not name.startswith("clip.") for name in missing):
            raise ValueError(f"The trainable tensors do not fit the plain SEP: {missing}, {unexpected}.")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith("clip."))
        texts = [" ".join(["X"] * len(self.text_prompts)) + f" {name}." for name in classes]
        embedded, self.ends = clip.tokens(texts)
        self.prefix = embedded[:, :1]
        self.suffix = embedded[:, 1 + len(self.text_prompts) :]
        with torch.no_grad():  # released code also computes this only once
            self.frozen_texts = unit(
                clip.text(*clip.tokens([options.template.replace("{}", name) for name in classes]))
            )

    def text_features(self, rows: slice = slice(None)) -> Tensor:
        """Return mixed unit features of the classes, (C, E), or of some rows to check many classes in chunks."""
        count = len(self.text_prompts)
        layers = _layers(self.options.layers, len(self.text_fusions), len(self.clip.text.blocks))
        prefix, suffix = self.prefix[rows], self.suffix[rows]
        x = torch.cat([prefix, self.text_prompts.expand(len(prefix), -1, -1), suffix], dim=1)

        def refresh(index: int, x: Tensor) -> Tensor:
            if index not in layers:
                return x
            tokens, prompts = x[1 + count : 1 + 2 * count], x[1 : 1 + count]
            fused = self.text_fusions[layers.index(index)](tokens.permute(1, 0, 2), prompts.permute(1, 0, 2))
            return torch.cat([x[:1], fused.permute(1, 0, 2), x[1 + count :]], dim=0)

        return unit(unit(self.clip.text(x, self.ends[rows], refresh)) + self.frozen_texts[rows])

    def image_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return frozen and mixed unit features of the images, (B, E) each."""
        length = self.clip.visual.length
        layers = _layers(self.options.layers, len(self.image_fusions), len(self.clip.visual.blocks))

        def refresh(index: int, x: Tensor) -> Tensor:
            if index not in layers:
                return x
            tokens, prompts = self._strongest(x[:length].permute(1, 0, 2)), x[length:].permute(1, 0, 2)
            fused = self.image_fusions[layers.index(index)](tokens, prompts)
            return torch.cat([x[:length], fused.permute(1, 0, 2)], dim=0)

        with torch.no_grad():
            frozen = unit(self.clip.visual(images))
        prompted = unit(self.clip.visual(images, self.image_prompts, refresh))
        return frozen, unit(prompted + frozen)

    def _strongest(self, x: Tensor) -> Tensor:
        """Select the tokens with the largest mean square, (B, m, D), from class token and patches, (B, 1 + N, D)."""
        count = len(self.image_prompts)
        power = x.detach().square().mean(dim=-1)
        if self.options.selection == "batch":
            return x[:, power.mean(dim=0).topk(count).indices]
        selected = power.topk(count, dim=-1).indices
        return x.gather(1, selected[..., None].expand(-1, -1, x.shape[-1]))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits, (B, C)."""
        return self.clip.scale * self.image_features(images)[1] @ self.text_features().t()

    def loss(self, images: Tensor, labels: Tensor, texts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss, a scalar, and the logits; ``texts`` are text features computed before, if any."""
        options = self.options
        texts = self.text_features() if texts is None else texts
        frozen, mixed = self.image_features(images)
        logits = self.clip.scale * mixed @ texts.t()
        prototypes = F.normalize(self.prototypes, dim=-1)
        near_text = 1 - F.cosine_similarity(texts, self.frozen_texts, dim=-1, eps=1e-7).mean()
        near_image = 1 - F.cosine_similarity(mixed, frozen, dim=-1, eps=1e-7).mean()
        auxiliary = sum(F.cross_entropy(10 * features @ prototypes.t(), labels) for features in (mixed, frozen))
        total = F.cross_entropy(logits, labels) + options.text_weight * near_text + options.image_weight * near_image
        return total + options.prototype_weight / 2 * auxiliary, logits


def _like(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(tensor.shape))


def _fusions(trainable: Mapping[str, Tensor], name: str, axis: str) -> nn.ModuleList:
    """Create fusion modules with the shapes of the trainable tensors."""
    downs = [tensor for key, tensor in trainable.items() if key.startswith(f"{name}.") and key.endswith(".down.weight")]
    return nn.ModuleList(PlainFusion(down.shape[1], down.shape[0], axis == "batch") for down in downs)


def _layers(selected: Sequence[int], fusions: int, depth: int) -> list[int]:
    """Return the blocks with fusion: those selected, or all but the first."""
    layers = sorted(selected) or list(range(1, depth))
    if len(layers) != fusions:
        raise ValueError(f"There are {fusions} fusion modules for {len(layers)} blocks.")
    return layers
