"""A loaded backbone: towers, tokenizer, preprocessing and fingerprint, whichever library built it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from selfprompt.models.tower import Pooling, TextTower, Tower, VisionTower


class Tokenizer(Protocol):
    """Texts -> ids, (N, context), int64: ``start | words | end | padding``."""

    def __call__(self, texts: Sequence[str], /) -> Tensor:
        """Return the ids of texts; too long ones are cut."""

    def encode(self, text: str, /) -> list[int]:
        """Return the ids of the words of a text of any length."""


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of the images of a backbone.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel.
        interpolation: "bicubic", "bilinear" or "nearest".
        mode: "shortest" resizes the shorter side and crops the centre, "squash" resizes both sides, "pad" resizes the
            longer side and pads to a square.
        resize: Pixels that "shortest" and "squash" resize to before the centre is cropped; None for ``size``.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    mode: str = "shortest"
    resize: int | None = None

    def at_size(self, size: int) -> Self:
        """Return the preprocessing for images of another size, which show the same part of a photo."""
        resize = self.resize and max(size, round(self.resize * size / self.size))
        return replace(self, size=size, resize=resize)

    def record(self) -> dict[str, Any]:
        """Return the values for JSON; an absent key stands for None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen backbone, ready for a method.

    Attributes:
        name: As given to ``load_backbone``.
        vision: Image tower.
        text: Text tower, None for a plain ViT.
        tokenizer: Texts -> ids, (N, context); None without a text tower, or if the tower came without a tokenizer.
        scale: exp(logit_scale) of the CLIP; 1.0 without text.
        preprocess: Preprocessing of images.
        pooling: Pooling that suits the checkpoint when a method trains a head on it.
        bias: Logit bias of a SigLIP, else 0.0.
        note: A remark that every output must show; empty for a pretrained backbone.
        image_size: Pixels of the images, if they were given to ``load_backbone``; None for the model's own size.
        revision: Commit of its repository on the Hugging Face hub; empty for other sources.
    """

    name: str
    vision: VisionTower
    text: TextTower | None
    tokenizer: Tokenizer | None
    scale: float
    preprocess: Preprocess
    pooling: Pooling = "native"
    bias: float = 0.0
    note: str = ""
    image_size: int | None = None
    revision: str = ""

    @property
    def source(self) -> dict[str, Any]:
        """Where the backbone is from, as JSON values: its name, and the image size and revision where it has them."""
        size = {} if self.image_size is None else {"image_size": self.image_size}
        return {"name": self.name, **size, **({"revision": self.revision} if self.revision else {})}

    def with_image_size(self, size: int) -> Self:
        """Return the backbone for square images of another size; its vision tower is changed in place.

        Raises:
            ValueError: If the vision tower cannot take this size.
        """
        remark = self.vision.set_image_size(size) if (size, size) != self.vision.image_size else ""
        note = ". ".join(filter(None, (self.note, remark)))
        return replace(self, preprocess=self.preprocess.at_size(size), note=note, image_size=size)

    def text_side(self) -> tuple[TextTower, Tokenizer]:
        """Return the text tower and its tokenizer.

        Raises:
            ValueError: If the backbone has no text tower, or the files of its folder include no tokenizer.
        """
        if self.text is None:
            raise ValueError(f"A CLIP backbone is needed to read class names; {self.name} has no text tower.")
        if self.tokenizer is None:
            raise ValueError(
                f"A tokenizer is needed to read class names, and {self.name} has none; put the model's tokenizer.json "
                "beside its config.json, or use a method that reads images alone."
            )
        return self.text, self.tokenizer

    @cached_property
    def architecture(self) -> str:
        """The architecture as JSON, with everything that changes the output, such as QuickGELU."""
        text = None if self.text is None else self.text.facts()
        facts = {"vision": self.vision.facts(), "text": text, "scale": self.scale, "bias": self.bias}
        return json.dumps(facts, sort_keys=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the architecture and of name, shape, dtype and bytes of all weights."""
        digest = hashlib.sha256(self.architecture.encode())
        for side, tower in (("vision", self.vision), ("text", self.text)):
            if tower is not None:
                _add_weights(digest, side, tower)
        return digest.hexdigest()

    def with_preprocess(self, preprocess: Preprocess) -> Self:
        """Return the backbone with another preprocessing of images; the towers are shared."""
        if preprocess == self.preprocess:
            return self
        other: Self = replace(self, preprocess=preprocess)
        for name in ("architecture", "fingerprint"):  # hashing the weights of a large model takes seconds
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other

    def check_finite(self) -> None:
        """Raise ValueError if a weight holds NaN or infinity."""
        towers = {side: tower for side, tower in (("vision", self.vision), ("text", self.text)) if tower is not None}
        weights = {f"{side}.{name}": t for side, tower in towers.items() for name, t in tower.state_dict().items()}
        broken = first_not_finite(weights) or ("" if math.isfinite(self.scale + self.bias) else "its logit scale")
        if broken:
            raise ValueError(
                f"The weights of {self.name} must be finite numbers, and {broken} holds NaN or infinity: the file is "
                "damaged, or its training diverged. Download it again, or use another backbone."
            )

    def to(self, device: torch.device | str) -> Self:
        """Move both towers, in place."""
        self.vision.to(device)
        if self.text is not None:
            self.text.to(device)
        return self


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the name of the first tensor that holds NaN or infinity; empty if all are finite."""
    for name, tensor in tensors.items():  # the sum is a fast check, which may overflow; only then all values are read
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return ""


def _add_weights(digest: "hashlib._Hash", side: str, tower: Tower) -> None:
    """Add a tower's weights to a running hash."""
    for name, tensor in sorted(tower.state_dict().items()):
        digest.update(f"{side}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
