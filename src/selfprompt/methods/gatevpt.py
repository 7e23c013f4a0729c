"""GateVPT: shallow prompts with learned gates and attention temperatures, for self-supervised backbones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import LossTerms, Method
from selfprompt.methods.checks import check_positive
from selfprompt.methods.heads import rare_class_head
from selfprompt.methods.traits import Traits
from selfprompt.prompts.gated import Gated
from selfprompt.prompts.static import uniform_prompts


@dataclass(frozen=True)
class GateVPTOptions:
    """Options of GateVPT."""

    prompts: int = 100
    """Prompt tokens."""
    gate_start: float = 5.0
    """Gates start at sigmoid(-gate_start), so that prompts bypass the blocks at first."""
    dropout: float = 0.1
    """Dropout on the prompts in training."""
    pooling: str = "auto"
    """Pooling of the tokens: auto, native, cls, avg (prompts and patches), patches or prompts."""

    def __post_init__(self) -> None:
        check_positive(prompts=self.prompts)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")


class GateVPT(Method[GateVPTOptions]):
    """``logits = W f + b``, with prompts, a gate after each block but the last, and a temperature per block.

    Temperatures stay in [0.01, 10]: they are clamped before every training step, as in the released code, and where
    they are used.

    Source: Yoo et al. 2023 (arXiv 2306.05067), section 4.
    """

    Options = GateVPTOptions
    temperature_range = (0.01, 10.0)

    @classmethod
    def traits_for(cls, options: GateVPTOptions) -> Traits:
        return Traits(edits=("image",), pooling=options.pooling)

    def build(self, generator: torch.Generator) -> None:
        vision = self.vision
        self.prompts = uniform_prompts(1, self.options.prompts, vision.width, vision.patch_size, generator)
        self.gates = nn.Parameter(torch.full((vision.depth - 1,), -self.options.gate_start))
        self.temperatures = nn.Parameter(torch.ones(vision.depth))
        self.head = rare_class_head(self.feature_size, len(self.classes), generator=generator)

    def loss(self, views: Views) -> LossTerms:
        with torch.no_grad():
            self.temperatures.clamp_(*self.temperature_range)
        return super().loss(views)

    def logits(self, views: Views) -> Tensor:
        # Clamped values with the gradient of the unclamped ones; the parameter itself changes only in training.
        values = self.temperatures.detach()
        temperatures = values.clamp(*self.temperature_range) + (self.temperatures - values)
        dropout = self.options.dropout if self.training else 0.0
        prompter = Gated(self.prompts[0], self.gates, temperatures, dropout=dropout)
        return self.head(self.vision(views.pixels, prompter, pooling=self.pooling))
