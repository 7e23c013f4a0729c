"""Traits of a method: what the library must know to load its data, train it and store it."""

from dataclasses import dataclass
from typing import Literal

Inputs = Literal["pixels", "features", "both"]
Side = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Traits of a method with given options; the defaults suit a head that is trained on a ViT's pixels."""

    edits: tuple[Side, ...] = ()
    """Sides of the backbone inside which the method puts prompts or changes weights; it needs their blocks, not only
    their features."""
    inputs: Inputs = "pixels"
    """Inputs that ``logits`` and ``loss`` read: pixels, features of the frozen vision tower, or both."""
    pooling: str = "native"
    """How the vision tower's tokens become features: a ``Pooling``, or "auto" for the backbone's default."""
    features_in_training_only: bool = False
    """Whether only ``loss`` reads the features, and ``logits`` only pixels."""
    needs_text: bool = False
    """Whether the backbone must have a text tower (CLIP)."""
    open_vocabulary: bool = False
    """Whether a trained method accepts new class names."""
    batch_independent: bool = True
    """Whether the prediction of an image does not depend on the other images of its batch."""
    closed_form: bool = False
    """Whether ``prepare`` computes the parameters in closed form, so that there are no epochs."""
    repeat_prepare: bool = False
    """Whether a resumed run calls ``prepare`` again, because it computes more than a checkpoint stores."""
    stages: tuple[float, ...] = ()
    """Fractions of the epochs, rising, after which another stage begins, with a learning rate schedule of its own."""
    variable_length: tuple[str, ...] = ()
    """Stored tensors whose first axis gets its length from ``prepare`` or from an artifact."""
    training_only: tuple[str, ...] = ()
    """Trainable parameters that predictions do not need; artifacts do not store them."""

    def stage(self, epoch: int, epochs: int) -> range:
        """Return the epochs of the stage that an epoch belongs to, from 0; ``epochs`` is the length of the run."""
        bounds = [0, *(round(share * epochs) for share in self.stages), epochs]
        return range(max(bound for bound in bounds if bound <= epoch), min(bound for bound in bounds if bound > epoch))
