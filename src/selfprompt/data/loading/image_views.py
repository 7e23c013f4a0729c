"""The S x S view of an image that a backbone sees, as published for it; knows only PIL.

Mode "shortest": resize the short side to S and crop the centre; "squash": resize both sides to S; "pad": resize the
long side to S and centre the image on a square of the mean colour. Random views and normalisation are in
`selfprompt.data.loading.transforms`; `selfprompt.runtime` uses these functions without torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

MODES = ("shortest", "squash", "pad")
MAX_RESIZED_PIXELS = 1 << 24
"""Largest image that is resized before it is cropped: at S = 224, one that is 334 times as long as it is wide."""


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
    @property
    def resize(self) -> int | None: ...


def view_of(preprocess: PreprocessLike) -> Callable[[Image.Image], Image.Image]:
    """Return the function from an RGB image to its S x S view.

    Raises:
        ValueError: If the mode or the interpolation is unknown, or images are resized to less than their crop.
    """
    interpolation = filter_of(preprocess)
    check_resize(preprocess)
    size, squash, resize = preprocess.size, preprocess.mode == "squash", preprocess.resize
    if preprocess.mode == "pad":
        colour = mean_colour(preprocess.mean)
        return lambda image: padded_view(image, size, interpolation, colour)
    return lambda image: centre_view(image, size, interpolation, squash=squash, resize=resize)


def centre_view(
    image: Image.Image, size: int, interpolation: Image.Resampling, *, squash: bool = False, resize: int | None = None
) -> Image.Image:
    """Return the centre S x S of an RGB image, of which the short side, or with ``squash`` each, is resized first.

    Args:
        image: The image.
        size: S.
        interpolation: Filter of the resizing.
        squash: Whether both sides are resized.
        resize: Pixels that are resized to, at least S; None for S.
    """
    short, target = min(image.size), resize or size
    width, height = (target if squash else target * side // short for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > MAX_RESIZED_PIXELS:  # a strip: scale only what the crop shows
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), interpolation, box)
    resized = image.resize((width, height), interpolation)
    return resized.crop((left, top, left + size, top + size))


def padded_view(image: Image.Image, size: int, interpolation: Image.Resampling, colour: tuple[int, ...]) -> Image.Image:
    """Return an RGB image centred on an S x S square; its long side has S pixels, the short one at least 1."""
    side = max(image.size)
    return padded_window(image, (0, 0, side, side), size, interpolation, colour)


def padded_window(
    image: Image.Image,
    window: tuple[int, int, int, int],
    size: int,
    interpolation: Image.Resampling,
    colour: tuple[int, ...],
) -> Image.Image:
    """Return a window of the padded square of an RGB image, resized to S x S.

    The square is as wide as the long side of the image. It is never built: of a strip it would be too large.

    Args:
        image: The image.
        window: Top, left, height and width, in pixels of the square.
        size: S.
        interpolation: Filter of the resizing.
        colour: Colour of the square.
    """
    top, left, height, width = window
    side = max(image.size)
    result = Image.new("RGB", (size, size), colour)
    across = _visible(image.width, left - (side - image.width) // 2, width, size)
    down = _visible(image.height, top - (side - image.height) // 2, height, size)
    if across and down:
        part = image.crop((across.start, down.start, across.stop, down.stop))
        scaled = part.resize((across.pixels, down.pixels), interpolation)
        result.paste(scaled, (across.offset, down.offset))
    return result


def mean_colour(mean: Sequence[float]) -> tuple[int, ...]:
    """Return a mean per channel, of values in [0, 1], as an 8-bit colour, which normalisation maps to about 0."""
    return tuple(min(255, max(0, round(255 * value))) for value in mean)


@dataclass(frozen=True)
class _Stretch:
    """The part of one side of an image that a window shows: pixels start to stop, at an offset in the view."""

    start: int
    stop: int
    offset: int
    pixels: int


def _visible(length: int, begin: int, extent: int, size: int) -> _Stretch | None:
    """Return what a window of an extent shows of a side of an image; None for nothing.

    Args:
        length: Length of the side.
        begin: Where the window begins, counted from the image's edge.
        extent: Length of the window.
        size: Length of the view that it is scaled to.
    """
    start, stop = max(0, begin), min(length, begin + extent)
    if start >= stop:
        return None
    offset = min(size - 1, round((start - begin) * size / extent))
    end = max(offset + 1, round((stop - begin) * size / extent))
    return _Stretch(start, stop, offset, end - offset)


def check_resize(preprocess: PreprocessLike) -> None:
    """Raise ValueError if images are resized to less than their crop, or padded ones are cropped."""
    if preprocess.resize is None:
        return
    if preprocess.mode == "pad":
        raise ValueError("The mode pad shows the whole image: resize must be None; use the mode shortest to crop.")
    if preprocess.resize < preprocess.size:
        raise ValueError(
            f"Images must be resized to at least the {preprocess.size} pixels that are cropped, "
            f"got {preprocess.resize}."
        )


def filter_of(preprocess: PreprocessLike) -> Image.Resampling:
    """Return the filter of the resizing; raises ValueError if it or the mode is unknown."""
    if preprocess.mode not in MODES:
        raise ValueError(f"Unknown resize mode {preprocess.mode!r}. Known: {', '.join(MODES)}.")
    known = [mode.name.lower() for mode in Image.Resampling]
    if preprocess.interpolation not in known:
        raise ValueError(f"Unknown interpolation {preprocess.interpolation!r}. Known: {', '.join(known)}.")
    return Image.Resampling[preprocess.interpolation.upper()]
