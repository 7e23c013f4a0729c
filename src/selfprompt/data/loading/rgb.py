"""Pixels of any kind as 8-bit RGB: modes of PIL, arrays, tensors, and values of more than 8 bits.

A plain RGB or gray image becomes exactly what ``convert("RGB")`` gives, so published numbers stay comparable. The rest
is made visible the way a person would see it: transparent pixels stand on white, and values of more than 8 bits are
scaled by the range that they use.
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
"""Bits of which cameras, scanners and microscopes make values; all but the first are stored in 16."""
BIT_DEPTH = "depth taken"
"""Where `Image.Image.info` tells that 16-bit samples were read as values of fewer bits."""
TILE_PIXELS = 1 << 20  # pixels that are converted at a time, so that a large image is not held three times
TOLERANCE = 1e-3  # of the range of floats: what resizing makes of 1.0
MAX_PIXELS = 178_956_970
"""Pixels of an image, at most: 1.4 GB while it is decoded. PIL's own bound, unless somebody has changed that one."""

DECODER_BYTES = {"WEBP": 12, "AVIF": 12, "HEIF": 12, "JPEG2000": 12}
"""Bytes a pixel that a format's decoder takes beside PIL's image."""


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image without pixels or with too many, (width, height); called before it is decoded.

    Raises:
        ValueError: If it is one of these.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"an image must have pixels, got {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels are more than {MAX_PIXELS:,}; make it smaller")


def decoded_bytes(image: Image.Image) -> int:
    """About how much memory an image takes while it is decoded and becomes upright RGB."""
    stored = 1 if image.mode in ("1", "L", "P") else 4
    if image.mode == "F" or image.mode.startswith("I"):
        stored = 8  # the values, and a copy of them
    if image.info.get("progressive"):  # a JPEG whose coefficients are kept until the last scan
        stored += 6
    return (
        image.width * image.height * (stored + 4 + DECODER_BYTES.get(image.format or "", 0))
    )  # RGB is stored in 4 bytes


def exif_orientation(image: Image.Image) -> int:
    """How an image is to be turned, as EXIF counts; 1, as it is, where nothing is said or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF of an image that is otherwise fine
        return 1


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned upright."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image


def to_rgb(image: Image.Image, depth: int | None = None) -> Image.Image:
    """An image of any mode as 8-bit RGB; transparent pixels are composited on white.

    Args:
        image: Of at least one pixel.
        depth: Bits of the values of a 16-bit gray image; None: as many as they need.

    Raises:
        ValueError: If the values of a 32-bit image have no place in 0..65535 (integers) or 0..255 (floats), or the
            image has no pixels.
    """
    check_size(image.size)
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_values(image, depth)
    if image.mode == "La":  # gray, multiplied by alpha: PIL goes no other way
        image = image.convert("LA")
    if image.has_transparency_data:
        return by_tiles(_on_white, image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_values(image: Image.Image, depth: int | None) -> Image.Image:
    """The RGB image of one whose mode is I, I;16 or F."""
    values = np.asarray(image)
    scale = _scale_of(values, depth)
    found = by_tiles(lambda tile: Image.fromarray(scale(np.asarray(tile))).convert("RGB"), image)
    return _with_depth(found, values, depth)


def by_tiles(convert: Callable[..., Image.Image], *images: Image.Image) -> Image.Image:
    """What ``convert`` makes of one or more images of one size, a part of them at a time, as RGB."""
    width, height = images[0].size
    if width * height <= TILE_PIXELS:
        return convert(*images)
    made = Image.new("RGB", (width, height))
    columns = min(width, TILE_PIXELS)
    rows = TILE_PIXELS // columns
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            box = (left, top, min(left + columns, width), min(top + rows, height))
            made.paste(convert(*(image.crop(box) for image in images)), box)
    return made


def to_8_bits(values: np.ndarray, depth: int | None = None) -> np.ndarray:
    """Scale gray or colour values to 0..255 without clipping.

    Args:
        values: uint8 stays; bool becomes 0 or 255. Of other integers the 8 upper bits of ``depth`` are taken (as PIL
            does for 16-bit colours). Floats lie in [0, 1], or in [0, 255].
        depth: Bits of integers; None: the least of 8, 10, 12, 14 and 16 that hold them all.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If they lie elsewhere.
    """
    return _scale_of(values, depth)(values)


def _scale_of(values: np.ndarray, depth: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """What scales these values, or a part of them, to 0..255."""
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
        return f"{fault}: there are values that are no numbers"
    if low < 0:
        return f"{fault}: give the pixels as they were before they were normalised"
    return f"{fault}: divide them by the largest value possible"


def needed_bits(values: np.ndarray) -> int:
    """The least of 8, 10, 12, 14 and 16 bits that hold all of these integers.

    Raises:
        ValueError: If some lie outside of 0..65535.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"pixel values must lie in 0..65535, got {low}..{high}; convert it to 8 bits")
    return next(depth for depth in BIT_DEPTHS if high < 2**depth)


