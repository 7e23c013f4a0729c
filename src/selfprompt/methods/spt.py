"""SPT: VPT with prompts initialised as prototypes of the task's patch tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits
from selfprompt.prompts.prototypes import prototypes
from selfprompt.prompts.static import Static, normal_prompts


@dataclass(frozen=True)
class SPTOptions:
    """Options of SPT."""

    prompts: int = 20
    """Prompt tokens (per block, if deep); the paper uses 20 deep or 100 shallow ones."""
    deep: bool = True
    """Whether every block has prompts, or only the first."""
    start: Literal["random", "mean", "max", "kmeans"] = "random"
    """Prototypes: sampled tokens, pooled windows of tokens, or k-means centres."""
    images: int = 0
    """Number of training images to take prototypes from; 0 means all."""
    layer0_position: bool = False
    """Whether the first block's tokens include the position embedding; they do not in the released code."""
    released: bool = False
    """Whether to sample as released: images with replacement, released pooling windows, shallow always random."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg (prompts and patches), patches or prompts."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights: 0.02, for MoCo-v3 0.01."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts)
        if self.images < 0:
            raise ValueError(f"images must be 0 (all) or more, got {self.images}.")


class SPT(Method[SPTOptions]):
    """``logits = W f + b``, with prompts, (1, P, D) or (depth, P, D).

    Deep prompts replace those of the previous block. The final norm is the checkpoint's and frozen. Before ``prepare``
    the prompts are random.

    Source: Wang et al. 2024 (arXiv 2402.02382, ICML 2024), section 3.
    """

    Options = SPTOptions

    @classmethod
    def traits_for(cls, options: SPTOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        layers = self.vision.depth if options.deep else 1
        self.prompts = normal_prompts(layers, options.prompts, self.vision.width, generator=generator)
        self.head = linear_head(self.feature_size, len(self.classes), std=options.head_std, generator=generator)

    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Initialise the prompts from the tokens of the training images."""
        options = self.options
        start = prototypes(
            self.vision,
            source,
            options.prompts,
            layers=len(self.prompts),
            start=options.start,
            generator=generator,
            images=options.images or None,
            released=options.released,
            with_position=options.layer0_position,
            progress=progress,
        )
        with torch.no_grad():
            self.prompts.copy_(start)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.vision(views.pixels, Static(self.prompts), pooling=self.pooling))
