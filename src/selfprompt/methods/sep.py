"""SEP: prompts in both CLIP towers, refreshed before each block from representative tokens of the input."""

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
    add_prompts,
    check_template,
    embed_distinct_tokens,
    embed_text,
    encode_template,
    filled_templates,
    names_and_sentences,
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
    """Options of SEP. The defaults fuse within one input; the recipe sep-authors behaves like the released code.

    The last four options are ours; their defaults are the paper's method.
    """

    text_prompts: int = 6
    """Prompt tokens in the text tower (n)."""
    image_prompts: int = 4
    """Prompt tokens in the vision tower (m)."""
    layers: tuple[int, ...] = ()
    """Blocks, counted from 0, before which prompts are refreshed; empty means all but the first."""
    fusion_axis: Literal["tokens", "batch"] = "tokens"
    """Whether fusion attends over the tokens of one input, or (as released) across the inputs of a batch."""
    selection: Literal["image", "batch"] = "image"
    """Whether representative patches are selected for each image, or (as released) once per batch."""
    text_tokens: Literal["following", "valid"] = "following"
    """Representative text tokens: the n after the prompts, including padding, or only those up to EOT."""
    init_text: str = ""
    """Text that initialises the text prompts; it must have text_prompts tokens. Empty: see text_start."""
    template: str = PHOTO
    """Hand-written text of a class; the learned class features are mixed with its features and stay close to them."""
    text_weight: float = 8.0
    """Weight of the text consistency loss."""
    image_weight: float = 6.0
    """Weight of the image consistency loss."""
    consistency_on: Literal["mixed", "prompted"] = "mixed"
    """Features in the consistency losses: mixed with the frozen ones (as released), or prompted only."""
    prototype_weight: float = 1.0
    """Weight of the auxiliary class-prototype losses."""
    prototype_views: Literal["train", "plain"] = "train"
    """Whether prototypes come from augmented views (as released) or from the evaluation transform (plain)."""
    image_start: Literal["normal", "random", "mean", "max", "kmeans"] = "normal"
    """Initial image prompts: N(0, 0.02^2), or as in SPT: sampled patch tokens, pooled windows or k-means centres."""
    text_start: Literal["normal", "random", "kmeans"] = "normal"
    """Initial text prompts: N(0, 0.02^2), sampled tokens of the class texts, or k-means centres of them."""
    fusion: Literal["own", "shared"] = "own"
    """Fusion modules: one per refreshed block (own), or one per tower (shared)."""
    fusion_rank: int = 0
    """Rank of the matrices of the fusion modules, as products of two; 0 for full matrices."""

    def __post_init__(self) -> None:
        check_positive(text_prompts=self.text_prompts, image_prompts=self.image_prompts)
        check_template(self.template)
        if len(set(self.layers)) < len(self.layers) or any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers must be different block numbers from 0, got {list(self.layers)}.")
        if self.init_text and self.text_start != "normal":
            raise ValueError("init_text and text_start exclude each other: both initialise the text prompts; drop one.")
        if self.fusion_rank < 0:
            raise ValueError(f"fusion_rank must be 0 (full matrices) or more, got {self.fusion_rank}.")


