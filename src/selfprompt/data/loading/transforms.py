"""Transforms from an RGB image to normalised pixels, as published for CLIP, on PIL images.

Evaluation: resize the short side to S and crop the centre S x S; in mode "squash", resize both sides to S; in mode
"pad", resize the long side to S and centre the image on a square of the mean colour. Some backbones were evaluated on
the centre S x S of an image resized to more than S.
Training: a random crop of 8 to 100 % of the area with aspect ratio 3/4 to 4/3, resized to S x S, then a horizontal flip
with probability 1/2. Either may be left out. In mode "pad", the crop is taken of the padded square.

PIL alone gives the same bits as torchvision's functions on PIL images, and takes a hundredth of the time to import.
Randomness comes from a `torch.Generator`; torchvision's random transforms use only the global generator, which threads
cannot share. `CropFlip` draws the same numbers in the same order: a generator seeded s gives exactly what
``torch.manual_seed(s)`` and torchvision's v2 ``RandomResizedCrop`` + ``RandomHorizontalFlip`` give.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from selfprompt.data.loading.image_views import (
    PreprocessLike,
    centre_view,
    check_resize,
    filter_of,
    mean_colour,
    padded_view,
    padded_window,
)

Augment = Literal["crop-flip", "half-crop-flip", "none"]
SMALLEST = {"crop-flip": 0.08, "half-crop-flip": 0.5}
"""Smallest fraction of the area that a crop covers; the second is Tip-Adapter's."""
ASPECT_RATIOS = (3 / 4, 4 / 3)
MAX_ATTEMPTS = 10  # torchvision's number of draws before it falls back to a central crop


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

    Attributes:
        size: Height and width S of the result.
        normalise: Maps 8-bit values to the model's.
        interpolation: Filter of the resizing.
        squash: Whether both sides are resized, instead of the short one.
        resize: Size to resize to before the centre is cropped; None for S.
    """

    size: int
    normalise: Normalise
    interpolation: Image.Resampling
    squash: bool
    resize: int | None = field(default=None, kw_only=True)

    random = False

    def __repr__(self) -> str:
        named = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self)]
        return f"{type(self).__name__}({', '.join(named)})".replace("resize=None, ", "").replace(", resize=None", "")

    def __call__(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        return self.normalise(self.pixels(image, generator))

    def deterministic(self) -> "Transform":
        """Return the evaluation transform with the same settings."""
        return Transform(self.size, self.normalise, self.interpolation, self.squash, resize=self.resize)

    def pixels(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        """Return the S x S view of an RGB image, (3, S, S), uint8."""
        return to_tensor(self.view(image))

    def view(self, image: Image.Image) -> Image.Image:
        """Return the deterministic S x S view of an RGB image."""
        return centre_view(image, self.size, self.interpolation, squash=self.squash, resize=self.resize)

    def batch(self, pixels: Sequence[Tensor], device: torch.device) -> Tensor:
        """Stack crops (3, S, S), uint8, and return normalised float32 pixels, (B, 3, S, S), on a device; B may be 0.

        The bytes are sent to the device before they are normalised: a quarter of the size of the floats.
        """
        if not pixels:
            return torch.empty(0, 3, self.size, self.size, device=device)
        return self.normalise(to_device(torch.stack(list(pixels)), device))


@dataclass(frozen=True, repr=False)
class PadTransform(Transform):
    """The evaluation transform that shows the whole image, undistorted, on a square of the mean colour."""

    def deterministic(self) -> "PadTransform":
        """Return this transform."""
        return self

    def view(self, image: Image.Image) -> Image.Image:
        """Return an RGB image centred on an S x S square; its long side has S pixels, the short one at least 1."""
        return padded_view(image, self.size, self.interpolation, mean_colour(self.normalise.mean))

    def window(self, image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
        """Return a window of the padded square of an RGB image, resized to S x S."""
        colour = mean_colour(self.normalise.mean)
        return padded_window(image, (top, left, height, width), self.size, self.interpolation, colour)


@dataclass(frozen=True, repr=False)
class CropFlip(Transform):
    """Random resized crop and horizontal flip; without a generator, uses the global one."""

    scale: tuple[float, float]

    random = True

    def pixels(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        """Return a random S x S crop of an RGB image, (3, S, S), uint8."""
        top, left, height, width = draw_crop(image.height, image.width, self.scale, generator)
        crop = image.crop((left, top, left + width, top + height)).resize((self.size, self.size), self.interpolation)
        return to_tensor(_mirrored_half_the_time(crop, generator))


@dataclass(frozen=True, repr=False)
class RandomView(Transform):
    """The other random views: a crop alone, a flip alone, or with padding; without a generator, uses the global one.

    Attributes:
        pad: Whether the image is padded to a square first.
        scale: Smallest and largest fraction of the area that a crop covers; None for the view of the evaluation.
        flip: Whether to mirror the view with probability 1/2.
    """

    pad: bool
    scale: tuple[float, float] | None
    flip: bool

    random = True

    def deterministic(self) -> Transform:
        """Return the evaluation transform with the same settings."""
        kind = PadTransform if self.pad else Transform
        return kind(self.size, self.normalise, self.interpolation, self.squash, resize=self.resize)

    def pixels(self, image: Image.Image, generator: Generator | None = None) -> Tensor:
        """Return a random S x S view of an RGB image, (3, S, S), uint8."""
        plain = self.deterministic()
        if self.scale is None:
            view = plain.view(image)
        elif isinstance(plain, PadTransform):
            side = max(image.size)
            view = plain.window(image, *draw_crop(side, side, self.scale, generator))
        else:
            top, left, height, width = draw_crop(image.height, image.width, self.scale, generator)
            part = image.crop((left, top, left + width, top + height))
            view = part.resize((self.size, self.size), self.interpolation)
        return to_tensor(_mirrored_half_the_time(view, generator) if self.flip else view)


def _mirrored_half_the_time(image: Image.Image, generator: Generator | None) -> Image.Image:
    """Draw whether to mirror an image."""
    mirrored = torch.rand(1, generator=generator) < 0.5
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image


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
        preprocess: The backbone's preprocessing; ``mode`` is "shortest" (resize the short side, crop the centre),
            "squash" (resize both sides) or "pad" (resize the long side, pad to a square).

    Raises:
        ValueError: If the mode or the interpolation is unknown, or images are resized to less than their crop.
    """
    interpolation = filter_of(preprocess)
    check_resize(preprocess)
    kind = PadTransform if preprocess.mode == "pad" else Transform
    squash = preprocess.mode == "squash"
    return kind(preprocess.size, _normalise(preprocess), interpolation, squash, resize=preprocess.resize)


