"""BPT: VPT with prompts that are the product of two matrices of low rank."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import linear_head
from selfprompt.methods.traits import Traits
from selfprompt.prompts.static import Static, normal_prompts


@dataclass(frozen=True)
class BPTOptions:
    """Options of BPT."""

    prompts: int = 50
    """Prompt tokens (per block, if deep); the paper uses 50 deep or 100 shallow ones."""
    rank: int = 50
    """Columns of both matrices; the paper uses 50 for deep, 75 for shallow prompts."""
    deep: bool = True
    """Whether every block has prompts, or only the first."""
    last: int = 4
    """Number of last blocks whose channel matrix is trained, if deep; those of the others keep their random start."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg (prompts and patches), patches or prompts."""
    head_std: float = 0.02
    """Standard deviation of the head's initial weights: 0.02, for MoCo-v3 0.01."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts, rank=self.rank, last=self.last)


class BPT(Method[BPTOptions]):
    """``logits = W f + b``, with prompts ``A B^T``: A, (P, R), from N(0, 0.02^2), and B, (D, R), Xavier uniform.

    There is neither a bias nor an activation. Deep prompts have both matrices for each block, and replace the prompts
    of the previous block.

    Differs from the reference code: its start by whitening is left out. It inverts directions that hold rounding noise
    alone, and the published numbers are those of the random start.

    Source: Wang et al. 2025 (arXiv 2506.22908, ICCV 2025); released code WangYZ1608/BPT.
    """

    Options = BPTOptions
    fixed: Tensor

    @classmethod
    def traits_for(cls, options: BPTOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        options, width = self.options, self.vision.width
        layers = self.vision.depth if options.deep else 1
        self.tokens = normal_prompts(layers, options.prompts, options.rank, generator=generator)
        bound = (6 / (width + options.rank)) ** 0.5
        channels = torch.empty(layers, width, options.rank).uniform_(-bound, bound, generator=generator)
        kept = max(0, layers - options.last)
        self.channels = nn.Parameter(channels[kept:].clone())
        self.register_buffer("fixed", channels[:kept].clone(), persistent=kept > 0)
        self.head = linear_head(self.feature_size, len(self.classes), std=options.head_std, generator=generator)

    def prompts(self) -> Tensor:
        """Return the prompts, (1, P, D) or (depth, P, D)."""
        return self.tokens @ torch.cat([self.fixed, self.channels]).transpose(1, 2)

    def logits(self, views: Views) -> Tensor:
        return self.head(self.vision(views.pixels, Static(self.prompts()), pooling=self.pooling))
