"""2SFS: LN-tuning of both CLIP towers, then a linear classifier that begins with the tuned class texts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows
from selfprompt.methods.class_texts import PHOTO, check_template, filled_templates
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits
from selfprompt.prompts.tuned_weights import NORMS, TunedWeights


@dataclass(frozen=True)
class TwoStageOptions:
    """Options of 2SFS."""

    first: float = 0.6
    """Fraction of the epochs that tune the norms; the others train the classifier."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_template(self.template)
        if not 0 < self.first < 1:
            raise ValueError(f"first must be above 0 and below 1, got {self.first}.")


class TwoStage(Method[TwoStageOptions]):
    """``logits = scale cos(f, w_c)``: first w_c = t_c with tuned towers, then w_c is trained with these towers frozen.

    The first stage tunes gains and biases of the layer norms in the blocks of both towers. The second begins with w_c
    the unit feature of the tuned class text, and trains w_c alone; the learning rate's schedule begins anew. Classes
    that were not trained are scored by their text in the tuned tower.

    The released code also gives the norms outside the blocks to the optimiser, but freezes them: they stay as they
    are here. Stages change between two epochs.

    Source: Farina et al. 2025 (2SFS, arXiv 2503.11609), section 4; released code
    FarinaMatteo/rethinking_fewshot_vlms.
    """

    Options = TwoStageOptions
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: TwoStageOptions) -> Traits:
        return Traits(
            edits=("image", "text"),
            needs_text=True,
            open_vocabulary=True,
            stages=(options.first,),
            variable_length=("classifier", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        self.image_weights = TunedWeights(self.vision, NORMS)
        self.text_weights = TunedWeights(self.text, NORMS)
        self.register_texts(filled_templates([self.options.template], self.descriptions))
        self.register_buffer("keys", name_keys(self.classes).to(self.ids.device), persistent=False)
        self.classifier = nn.Parameter(torch.zeros(len(self.classes), self.feature_size))
        self.register_buffer("known", torch.zeros_like(self.keys))  # in the second stage the keys of the rows

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return super().problems_with(tensors) or unequal_rows(tensors, "known", "classifier")

    @property
    def second_stage(self) -> bool:
        """Whether the classifier is trained, and the towers no longer."""
        return not torch.compiler.is_compiling() and bool(self.known.any())

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Begin the second stage after the last epoch of the first."""
        if epoch + 1 == self.traits.stage(0, epochs).stop:
            with torch.no_grad():
                self.classifier.copy_(self.encode_class_texts())
                self.known.copy_(self.keys)

    def encode_class_texts(self) -> Tensor:
        """Compute unit features of the class texts in the tuned tower, (C, E)."""
        return unit(self.encode_texts_with_shared_prefix(self.text_weights, throughout=True))

    def encode_classes(self) -> Tensor:
        if not self.second_stage and not torch.compiler.is_compiling():
            return self.encode_class_texts()
        if self.second_stage and torch.isin(self.keys, self.known).all():
            texts = torch.zeros_like(self.classifier[:1])  # not read
        else:
            with torch.no_grad():
                texts = self.encode_class_texts()
        return unit(rows_by_name(self.keys, self.known, self.classifier, texts))

    def encode_images(self, views: Views) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.second_stage):
            return unit(self.vision(views.pixels, self.image_weights))
