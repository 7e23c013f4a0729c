"""SS-Text: class texts moved by the sums of training features, in closed form; SS-Text+ pushes the classes apart."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selfprompt.data.views import Views
from selfprompt.methods.base import Method, TrainingSource
from selfprompt.methods.class_rows import name_keys, rows_by_name, unequal_rows, view_features
from selfprompt.methods.class_texts import PHOTO, check_template, encode_template
from selfprompt.methods.heads import unit
from selfprompt.methods.traits import Traits


@dataclass(frozen=True)
class SSTextOptions:
    """Options of SS-Text."""

    plus: bool = True
    """SS-Text+: classes with few images stay nearer to their texts, and the classes repel each other."""
    template: str = PHOTO
    """Text of a class; {} is the class name."""

    def __post_init__(self) -> None:
        check_template(self.template)


class SSText(Method[SSTextOptions]):
    """``logits = scale cos(f, w_c)`` with ``w_c = t_c + scale / (N lambda_c) sum of f over the images of class c``.

    w_c minimises a linearised cross-entropy plus ``lambda_c |w_c - t_c|^2 / 2``, for unit image features f and unit
    texts t. SS-Text has ``lambda_c = 1 / N`` for N training images, so that its texts count next to nothing. SS-Text+
    has ``lambda_c = 1 / n_c`` for the n_c images of the class, and then subtracts the unit vector along
    ``2 w_c - mean of all w`` from w_c. Classes without images are scored by their text, and so are classes that were
    not trained. Images are seen under the evaluation transform; nothing is selected.

    Do not mix trained and new names: w_c holds image features, which are nearer to any image than a text is, so that an
    image of a new class is nearly always taken for a trained one.

    Differs from the reference code: features and texts are unit vectors, where the paper's medical ones are not;
    lambda has no lower bound (1e-3, from 1,000 images on); classes without images take part in the repulsion only as
    members of the mean.

    Source: Silva-Rodriguez et al. 2025 (arXiv 2506.17500); released code jusiro/SS-Text.
    """

    Options = SSTextOptions
    texts: Tensor
    keys: Tensor
    known: Tensor

    @classmethod
    def traits_for(cls, options: SSTextOptions) -> Traits:
        return Traits(
            inputs="features",
            needs_text=True,
            open_vocabulary=True,
            closed_form=True,
            variable_length=("weight", "known"),
        )

    def build(self, generator: torch.Generator) -> None:
        texts = encode_template(self.backbone, self.options.template, self.descriptions)
        keys = name_keys(self.classes).to(texts.device)
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("keys", keys, persistent=False)
        self.weight = nn.Parameter(texts.clone())
        self.register_buffer("known", keys.clone())

    @torch.no_grad()
    def prepare(
        self,
        source: TrainingSource,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compute the vectors of the classes from the training images."""
        features = unit(view_features(self, source, 0, progress)[0].double())
        texts, scale = self.texts.double().cpu(), self.backbone.scale
        weight = solve(features, source.labels.cpu(), texts, scale, plus=self.options.plus)
        self.weight.data = weight.to(self.texts)
        self.known = self.keys.clone()

    def problems_with(self, tensors: Mapping[str, Tensor]) -> list[str]:
        return super().problems_with(tensors) or unequal_rows(tensors, "known", "weight")

    def encode_images(self, views: Views) -> Tensor:
        return unit(self.frozen_features(views))

    def class_vectors(self) -> Tensor:
        return unit(rows_by_name(self.keys, self.known, self.weight, self.texts))


def solve(features: Tensor, labels: Tensor, texts: Tensor, scale: float, *, plus: bool) -> Tensor:
    """Return the vectors of the classes, not normalised, (C, E).

    Args:
        features: Unit features of the training images, (N, E).
        labels: (N,).
        texts: Unit features of the classes, (C, E).
        scale: Of the cosines.
        plus: Whether as SS-Text+.
    """
    counts = torch.bincount(labels, minlength=len(texts)).to(texts)
    sums = torch.zeros_like(texts).index_add_(0, labels, features)
    if not plus:
        return texts + scale * sums
    weight = texts + scale / len(labels) * counts[:, None] * sums
    pushed = weight - unit(2 * weight - weight.mean(dim=0))
    return torch.where(counts[:, None] > 0, pushed, texts)
