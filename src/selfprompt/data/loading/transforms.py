"""Transforms from an RGB image to normalised pixels, as published for CLIP, on PIL images.

Evaluation: resize the short side to S (in mode "squash", both sides), then crop the centre S x S.
Training: a random crop of 8 to 100 % of the area with aspect ratio 3/4 to 4/3, resized to S x S, then a horizontal flip
with probability 1/2.

PIL alone gives the same bits as torchvision's functions on PIL images, and takes a hundredth of the time to import.
Randomness comes from a `torch.Generator`; torchvision's random transforms use only the global generator, which threads
cannot share. `CropFlip` draws the same numbers in the same order: a generator seeded s gives exactly what
``torch.manual_seed(s)`` and torchvision's v2 ``RandomResizedCrop`` + ``RandomHorizontalFlip`` give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

Augment = Literal["crop-flip", "half-crop-flip", "none"]
SCALES = {"crop-flip": (0.08, 1.0), "half-crop-flip": (0.5, 1.0)}  # the second is Tip-Adapter's
ASPECT_RATIOS = (3 / 4, 4 / 3)
MAX_RESIZED_PIXELS = 1 << 24
"""Largest image that is resized before it is cropped: at S = 224, one that is 334 times as long as it is wide."""
MAX_ATTEMPTS = 10  # torchvision's number of draws before it falls back to a central crop


class PreprocessLike(Protocol):
    """A backbone's preprocessing; `selfprompt.models.loading.by_name.Preprocess` is one."""

    @property
    def size(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def mode(self) -> str: ...


@dataclass(frozen=True)
class Normalise:
    """Maps 8-bit values to ``(x / 255 - mean) / std``, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise pixels ([B,] 3, S, S), uint8; returns float32 of the same shape on the same device."""
        values = pixels.to(torch.float32).div_(255)
        for channel, mean, std in zip(values.unbind(-3), self.mean, self.std, strict=True):
            channel.sub_(mean).div_(std)  # plain numbers: a tensor of them would have to be sent to a GPU
        return values


@dataclass(frozen=True)
class Transform:
    """The evaluation transform: maps an RGB image to normalised float32 pixels, (3, S, S).

    The loader calls its two halves separately: `pixels` on each image in a thread, `batch` on the crops of a batch.
    Keys of cached features contain the repr of a transform, so class and field names must not change.
    """

    size: int
    normalise: Normalise
    interpolation: Image.Resampling
    squash: bool

    random = False

    def __call__(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        return self.normalise(self.pixels(image, generator))

    def deterministic(self) -> "Transform":
        """Return the evaluation transform with the same settings."""
        return Transform(self.size, self.normalise, self.interpolation, self.squash)

    def pixels(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        """Return the S x S crop of an RGB image, (3, S, S), uint8."""
        size, short = self.size, min(image.size)
        width, height = (size if self.squash else size * side // short for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if width * height > MAX_RESIZED_PIXELS:  # a strip: scale only what the crop shows
            across, down = image.width / width, image.height / height
            box = (left * across, top * down, (left + size) * across, (top + size) * down)
            return to_tensor(image.resize((size, size), self.interpolation, box))
        resized = image.resize((width, height), self.interpolation)
        return to_tensor(resized.crop((left, top, left + size, top + size)))

    def batch(self, pixels: Sequence[Tensor], device: torch.device) -> Tensor:
        """Stack crops (3, S, S), uint8, and return normalised float32 pixels, (B, 3, S, S), on a device; B may be 0.

        The bytes are sent to the device before they are normalised: a quarter of the size of the floats.
        """
        if not pixels:
            return torch.empty(0, 3, self.size, self.size, device=device)
        return self.normalise(to_device(torch.stack(list(pixels)), device))


@dataclass(frozen=True)
class CropFlip(Transform):
    """Random resized crop and horizontal flip; without a generator, uses the global one."""

    scale: tuple[float, float]

    random = True

    def pixels(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        """Return a random S x S crop of an RGB image, (3, S, S), uint8."""
        top, left, height, width = draw_crop(image.height, image.width, self.scale, generator)
        crop = image.crop((left, top, left + width, top + height)).resize((self.size, self.size), self.interpolation)
        if torch.rand(1, generator=generator) < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(crop)


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as a tensor, (3, H, W), uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a CPU tensor to a device; to a GPU from pinned memory, without waiting."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def eval_transform(preprocess: PreprocessLike) -> Transform:
    """Return the transform for evaluation.

    Args:
        preprocess: The backbone's preprocessing; ``mode`` is "shortest" (resize the short side, crop the centre) or
            "squash" (resize both sides).

    Raises:
        ValueError: If the mode or the interpolation is unknown.
    """
    interpolation, squash = _settings(preprocess)
    return Transform(preprocess.size, _normalise(preprocess), interpolation, squash)


def train_transform(
    preprocess: PreprocessLike, augment: Augment = "crop-flip", scale: tuple[float, float] | None = None
) -> Transform:
    """Return the transform for training.

    Args:
        preprocess: The backbone's preprocessing.
        augment: "crop-flip", "half-crop-flip", or "none" for the evaluation transform.
        scale: Smallest and largest fraction of the area that a crop covers; None for that of ``augment``.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """
    if augment == "none":
        return eval_transform(preprocess)
    if augment not in SCALES:
        raise ValueError(f"Unknown augment {augment!r}. Known: {', '.join(SCALES)}, none.")
    scale = scale or SCALES[augment]
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be 0 < smallest <= largest <= 1, got {scale}.")
    interpolation, squash = _settings(preprocess)
    return CropFlip(preprocess.size, _normalise(preprocess), interpolation, squash, scale)


def draw_crop(
    height: int, width: int, scale: tuple[float, float], generator: Generator | None
) -> tuple[int, int, int, int]:
    """Draw a crop as torchvision's RandomResizedCrop does; returns (top, left, height, width)."""
    log_ratio = [math.log(side) for side in ASPECT_RATIOS]
    for _ in range(MAX_ATTEMPTS):
        area = height * width * torch.empty(1).uniform_(*scale, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(*log_ratio, generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
            return top, left, h, w
    return _central_crop(height, width)


def _central_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest central crop with an allowed aspect ratio."""
    h, w = height, width
    if width / height < ASPECT_RATIOS[0]:
        h = round(w / ASPECT_RATIOS[0])
    elif width / height > ASPECT_RATIOS[1]:
        w = round(h * ASPECT_RATIOS[1])
    return (height - h) // 2, (width - w) // 2, h, w


def _normalise(preprocess: PreprocessLike) -> Normalise:
    return Normalise(tuple(preprocess.mean), tuple(preprocess.std))


def _settings(preprocess: PreprocessLike) -> tuple[Image.Resampling, bool]:
    if preprocess.mode not in ("shortest", "squash"):
        raise ValueError(f"Unknown resize mode {preprocess.mode!r}. Known: shortest, squash.")
    known = [mode.name.lower() for mode in Image.Resampling]
    if preprocess.interpolation not in known:
        raise ValueError(f"Unknown interpolation {preprocess.interpolation!r}. Known: {', '.join(known)}.")
    return Image.Resampling[preprocess.interpolation.upper()], preprocess.mode == "squash"