def train_transform(
    preprocess: PreprocessLike, augment: Augment = "crop-flip", *, crop: float | None = None, flip: bool | None = None
) -> Transform:
    """Return the transform for training.

    Random crops are stretched to S x S in every mode; with "pad" they are taken of the padded square. ``resize`` sets
    only the view without a random crop.

    Args:
        preprocess: The backbone's preprocessing.
        augment: "crop-flip", "half-crop-flip", or "none" for the evaluation transform.
        crop: Smallest fraction of the area that a random crop covers, in (0, 1]; 1 for the view of the evaluation,
            None for what ``augment`` says.
        flip: Whether to mirror with probability 1/2; None for what ``augment`` says.

    Raises:
        ValueError: If an argument is unknown or out of range.
    """
    if augment not in (*SMALLEST, "none"):
        raise ValueError(f"Unknown augment {augment!r}. Known: {', '.join(SMALLEST)}, none.")
    smallest = SMALLEST.get(augment, 1.0) if crop is None else crop
    if not 0 < smallest <= 1:
        raise ValueError(f"crop must be above 0 and at most 1, got {smallest}.")
    plain, flips = eval_transform(preprocess), augment != "none" if flip is None else flip
    scale = (smallest, 1.0) if smallest < 1 else None
    pad = isinstance(plain, PadTransform)
    if scale is None and not flips:
        return plain
    settings = (plain.size, plain.normalise, plain.interpolation, plain.squash)
    if scale and flips and not pad:
        return CropFlip(*settings, scale, resize=plain.resize)
    return RandomView(*settings, pad, scale, flips, resize=plain.resize)


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
