"""Traits of a method: what the library must know about it to load data for it, train it and store it."""

from dataclasses import dataclass
from typing import Literal

Inputs = Literal["pixels", "features", "both"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a method is, with given options. The defaults suit a method that trains prompts in the vision tower."""

    inputs: Inputs = "pixels"
    """What ``logits`` and ``loss`` read of an image: pixels, features of the frozen vision tower, or both."""
    pooling: str = "native"
    """How the vision tower's tokens become features: a ``Pooling``, or "auto" for the one that suits the backbone."""
    features_in_training_only: bool = False
    """Whether ``loss`` alone reads the features, and ``logits`` pixels."""
    needs_text: bool = False
    """Whether the backbone must be a CLIP."""
    open_vocabulary: bool = False
    """Whether the method takes other class names after training."""
    batch_independent: bool = True
    """Whether a prediction depends on its own image alone, and not on the other images of the batch."""
    closed_form: bool = False
    """Whether ``prepare`` computes the parameters, so that there are no epochs."""
    repeat_prepare: bool = False
    """Whether a resumed run calls ``prepare`` again, because it makes more than a checkpoint holds."""
    variable_length: tuple[str, ...] = ()
    """Stored tensors whose first axis has as many entries as ``prepare`` or an artifact gives them."""
    training_only: tuple[str, ...] = ()
    """Trainable parameters that no prediction needs; an artifact leaves them out."""
