"""MMRL: tokens from a shared space enter the later blocks of both CLIP towers, and a second projection reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_rows import name_keys
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template, filled_templates
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.models.tokens import Tokens
from selfprompt.prompts.static import Static, normal_prompts


@dataclass(frozen=True)
class MMRLOptions:
    """Options of MMRL."""

    tokens: int = 5
    """Tokens that enter each tower."""
    width: int = 512
    """Channels of the shared space."""
    last: int = 7
    """Number of last blocks with tokens; a smaller tower has them in all blocks but its first."""
    alpha: float = 0.7
    """Weight of the class token's loss and logits; those of the tokens have the rest."""
    weight: float = 1.0
    """Weight of the terms that hold features near the frozen CLIP."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_positive(tokens=self.tokens, width=self.width, last=self.last)
        check_template(self.template)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1, got {self.alpha}.")


class TokenMaps(nn.Module):
    """A linear layer for each block that gets tokens, with PyTorch's initial values.

    Attributes:
        weight: (blocks, D, d).
        bias: (blocks, D).
    """

    def __init__(self, blocks: int, width: int, shared: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = shared**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, width, shared).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(blocks, width).uniform_(-bound, bound, generator=generator))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Map tokens of the shared space, (P, d), to those of each block, (blocks, P, D)."""
        return tokens @ self.weight.transpose(1, 2) + self.bias[:, None]


class KeepOutputs:
    """Deep prompts from a later block on; keeps what the last block makes of them."""

    needs_all_outputs: ClassVar[bool] = True
    outputs: Tokens

    def __init__(self, prompts: Tensor, first: int) -> None:
        self.static = Static(prompts, first=first)

    def start(self, tokens: Tokens) -> Tokens:
        return self.static.start(tokens)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        self.outputs = self.static.layer(index, block, tokens)
        return self.outputs


class MMRL(Method[MMRLOptions]):
    """``logits = a s cos(f, t_c) + (1 - a) s cos(f_r, t_c)`` with features f of the class token and f_r of the tokens.

    Each of the last blocks has tokens of its own, a linear map of the same ones; they replace the outputs of those
    before. In the text they stand behind SOS. f_r is the mean of the normed tokens times a trained projection.
    ``loss = a CE + (1 - a) CE_r + w (1 - cos(f, f_0)) + w (1 - cos(t, t_0))``, with f_0 and t_0 of the frozen CLIP.

    If a class was not trained, all are scored by f alone, as the authors score new classes: so scores are comparable.

    Differs from the reference code: w is 1 for every data set, and there is one template; the authors select both.

    Source: Guo and Gu 2025 (arXiv 2503.08497, CVPR 2025), section 3; released code yunncheng/MMRL.
    """

    Options = MMRLOptions
    texts: Tensor
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: MMRLOptions) -> Traits:
        return Traits(
            edits=("image", "text"),
            inputs="both",
            features_in_training_only=True,
            needs_text=True,
            open_vocabulary=True,
            variable_length=("known",),
        )

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        self.vision.check_pooling("prompts")
        self.tokens = normal_prompts(options.tokens, options.width, generator=generator)
        self.image_maps, self.text_maps = (
            TokenMaps(min(options.last, tower.depth - 1), tower.width, options.width, generator)
            for tower in (self.vision, self.text)
        )
        inputs = self.vision.unprojected_features
        self.projection = nn.Parameter(inputs**-0.5 * torch.randn(inputs, self.feature_size, generator=generator))
        self.register_texts(filled_templates([options.template], self.descriptions))
        texts = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("keys", name_keys(self.classes).to(texts.device), persistent=False)
        self.register_buffer("known", self.keys.clone())

    def encode_classes(self) -> Tensor:
        streams = self._start_streams()
        maps = self.text_maps(self.tokens)
        skipped = len(streams) - len(maps)
        prefix = [*streams[:skipped], *(torch.cat(pair) for pair in zip(streams[skipped:], maps, strict=True))]
        length = len(streams[0])
        return unit(self.encode_texts(lambda _, ids: self.text(ids, shared_prefix=prefix), prefix_length=length))

    @torch.no_grad()
    def _start_streams(self) -> Sequence[Tensor]:
        """Return what the tokens stand behind in each block, (S, D): SOS, which sees itself alone in a causal tower.

        Where all tokens see all, or texts have no start, the place of the tokens does not matter.
        """
        start = self.text.layout.start
        if self.text.causal and start:
            streams: Sequence[Tensor] = self.text.shared_prefix(self.ids[:1, :start])
            return streams
        return [self.texts.new_zeros(0, self.text.width)] * self.text.depth

    def image_features(self, views: Views) -> tuple[Tensor, Tensor]:
        """Return unit features of the class token and of the tokens, (B, E) each."""
        maps = self.image_maps(self.tokens)
        prompter = KeepOutputs(maps, self.vision.depth - len(maps))
        features = self.vision(views.pixels, prompter)
        return unit(features), unit(self.vision.unprojected_prompts(prompter.outputs) @ self.projection)

    def encode_images(self, views: Views) -> Tensor:
        return torch.cat(self.image_features(views), dim=-1)  # (B, 2 E)

    def class_vectors(self) -> Tensor:
        """Return the class features weighted for f and for f_r, (C, 2 E); for f alone if a class was not trained."""
        trained, texts = torch.isin(self.keys, self.known).all(), self.class_features()
        share = torch.where(trained, texts.new_tensor(self.options.alpha), 1.0)  # in the precision of the texts
        return torch.cat((share * texts, (1 - share) * texts), dim=-1)

    def both_logits(self, views: Views) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return unit features f and t, and the logits of f and of f_r."""
        (features, others), texts = self.image_features(views), self.class_features()
        return features, texts, self.class_logits(features, texts), self.class_logits(others, texts)

    def loss(self, views: Views) -> LossTerms:
        options = self.options
        features, texts, logits, others = self.both_logits(views)
        terms = {
            "ce": F.cross_entropy(logits, views.labels),
            "ce_tokens": F.cross_entropy(others, views.labels),
            "image": 1 - (features * unit(self.frozen_features(views))).sum(dim=-1).mean(),
            "text": 1 - (texts * self.texts).sum(dim=-1).mean(),
        }
        weights = {"ce": options.alpha, "ce_tokens": 1 - options.alpha, "image": options.weight, "text": options.weight}
        blended = options.alpha * logits + (1 - options.alpha) * others
        return LossTerms(terms, weights, blended.detach())
