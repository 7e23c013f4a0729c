"""SEP: prompts in both CLIP towers, refreshed in front of each block from the stream's own representative tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method, TrainingSource
from selfprompt.methods.checks import check_positive
from selfprompt.methods.class_texts import (
    PHOTO,
    add_placeholders,
    check_placeholders,
    check_template,
    embed_distinct_tokens,
    embed_text,
    encode_template,
    fill_template,
    find_ends,
    tokenize_for_tower,
)
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Tower
from selfprompt.prompts.fusion import Fuse, by_layer, fusion_modules, strongest_tokens
from selfprompt.prompts.kmeans import cluster
from selfprompt.prompts.prototypes import prototypes
from selfprompt.prompts.static import normal_prompts


@dataclass(frozen=True)
class SEPOptions:
    """Options of SEP. The defaults fuse within one input; the recipe sep-authors is the released behaviour.

    The last four are ours, not the paper's, beside their defaults.
    """

    text_prompts: int = 6
    """Prompt tokens in the text tower (n)."""
    image_prompts: int = 4
    """Prompt tokens in the vision tower (m)."""
    layers: tuple[int, ...] = ()
    """Blocks, counted from 0, in front of which prompts are refreshed; empty means all but the first."""
    fusion_axis: Literal["tokens", "batch"] = "tokens"
    """Fusion attends over the tokens of one input, or (as released) across the inputs of a batch."""
    selection: Literal["image", "batch"] = "image"
    """Representative patches are chosen for each image, or (as released) once for a batch."""
    text_tokens: Literal["following", "valid"] = "following"
    """Representative text tokens: the n behind the prompt, padding included, or none behind EOT."""
    init_text: str = ""
    """Start the text prompts from this text, which must be text_prompts tokens long."""
    template: str = PHOTO
    """Hand-written text that the learned class texts are mixed with and kept close to."""
    text_weight: float = 8.0
    """Weight of the text consistency loss."""
    image_weight: float = 6.0
    """Weight of the image consistency loss."""
    consistency_on: Literal["mixed", "prompted"] = "mixed"
    """Features that the consistency losses look at: mixed with the frozen ones (as released), or prompted alone."""
    prototype_weight: float = 1.0
    """Weight of the auxiliary class-prototype losses."""
    prototype_views: Literal["train", "plain"] = "train"
    """Prototypes from augmented views (as released) or from plain ones."""
    image_start: Literal["normal", "random", "mean", "max", "kmeans"] = "normal"
    """Image prompts start from N(0, 0.02^2), or as SPT's: drawn patch tokens, pooled windows or k-means centres."""
    text_start: Literal["normal", "random", "kmeans"] = "normal"
    """Text prompts start from N(0, 0.02^2), or as drawn words of the class texts or their k-means centres."""
    fusion: Literal["own", "shared"] = "own"
    """A fusion module for each refreshed block, or one for all blocks of a tower."""
    fusion_rank: int = 0
    """0 for fusion modules of full matrices, else each matrix is a product of two of this rank."""

    def __post_init__(self) -> None:
        check_positive(text_prompts=self.text_prompts, image_prompts=self.image_prompts)
        check_template(self.template)
        if len(set(self.layers)) < len(self.layers) or any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers must be different block numbers from 0, got {list(self.layers)}.")
        if self.init_text and self.text_start != "normal":
            raise ValueError(
                "init_text and text_start exclude each other: both say where the text prompts start; drop one."
            )
        if self.fusion_rank < 0:
            raise ValueError(f"fusion_rank must be 0 (full matrices) or more, got {self.fusion_rank}.")