class SEP(Method[SEPOptions]):
    """``logits = scale f . u``, with f and u unit sums of prompted and frozen unit features of image and class text.

    Prompts enter at the input of each tower; before each block in ``layers`` a token fusion module computes new ones
    from the m strongest image tokens, or from the n text tokens after the prompts.

        loss = CE(logits) + w_t (1 - cos(u, u_frozen)) + w_v (1 - cos(f, f_frozen))
               + 1/2 [CE(10 f . W) + CE(10 f_frozen . W)]

    W are class prototypes, (C, E), initialised with class means; they are trained, but predictions do not use them.

    Differs from the reference code: see ``SEPOptions``; there are no unused modules; frozen features are computed
    once; texts are cut after the last position that matters.

    Ours, not the paper's: ``image_start`` and ``text_start`` initialise prompts with prototypes of the task's tokens,
    as SPT does (arXiv 2402.02382); ``fusion`` and ``fusion_rank`` make the fusion modules smaller.

    Source: SEP, arXiv 2405.15549.
    """

    Options = SEPOptions
    ids: Tensor
    frozen_texts: Tensor

    @classmethod
    def traits_for(cls, options: SEPOptions) -> Traits:
        mixes_images = options.fusion_axis == "batch" or options.selection == "batch"  # as released
        return Traits(
            edits=("image", "text"),
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
        texts = names_and_sentences(self.descriptions)
        self.register_texts(texts, add_prompts(texts.texts, options.text_prompts), self._text_positions_read())
        frozen = encode_template(self.backbone, options.template, self.descriptions)
        self.register_buffer("frozen_texts", frozen, persistent=False)
        self.prototypes = nn.Parameter(frozen.clone())

    def _text_positions_read(self) -> int:
        """Return how many positions of a text refreshed prompts read: as many behind the prompts as there are."""
        return int(self.text.layout.start) + 2 * self.options.text_prompts

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
        """Initialise class prototypes with the means of frozen image features, and prompts as the options say.

        Raises:
            ValueError: If a class has no image, or there are too few tokens to initialise the prompts.
        """
        if self.options.image_start != "normal":
            self.image_prompts.copy_(self._patch_prototypes(source, generator))
        if self.options.text_start != "normal":
            self.text_prompts.copy_(self._text_prototypes(generator))
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
        """Compute SPT's prompts for the first block, (m, D): prototypes of the training images' patch embeddings."""
        start, count = self.options.image_start, self.options.image_prompts
        assert start != "normal"
        return prototypes(self.vision, source, count, layers=1, start=start, generator=generator)[0]

    def _text_prototypes(self, generator: torch.Generator) -> Tensor:
        """Sample or cluster the distinct tokens of the hand-written class texts, (n, D).

        SPT's pooled windows are regions of an image, for which short texts have no counterpart.
        """
        start, count = self.options.text_start, self.options.text_prompts
        texts = filled_templates([self.options.template], self.descriptions).texts
        tokens = embed_distinct_tokens(self.backbone, texts)
        if len(tokens) < count:
            raise ValueError(
                f"text_start {start!r} needs {count} different tokens in the class texts, and they have {len(tokens)}; "
                "use fewer text_prompts, or text_start 'normal'."
            )
        if start == "random":
            return tokens[torch.randperm(len(tokens), generator=generator)[:count]]
        return cluster(tokens, count, seed=int(torch.randint(2**31 - 1, (), generator=generator)))

    def prompted_images(self, images: Tensor) -> Tensor:
        """Compute features of images with prompts, not normalised, (B, E)."""
        select = partial(strongest_tokens, count=self.options.image_prompts, selection=self.options.selection)
        fusions = by_layer(self.image_layers, self.image_fusions)
        return self.vision(images, Fuse(self.image_prompts, fusions, select))

    def prompted_texts(self) -> Tensor:
        """Compute features of the classes with prompts, not normalised, (C, E)."""
        fusions, start = by_layer(self.text_layers, self.text_fusions), self.text.layout.start
        shares = self.text.causal and start  # SOS attends only to itself
        prefix = self.text.shared_prefix(self.ids[:1, :start]) if shares else ()

        def encode(rows: Tensor, ids: Tensor) -> Tensor:
            select = partial(self._text_tokens, ids=ids)
            result: Tensor = self.text(
                ids, Fuse(self.text_prompts, fusions, select, in_place=True), shared_prefix=prefix
            )
            return result

        if self.options.fusion_axis == "batch":  # as released: the classes depend on one another
            return self.mean_of_texts(encode(torch.arange(len(self.ids)), self.ids))
        read = self._text_positions_read()
        return self.encode_texts(encode, min_length=read, prefix_length=len(prefix[0]) if prefix else 0)

    def _text_tokens(self, tokens: Tokens, ids: Tensor) -> Tensor:
        """Return the n tokens after the prompts; with "valid", EOT replaces the positions after it."""
        count = self.options.text_prompts
        if self.options.text_tokens == "following":
            return tokens.body[:, :count]
        last = self.text.layout.ends(ids) - self.text.layout.start - count
        index = torch.arange(count, device=last.device).minimum(last[:, None])
        return tokens.body.gather(1, index[..., None].expand(-1, -1, tokens.x.shape[-1]))

    def image_features(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit features of images, (B, E) each: frozen, prompted and mixed."""
        frozen = unit(self.frozen_features(views))
        prompted = unit(self.prompted_images(views.pixels))
        return frozen, prompted, unit(prompted + frozen)

    def encode_classes(self) -> Tensor:
        return unit(unit(self.prompted_texts()) + self.frozen_texts)

    def encode_images(self, views: Views) -> Tensor:
        return self.image_features(views)[2]

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
    """Return the blocks of a tower before which prompts are refreshed; an empty list means all but the first.

    Raises:
        ValueError: If the tower has no such block.
    """
    blocks = tuple(sorted(layers)) or tuple(range(1, tower.depth))
    if blocks and blocks[-1] >= tower.depth:
        raise ValueError(f"layers names block {blocks[-1]}, but a tower has blocks 0 to {tower.depth - 1}.")
    return blocks


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

    Unused weights are skipped, and so are class prototypes for another number of classes, which predictions do not use.

    Raises:
        ValueError: If a tensor that predictions need is missing or has another shape, or the method has shared or
            low-rank fusion modules; nothing is loaded then.
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
