"""VIPAMIN: VPT with prompts that start at patch tokens with similar keys, and at values new to the attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, uniform_prompts
from selfprompt.prompts.vipamin_start import vipamin_start


@dataclass(frozen=True)
class VIPAMINOptions:
    """Options of VIPAMIN."""

    prompts: int = 100
    """Prompt tokens (per block, if deep); the paper uses 100 shallow or 20 deep ones."""
    deep: bool = False
    """Whether every block has prompts, or only the first."""
    neighbours: int = 32
    """Patch tokens that a prompt starts as the mean of; the paper selects 2, 8, 32 or 128 per data set."""
    orthogonal: float = 0.5
    """Weight of the part whose value is orthogonal to the attention's outputs, 0 to 1; the paper selects 0, 0.5, 1."""
    images: int = 256
    """Number of training images that the patch tokens are averaged over."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg (prompts and patches), patches or prompts."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights: 0.02, for MoCo-v3 0.01."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, neighbours=self.neighbours, images=self.images)
        if not 0 <= self.orthogonal <= 1:
            raise ValueError(f"orthogonal must be in [0, 1], got {self.orthogonal}.")


class VIPAMIN(Method[VIPAMINOptions]):
    """``logits = W f + b``, with prompts, (1, P, D) or (depth, P, D), trained as VPT's.

    Before ``prepare`` the prompts are VPT's random ones, u. They start at ``(1 - orthogonal) match + orthogonal new``:
    match is the mean of the patch tokens, averaged over images, whose keys are most like that of u; new has a value
    that is orthogonal to what the block's attention puts out without prompts.

    Source: arXiv 2510.16446 (NeurIPS 2025); what differs from the reference code is in `prompts.vipamin_start`.
    """

    Options = VIPAMINOptions

    @classmethod
    def traits_for(cls, options: VIPAMINOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        layers = self.vision.depth if options.deep else 1
        self.prompts = uniform_prompts(layers, options.prompts, self.vision.width, self.vision.patch_size, generator)
        self.head = linear_head(self.feature_size, len(self.classes), std=options.head_std, generator=generator)

    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Initialise the prompts from the tokens of the training images."""
        options = self.options
        drawn = torch.randperm(source.size, generator=generator)[: options.images].sort().values
        layers, count, width = self.prompts.shape
        random = uniform_prompts(layers, count, width, self.vision.patch_size, generator)
        start = vipamin_start(
            self.vision,
            source,
            self.prompts.detach(),
            random.detach(),
            images=drawn.tolist(),
            neighbours=options.neighbours,
            orthogonal=options.orthogonal,
            progress=progress,
        )
        with torch.no_grad():
            self.prompts.copy_(start)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.vision(views.pixels, Static(self.prompts), pooling=self.pooling))
