"""Converts pixels of any kind to 8-bit RGB: PIL images of any mode, arrays, tensors, and values of more than 8 bits.

An opaque 8-bit RGB or gray image becomes exactly what ``convert("RGB")`` gives, so results stay comparable with
published ones. Other images become what a person would see: transparent pixels are composited on white, and values of
more than 8 bits are scaled by the range that they use.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from selfprompt.data.loading.memory_limit import Reserve, unbounded

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSES = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Bits per value of cameras, scanners and microscopes; all but the first are stored in 16 bits."""
BIT_DEPTH = "bit depth"
"""Key in `Image.Image.info` for the number of bits if 16-bit samples were read as values of fewer bits."""
TILE_PIXELS = 1 << 20  # pixels converted at a time, so that a large image is not held three times
TOLERANCE = 1e-3  # of the range of floats, for rounding, as after resizing
MAX_PIXELS = 178_956_970
"""Largest image: 1.4 GB while it is decoded. Equals PIL's default limit, which a program may change."""

DECODER_BYTES = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "JPEG2000": 12}
"""Bytes per pixel that a format's decoder takes in addition to PIL's image."""


def check_size(size: tuple[int, int], most: int | None = None) -> None:
    """Check the size (width, height) of an image before it is decoded.

    Args:
        size: Width and height in pixels.
        most: Largest number of pixels; None, and anything above it, for `MAX_PIXELS`.

    Raises:
        ValueError: If it has no pixels or too many.
    """
    width, height = size
    most = min(most or MAX_PIXELS, MAX_PIXELS)
    if width < 1 or height < 1:
        raise ValueError(f"an image must have pixels, got {width} x {height}")
    if width * height > most:
        raise ValueError(f"{width:,} x {height:,} pixels are more than {most:,}; make it smaller")


def decoded_bytes(image: Image.Image) -> int:
    """Estimate the memory that an image takes while it is decoded and converted to upright RGB, in bytes."""
    stored = 1 if image.mode in ("1", "L", "P") else 4
    if image.mode == "F" or image.mode.startswith("I"):
        stored = 8  # the values, and a copy of them
    if image.info.get("progressive"):  # a JPEG whose coefficients are kept until the last scan
        stored += 6
    stored += 4 + DECODER_BYTES.get(image.format or "", 0)  # PIL stores RGB in 4 bytes
    return image.width * image.height * stored


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 (upright) if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF in an otherwise intact image
        return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate and flip an image upright, given its EXIF orientation."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def to_rgb(image: Image.Image, depth: int | None = None) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB; transparent pixels are composited on white.

    Args:
        image: The image.
        depth: Bits per value of a 16-bit gray image; None: as many as its values need.

    Raises:
        ValueError: If the image has no pixels, or the values of a 32-bit image lie outside of 0..65535 (integers) or
            of [0, 1] and [0, 255] (floats).
    """
    check_size(image.size)
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_values(image, depth)
    if image.mode == "La":  # premultiplied alpha: PIL converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        return convert_by_tiles(_on_white, image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_values(image: Image.Image, depth: int | None) -> Image.Image:
    """Convert an image of mode I, I;16 or F."""
    values = np.asarray(image)
    scale = _make_scaler(values, depth)
    rgb = convert_by_tiles(lambda tile: Image.fromarray(scale(np.asarray(tile))).convert("RGB"), image)
    return _with_depth(rgb, values, depth)


def convert_by_tiles(convert: Callable[..., Image.Image], *images: Image.Image) -> Image.Image:
    """Apply ``convert`` to images of the same size tile by tile, and return the resulting RGB image."""
    width, height = images[0].size
    if width * height <= TILE_PIXELS:
        return convert(*images)
    result = Image.new("RGB", (width, height))
    columns = min(width, TILE_PIXELS)
    rows = TILE_PIXELS // columns
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            box = (left, top, min(left + columns, width), min(top + rows, height))
            result.paste(convert(*(image.crop(box) for image in images)), box)
    return result


def to_8_bits(values: np.ndarray, depth: int | None = None) -> np.ndarray:
    """Scale gray or colour values to 0..255 without clipping.

    Args:
        values: uint8 is unchanged; bool becomes 0 or 255. Other integers keep the upper 8 of their ``depth`` bits (as
            in PIL for 16-bit colours). Floats must lie in [0, 1] or in [0, 255].
        depth: Bits per integer; None: the smallest of 8, 10, 12, 14 and 16 that holds them all.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they are outside of these ranges.
    """
    return _make_scaler(values, depth)(values)


def _make_scaler(values: np.ndarray, depth: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that scales these values, or a part of them, to 0..255."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return lambda part: part
    if kind == "b":
        return lambda part: part.astype(np.uint8) * 255
    if kind in "iu":
        shift = (depth or needed_bits(values)) - 8
        return lambda part: (part >> shift).astype(np.uint8)
    if kind != "f":
        raise TypeError(f"pixel values must be integers, floats or bool, got {values.dtype}")
    low, high = float(values.min()), float(values.max())
    for top in (1.0, 255.0):
        slack = top * TOLERANCE
        if -slack <= low and high <= top + slack:  # also false for NaN
            break
    else:
        raise ValueError(_float_fault(low, high))
    if top == 255 and high < 2:
        raise ValueError(f"pixel values must lie in [0, 1] or [0, 255], got {low:.4g}..{high:.4g}: which is meant?")
    return lambda part: (_wide(part) * (255 / top)).clip(0, 255).round().astype(np.uint8)


def _wide(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.itemsize < 4 else values


def _float_fault(low: float, high: float) -> str:
    fault = f"pixel values must lie in [0, 1] or [0, 255], got {low:.4g}..{high:.4g}"
    if np.isnan(low) or np.isinf((low, high)).any():
        return f"{fault}: some values are NaN or infinite"
    if low < 0:
        return f"{fault}: pass the pixels before normalisation"
    return f"{fault}: divide them by the largest possible value"


def needed_bits(values: np.ndarray) -> int:
    """Return the smallest of 8, 10, 12, 14 and 16 bits that holds all of these integers.

    Raises:
        ValueError: If any is outside of 0..65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"pixel values must lie in 0..65535, got {low}..{high}; convert it to 8 bits")
    return next(depth for depth in BIT_DEPTHS if high < 2**depth)