class SEP(Method[SEPOptions]):
    """``logits = scale f . u``, with f and u unit sums of prompted and frozen unit features of image and class text.

    Prompts are given once, at the input of each tower; in front of each chosen block a token fusion module makes new
    ones from the m strongest image tokens, or the n text tokens that follow the prompt.

        loss = CE(logits) + w_t (1 - cos(u, u_frozen)) + w_v (1 - cos(f, f_frozen))
               + 1/2 [CE(10 f . W) + CE(10 f_frozen . W)]

    W are class prototypes, (C, E), that start as class means; they are trained, but no part of a prediction.

    Differs from the reference code: see ``SEPOptions``; unused modules do not exist; features that cannot change are
    computed once; texts end where they stop mattering.

    Ours, not the paper's: ``image_start`` and ``text_start`` begin with prototypes of the task's own tokens, as SPT
    does (arXiv 2402.02382), from ``prepare`` on; ``fusion`` and ``fusion_rank`` make the fusion modules lighter.

    Source: SEP, arXiv 2405.15549.
    """

    Options = SEPOptions
    ids: Tensor
    frozen_texts: Tensor

    @classmethod
    def traits_for(cls, options: SEPOptions) -> Traits:
        mixes_images = options.fusion_axis == "batch" or options.selection == "batch"  # as released
        return Traits(
            inputs="both",
            needs_text=True,
            open_vocabulary=True,
            batch_independent=not mixes_images,
            training_only=("prototypes",),
        )

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        self.text_layers = refreshed_layers(options.layers, self.text)
        self.image_layers = refreshed_layers(options.layers, self.vision)
        self.text_prompts = normal_prompts(options.text_prompts, self.text.width, generator=generator)
        self.image_prompts = normal_prompts(options.image_prompts, self.vision.width, generator=generator)
        modules = partial(
            fusion_modules,
            shared=options.fusion == "shared",
            rank=options.fusion_rank,
            axis=options.fusion_axis,
            generator=generator,
        )
        self.text_fusions = modules(self.text.width, len(self.text_layers))
        self.image_fusions = modules(self.vision.width, len(self.image_layers))
        if options.init_text:
            self._start_from_text(options.init_text)
        texts = add_placeholders(self.classes, options.text_prompts)
        min_length = 1 + 2 * options.text_prompts  # refreshed prompts read as many positions behind them
        self.register_buffer("ids", tokenize_for_tower(self.backbone, texts, min_length), persistent=False)
        check_placeholders(self.ids, 1 + torch.arange(options.text_prompts).expand(len(texts), -1).to(self.ids.device))
        frozen = encode_template(self.backbone, options.template, self.classes)
        self.register_buffer("frozen_texts", frozen, persistent=False)
        self.prototypes = nn.Parameter(frozen.clone())

    def _start_from_text(self, text: str) -> None:
        start = embed_text(self.backbone, text)
        if len(start) != self.options.text_prompts:
            raise ValueError(
                f"init_text {text!r} is {len(start)} tokens, but text_prompts is {self.options.text_prompts}."
            )
        with torch.no_grad():
            self.text_prompts.copy_(start)

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Start the class prototypes as means of the frozen image features, and the prompts where the options say so.

        Raises:
            ValueError: If a class has no image, or there are fewer tokens than prompts that start from them.
        """
        if self.options.image_start != "normal":
            self.image_prompts.copy_(self._patch_prototypes(source, generator))
        if self.options.text_start != "normal":
            self.text_prompts.copy_(self._word_prototypes(generator))
        if self.options.prototype_views == "plain":
            source = source.deterministic()
        sums = torch.zeros_like(self.prototypes)
        done = 0
        for views in self.feature_views(source, 0):
            sums.index_add_(0, views.labels, unit(self.frozen_features(views)).to(sums.dtype))
            done += len(views)
            if progress:
                progress(done, source.size)
        empty = [name for name, total in zip(self.classes, sums.abs().sum(dim=1), strict=True) if total == 0]
        if empty:
            raise ValueError(f"No training images of: {', '.join(empty)}.")
        self.prototypes.copy_(unit(sums))

    def _patch_prototypes(self, source: TrainingSource, generator: torch.Generator) -> Tensor:
        """SPT's prompts for a first block, (m, D): prototypes of the training images' patch embeddings."""
        start, count = self.options.image_start, self.options.image_prompts
        assert start != "normal"
        return prototypes(self.vision, source, count, layers=1, start=start, generator=generator)[0]

    def _word_prototypes(self, generator: torch.Generator) -> Tensor:
        """The same idea for text, (n, D): some of the different words in the hand-written class texts, or centres.

        SPT's pooled windows are ranges of an image; a text of a few words has nothing like them.
        """
        start, count = self.options.text_start, self.options.text_prompts
        words = embed_distinct_tokens(self.backbone, fill_template(self.options.template, self.classes))
        if len(words) < count:
            raise ValueError(
                f"text_start {start!r} needs {count} different tokens in the class texts, and they have {len(words)}; "
                "use fewer text_prompts, or text_start 'normal'."
            )
        if start == "random":
            return words[torch.randperm(len(words), generator=generator)[:count]]
        return cluster(words, count, seed=int(torch.randint(2**31 - 1, (), generator=generator)))

    def prompted_images(self, images: Tensor) -> Tensor:
        """Pooled features of images with prompts, not normalised, (B, E)."""
        select = partial(strongest_tokens, count=self.options.image_prompts, selection=self.options.selection)
        fusions = by_layer(self.image_layers, self.image_fusions)
        return self.vision(images, Fuse(self.image_prompts, fusions, select))

    def prompted_texts(self) -> Tensor:
        """Pooled features of the class texts with prompts, not normalised, (C, E)."""
        fusions, count = by_layer(self.text_layers, self.text_fusions), self.options.text_prompts
        prefix = self.text.shared_prefix(self.ids[:1, :1]) if self.text.causal else ()  # SOS sees itself alone

        def encode(rows: Tensor, ids: Tensor) -> Tensor:
            select = partial(self._text_tokens, ids=ids)
            return self.text(ids, Fuse(self.text_prompts, fusions, select, in_place=True), shared_prefix=prefix)

        if self.options.fusion_axis == "batch":  # as released: a class's text depends on all others
            return encode(torch.arange(len(self.ids)), self.ids)
        return self.encode_texts(encode, min_length=1 + 2 * count, prefix_length=len(prefix[0]) if prefix else 0)

    def _text_tokens(self, tokens: Tokens, ids: Tensor) -> Tensor:
        """The n tokens behind the prompt; with "valid", positions behind EOT are exchanged for EOT."""
        count = self.options.text_prompts
        if self.options.text_tokens == "following":
            return tokens.body[:, :count]
        last = find_ends(ids) - 1 - count
        index = torch.arange(count, device=last.device).minimum(last[:, None])
        return tokens.body.gather(1, index[..., None].expand(-1, -1, tokens.x.shape[-1]))

    def image_features(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Unit features of images, (B, E) each: frozen, prompted, mixed."""
        frozen = unit(self.frozen_features(views))
        prompted = unit(self.prompted_images(views.pixels))
        return frozen, prompted, unit(prompted + frozen)

    def encode_classes(self) -> Tensor:
        return unit(unit(self.prompted_texts()) + self.frozen_texts)

    def logits(self, views: Views) -> Tensor:
        return self.class_logits(self.image_features(views)[2], self.class_features())

    def loss(self, views: Views) -> LossTerms:
        frozen, prompted, mixed = self.image_features(views)
        prompted_text = unit(self.prompted_texts())
        mixed_text = unit(prompted_text + self.frozen_texts)
        logits = self.class_logits(mixed, mixed_text)
        compared, compared_text = (
            (mixed, mixed_text) if self.options.consistency_on == "mixed" else (prompted, prompted_text)
        )
        prototypes = unit(self.prototypes)
        terms = {
            "ce": F.cross_entropy(logits, views.labels),
            "text": 1 - (compared_text * self.frozen_texts).sum(dim=-1).mean(),
            "image": 1 - (compared * frozen).sum(dim=-1).mean(),
            "prototype_mixed": F.cross_entropy(10 * mixed @ prototypes.t(), views.labels),
            "prototype_frozen": F.cross_entropy(10 * frozen @ prototypes.t(), views.labels),
        }
        half = self.options.prototype_weight / 2
        weights = {
            "text": self.options.text_weight,
            "image": self.options.image_weight,
            "prototype_mixed": half,
            "prototype_frozen": half,
        }
        return LossTerms(terms, weights, logits.detach())


