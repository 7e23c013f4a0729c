"""Reads colours of 16 bits per channel, of which PIL keeps only the upper byte.

A 16-bit PNG or TIFF often holds a camera's 12-bit values, or 8-bit ones, whose upper bytes alone are nearly black. For
these the lower bytes are read, too.
"""

import re
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from selfprompt.data.loading.rgb import BIT_DEPTH, BIT_DEPTHS, convert_by_tiles, to_rgb

OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Byte order of a raw mode -> the order with which PIL keeps the lower byte instead of the upper one."""


def raw_mode(image: ImageFile) -> str | None:
    """Return PIL's raw mode of an image with 16-bit colours, such as "RGB;16B"; None for other images.

    Must be called before the image is decoded, as PIL drops the raw mode then.
    """
    arguments = image.tile[0].args if image.tile else None
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) and re.fullmatch(r"(LA|RGB|RGBX|RGBA);16[BLN]", mode) else None


def convert_sixteen_bits(image: ImageFile, mode: str, reopen: Callable[[], ImageFile]) -> Image.Image:
    """Convert an image with 16-bit colours to RGB.

    Args:
        image: The image as PIL decodes it: the upper bytes.
        mode: Its `raw_mode`.
        reopen: Opens the file again.
    """
    depth = _depth(image, slice(3))
    if depth == 16:
        return to_rgb(image)
    shifts = np.array([depth - 8] * 3 + [_depth(image, slice(3, 4)) - 8] * (len(image.getbands()) - 3), np.uint16)
    with reopen() as lower:
        _set_raw_mode(lower, "RGBA" if mode == "LA;16B" else mode[:-3] + OTHER_BYTE[mode[-3:]])
        lower.load()
        channels = [1, 1, 1, 3] if mode == "LA;16B" else list(range(len(shifts)))  # L has two bytes, and A has two

        def join(upper: Image.Image, lower: Image.Image) -> Image.Image:
            values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)[..., channels]
            return to_rgb(Image.fromarray((values >> shifts).astype(np.uint8)))

        rgb = convert_by_tiles(join, image, lower)
    rgb.info[BIT_DEPTH] = depth
    return rgb


def _set_raw_mode(image: ImageFile, mode: str) -> None:
    """Make an image that is not decoded yet interpret its bytes in another raw mode."""
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode) for tile in image.tile
    ]


def _depth(image: Image.Image, channels: slice) -> int:
    """Return the bits that the values of some channels need, given their upper bytes; 8 without such channels."""
    highest = max((channel.getextrema()[1] for channel in image.split()[channels]), default=0)
    return next(depth for depth in BIT_DEPTHS if highest < 2 ** (depth - 8))