def _with_depth(image: Image.Image, values: np.ndarray, depth: int | None) -> Image.Image:
    """Record in the image the bit depth that was assumed for its values, if that is a guess."""
    if depth is None and values.dtype.kind in "iu" and values.dtype != np.uint8:
        bits = needed_bits(values)
        wider_type = values.dtype.itemsize > 2 or values.dtype.kind == "i"  # as Python's integers
        if bits < 16 and not (bits == 8 and wider_type):
            image.info[BIT_DEPTH] = bits
    return image


def pixels_to_rgb(value: Any, reserve: Reserve = unbounded) -> Image.Image:
    """Convert a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W) to upright RGB.

    Args:
        value: The image; C is 1 (gray), 3 (RGB) or 4 (RGBA).
        reserve: Called with the bytes that the image will take.

    Raises:
        TypeError: If it is none of these.
        ValueError: If its shape or values are not those of an image.
    """
    if isinstance(value, Image.Image):
        check_size(value.size)
        reserve(decoded_bytes(value))
        return apply_orientation(to_rgb(value), exif_orientation(value))
    is_tensor = hasattr(value, "detach")  # recognised without importing torch
    if is_tensor:
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
        value = np.moveaxis(value, 0, -1) if value.ndim == 3 else value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"an image must be a PIL image, an array or a tensor, got {type(value).__name__}")
    if value.ndim == 3 and value.shape[-1] == 1:
        value = value[..., 0]
    if value.size == 0 or value.ndim not in (2, 3) or (value.ndim == 3 and value.shape[-1] not in (3, 4)):
        raise ValueError(_shape_fault(value.shape, is_tensor))
    check_size((value.shape[1], value.shape[0]))
    reserve(value.nbytes + value.shape[0] * value.shape[1] * 8)
    return array_to_rgb(np.ascontiguousarray(value))


def _shape_fault(shape: tuple[int, ...], is_tensor: bool) -> str:
    """Explain why an array of this shape is not an image, (H, W, C); a tensor's channels are already last."""
    given = (shape[-1], *shape[:-1]) if is_tensor and len(shape) == 3 else shape
    kind, axes = ("a tensor", "(C, H, W)") if is_tensor else ("an array", "(H, W, C)")
    fault = f"an image must have 1, 3 or 4 channels, {axes}, got {kind} of shape {given}"
    if 0 in shape:
        return f"{fault}: it is empty"
    if len(shape) == 4:
        return f"{fault}: pass the images of a batch one by one, as a list"
    if len(shape) == 3 and is_tensor and given[-1] in (1, 3, 4):
        return f"{fault}: its channels come last, so move them: tensor.permute(2, 0, 1)"
    if len(shape) == 3 and not is_tensor and given[0] in (1, 3, 4):
        return f"{fault}: its channels come first, so move them: array.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[-1] == 2:
        return f"{fault}: if the second one is alpha, pass Image.fromarray(array, 'LA')"
    return fault


def array_to_rgb(values: np.ndarray, depth: int | None = None) -> Image.Image:
    """Convert values (H, W), (H, W, 3) or (H, W, 4) to RGB; the fourth channel, alpha, is scaled separately."""
    colours = values[..., :3] if values.ndim == 3 else values
    pixels = to_8_bits(colours, depth)
    if values.ndim == 3 and values.shape[-1] == 4:
        pixels = np.concatenate([pixels, to_8_bits(values[..., 3:])], axis=-1)
    return _with_depth(to_rgb(Image.fromarray(np.ascontiguousarray(pixels))), colours, depth)