def refreshed_layers(layers: Sequence[int], tower: Tower) -> tuple[int, ...]:
    """Blocks of a tower in front of which prompts are refreshed; none given means all but the first.

    Raises:
        ValueError: If the tower has no such block.
    """
    chosen = tuple(sorted(layers)) or tuple(range(1, tower.depth))
    if chosen and chosen[-1] >= tower.depth:
        raise ValueError(f"layers names block {chosen[-1]}, but a tower has blocks 0 to {tower.depth - 1}.")
    return chosen


RELEASED_NAMES = {
    "ctx": "text_prompts",
    "ctx_visual": "image_prompts",
    "VPT_fc.weight": "prototypes",
    "prompt_projections.": "text_fusions.",
    "visual_prompts.": "image_fusions.",
    "promt_attention_visual": "attention",
    "ln_pa_1_visual": "norm_attention",
    "ln_pa_2_visual": "norm_mlp",
    "mlp_pa_visual.c_fc1": "down",
    "mlp_pa_visual.c_proj": "up",
    "scale1": "keep_tokens",
    "scale2": "keep_attention",
}


def from_released_name(name: str) -> str:
    """Return our name of a tensor of a checkpoint of the released code."""
    if name in RELEASED_NAMES:
        return RELEASED_NAMES[name]
    for released, ours in RELEASED_NAMES.items():
        if released not in ("ctx", "ctx_visual"):
            name = name.replace(released, ours)
    return name


def load_released_checkpoint(method: SEP, state: Mapping[str, Tensor]) -> None:
    """Load the trained tensors of a checkpoint of the released code.

    Its dead weights are skipped; so are class prototypes of another number of classes, which no prediction needs.

    Raises:
        ValueError: If a tensor that a prediction needs is missing or of another shape, or the method has lighter
            fusion modules than the released ones; nothing is changed then.
    """
    if method.options.fusion != "own" or method.options.fusion_rank:
        raise ValueError(
            "A checkpoint of the released code has a fusion module of full matrices for each block; it needs fusion "
            f"'own' and fusion_rank 0, got {method.options.fusion!r} and {method.options.fusion_rank}."
        )
    renamed = {from_released_name(name): tensor.float() for name, tensor in state.items()}
    method.load_adapter_state_dict({name: renamed[name] for name in method.adapter_state_dict() if name in renamed})
    prototypes = renamed.get("prototypes")
    if prototypes is not None and prototypes.shape == method.prototypes.shape:
        with torch.no_grad():
            method.prototypes.copy_(prototypes)
