"""CLIP-LoRA with a vector for each trained class, so that the shared updates need not learn what is special to one."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows
from selfprompt.methods.clip_lora import CLIPLoRA, CLIPLoRAOptions
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class ClassLoRAOptions(CLIPLoRAOptions):
    """Options of CLIP-LoRA with class vectors."""

    kept: float = 0.5
    """Fraction of the class vectors that is kept at the end of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kept <= 1:
            raise ValueError(f"kept must be in [0, 1], got {self.kept}.")


class ClassLoRA(CLIPLoRA):
    """``logits = scale cos(f, t_c + r_c)``, with f and t_c of CLIP-LoRA and a vector r_c of each trained class.

    The vectors, which start at zero, learn what belongs to one class; what remains for the low-rank updates is what
    the classes have in common, and that carries over to classes that were not trained. Those have no vector, and all
    classes are compared by one rule. At the end of the training the vectors are scaled by ``kept``.

    Differs from the reference code: there is none. See docs/ours.md.
    """

    Options = ClassLoRAOptions
    options: ClassLoRAOptions
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: CLIPLoRAOptions) -> Traits:
        return Traits(
            edits=("image", "text"),
            needs_text=True,
            open_vocabulary=True,
            variable_length=("vectors", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        super().build(generator)
        keys = name_keys(self.classes).to(self.ids.device)
        self.vectors = nn.Parameter(torch.zeros(len(self.classes), self.feature_size))
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("known", keys.clone())

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return super().problems_with(tensors) or unequal_rows(tensors, "known", "vectors")

    def encode_classes(self) -> Tensor:
        texts = super().encode_classes()
        vectors = rows_by_name(self.keys, self.known, self.vectors, torch.zeros_like(texts))
        return unit(texts + vectors)

    @torch.no_grad()
    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Scale the vectors after the last epoch."""
        if epoch == epochs - 1:
            self.vectors.mul_(self.options.kept)
