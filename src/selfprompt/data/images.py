"""Opens one image, whatever its kind, as 8-bit RGB; knows only PIL.

A plain RGB or gray JPEG or PNG becomes exactly what ``convert("RGB")`` gives, so published numbers stay
comparable. The rest is made visible the way a person would see it: transparent pixels stand on white, 16-bit
grays are scaled instead of clipped, an animation gives its first frame, and a photograph is turned as its
EXIF orientation says.
"""

from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "PPM",
    "TIFF",
    "WEBP",
)  # whatever the extension; none runs other programs


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used: its file (or ``name[index]``) and the reason in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadImageError(ValueError):
    """Raised where one image cannot be read; carries the `BadImage`."""

    def __init__(self, bad: BadImage) -> None:
        super().__init__(str(bad))
        self.bad = bad


def open_image(path: Path) -> Image.Image:
    """Read an image file as an upright 8-bit RGB image.

    Raises:
        BadImageError: If the file is missing, empty, cut off, no image, or too large to be opened safely.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_size == 0:
            raise ValueError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return to_rgb(upright(image))
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on broken files
        raise BadImageError(BadImage(str(path), reason(error))) from None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where there is none or it cannot be read."""
    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # broken EXIF of an image that is otherwise fine
        return image
    return ImageOps.exif_transpose(image) if turned else image


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB; transparent pixels are composited on white.

    Raises:
        ValueError: If the values of a 32-bit image have no place in 0..65535 (integers) or 0..255 (floats).
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale gray or colour values to 0..255 without clipping.

    Args:
        values: uint8 stays; bool becomes 0 or 255; other integers are 16-bit values, of which the high byte
            is taken (as PIL does for 16-bit colours); floats lie in [0, 1], or in [0, 255].
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer):
        if low < 0 or high > 65535:
            raise ValueError(f"pixel values must lie in 0..65535, got {low}..{high}; convert it to 8 bits")
        return (values >> 8).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also false for NaN
        raise ValueError(f"pixel values must lie in [0, 1] or [0, 255], got {low:.4g}..{high:.4g}")
    scaled = values * 255 if high <= 1 else values
    return scaled.round().astype(np.uint8)


def from_value(value: Any) -> Image.Image:
    """A data set's image as RGB: from a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W).

    Raises:
        TypeError: If it is none of these.
        ValueError: If its shape or values are not an image's.
    """
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if hasattr(value, "detach"):  # a tensor, known without importing torch
        value = value.detach().cpu().numpy()
        value = np.moveaxis(value, 0, -1) if value.ndim == 3 else value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"an image must be a PIL image, an array or a tensor, got {type(value).__name__}")
    if value.ndim == 3 and value.shape[-1] == 1:
        value = value[..., 0]
    if value.size == 0 or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[-1] not in (3, 4)):
        raise ValueError(f"an image must have 1, 3 or 4 channels, got an array of shape {value.shape}")
    return to_rgb(Image.fromarray(to_8_bits(np.ascontiguousarray(value))))


def reason(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, BadImageError):
        return error.bad.reason
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown kind"
    text = " ".join(str(error).split()) or "no details"
    known = isinstance(error, (OSError, ValueError, TypeError))
    return text if known else f"{type(error).__name__}: {text}"
