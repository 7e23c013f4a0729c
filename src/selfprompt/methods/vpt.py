"""VPT: randomly initialised prompts before the first block (shallow) or before every block (deep)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import rare_class_head
from selfprompt.methods.traits import Traits
from selfprompt.models.timm_vit import TimmViT
from selfprompt.models.tower import VisionTower
from selfprompt.prompts.static import Static, uniform_prompts


@dataclass(frozen=True)
class VPTOptions:
    """Options of VPT."""

    prompts: int = 10
    """Prompt tokens (per block, if deep)."""
    deep: bool = True
    """Whether every block has prompts, or only the first."""
    dropout: float = 0.1
    """Dropout on the prompts in training; the paper uses 0.1 for deep, 0 for shallow."""
    project: int = 0
    """Width of the prompts before a learned projection to the backbone's width; 0: no projection."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg (prompts and patches), patches or prompts."""
    reset_norm: bool = False
    """Whether averaged features pass a norm with weight 1 and bias 0, as released for MAE, not the pretrained one."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.project < 0:
            raise ValueError(f"project must be 0 (none) or a width, got {self.project}.")


class VPT(Method[VPTOptions]):
    """``logits = W f + b`` on features of images with prompts.

    Prompts are initialised uniform in +-sqrt(6 / (3 p^2 + D)) for patch size p; the head has Kaiming-normal (fan-out)
    weights and bias -log(99).

    Differs from the reference code: on MAE backbones the pretrained final norm is used; the released code never loads
    it, which ``reset_norm`` reproduces.

    Source: Jia et al. 2022 (arXiv 2203.12119), sections 3.2 and 4.
    """

    Options = VPTOptions

    @classmethod
    def traits_for(cls, options: VPTOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        options = self.options
        if options.reset_norm and not (self.pooling in ("avg", "patches", "prompts") and last_norm(self.vision)):
            raise ValueError(
                "reset_norm needs a plain ViT with averaged features; "
                f"{self.backbone.name} has pooling {self.pooling!r}."
            )
        layers = self.vision.depth if options.deep else 1
        width = options.project or self.vision.width
        self.prompts = uniform_prompts(layers, options.prompts, width, self.vision.patch_size, generator)
        self.projection: nn.Module = nn.Identity()
        if options.project:
            self.projection = nn.Linear(width, self.vision.width)
            nn.init.kaiming_normal_(self.projection.weight, a=0, mode="fan_out", generator=generator)
            nn.init.uniform_(self.projection.bias, -(width**-0.5), width**-0.5, generator=generator)
        self.head = rare_class_head(self.feature_size, len(self.classes), generator=generator)

    def block_prompts(self) -> Tensor:
        """Return the prompts of each block, (1, P, D) or (depth, P, D)."""
        prompts: Tensor = self.projection(self.prompts)
        return prompts

    def logits(self, views: Views) -> Tensor:
        dropout = self.options.dropout if self.training else 0.0
        prompter = Static(self.block_prompts(), dropout=dropout)
        features = self.vision(views.pixels, prompter, pooling=self.pooling)
        norm = last_norm(self.vision) if self.options.reset_norm else None
        if norm is not None:  # undo the affine part of the norm
            features = (features - norm.bias) / norm.weight
        return self.head(features)


def last_norm(vision: VisionTower) -> nn.LayerNorm | None:
    """Return the norm of averaged features of a plain timm ViT; None for other towers."""
    if not isinstance(vision, TimmViT) or not isinstance(vision.head, nn.Identity):
        return None
    return next((norm for norm in (vision.vit.fc_norm, vision.vit.norm) if isinstance(norm, nn.LayerNorm)), None)