def _with_depth(image: Image.Image, values: np.ndarray, depth: int | None) -> Image.Image:
    """The image with a remark on the depth that its values were taken for, where that is a guess."""
    if depth is None and values.dtype.kind in "iu" and values.dtype != np.uint8:
        found = needed_bits(values)
        wider_type = values.dtype.itemsize > 2 or values.dtype.kind == "i"  # Python's own integers
        if found < 16 and not (found == 8 and wider_type):
            image.info[BIT_DEPTH] = found
    return image


def pixels_to_rgb(value: Any, reserve: Reserve = unbounded) -> Image.Image:
    """A data set's image as upright RGB: from a PIL image, an array (H, W[, C]) or a tensor ([C,] H, W).

    Args:
        value: C is 1 (gray), 3 (RGB) or 4 (RGBA).
        reserve: Called with the bytes that it will take.

    Raises:
        TypeError: If it is none of these.
        ValueError: If its shape or values are not an image's.
    """
    if isinstance(value, Image.Image):
        check_size(value.size)
        reserve(decoded_bytes(value))
        return apply_orientation(to_rgb(value), exif_orientation(value))
    is_tensor = hasattr(value, "detach")  # known without importing torch
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
    """Why an array of this shape is no image, (H, W, C); a tensor's channels have been moved to the end."""
    given = (shape[-1], *shape[:-1]) if is_tensor and len(shape) == 3 else shape
    kind, axes = ("a tensor", "(C, H, W)") if is_tensor else ("an array", "(H, W, C)")
    fault = f"an image must have 1, 3 or 4 channels, {axes}, got {kind} of shape {given}"
    if 0 in shape:
        return f"{fault}: it is empty"
    if len(shape) == 4:
        return f"{fault}: of a batch give the images one by one, as a list"
    if len(shape) == 3 and is_tensor and given[-1] in (1, 3, 4):
        return f"{fault}: its channels come last, so move them: tensor.permute(2, 0, 1)"
    if len(shape) == 3 and not is_tensor and given[0] in (1, 3, 4):
        return f"{fault}: its channels come first, so move them: array.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[-1] == 2:
        return f"{fault}: if the second one is alpha, give Image.fromarray(array, 'LA')"
    return fault


def array_to_rgb(values: np.ndarray, depth: int | None = None) -> Image.Image:
    """An RGB image from values (H, W), (H, W, 3) or (H, W, 4); the fourth channel is alpha, on a scale of its own."""
    colours = values[..., :3] if values.ndim == 3 else values
    pixels = to_8_bits(colours, depth)
    if values.ndim == 3 and values.shape[-1] == 4:
        pixels = np.concatenate([pixels, to_8_bits(values[..., 3:])], axis=-1)
    return _with_depth(to_rgb(Image.fromarray(np.ascontiguousarray(pixels))), colours, depth)
