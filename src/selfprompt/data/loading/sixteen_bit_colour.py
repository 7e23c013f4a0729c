"""Colours of 16 bits, of which PIL keeps the upper 8: reads the lower ones too where the upper ones are not used.

A camera's 12-bit values, or 8-bit ones, often stand in a PNG or TIFF of 16 bits; their upper bytes alone are black.
"""

import re
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from selfprompt.data.loading.rgb import BIT_DEPTH, BIT_DEPTHS, by_tiles, to_rgb

OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""Byte order of a raw mode -> the order in which PIL takes the lower byte for the upper one."""


def raw_mode(image: ImageFile) -> str | None:
    """How the 16-bit colours of an image stand in its file, "RGB;16B"; None where there are none.

    Told before the image is decoded: PIL forgets it then.
    """
    arguments = image.tile[0].args if image.tile else None
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) and re.fullmatch(r"(LA|RGB|RGBX|RGBA);16[BLN]", mode) else None


def with_lower_bytes(image: ImageFile, mode: str, reopen: Callable[[], ImageFile]) -> Image.Image:
    """The RGB image of 16-bit colours.

    Args:
        image: What PIL made of them: the upper bytes.
        mode: Its `raw_mode`.
        reopen: Opens the file a second time.
    """
    depth = _depth(image, slice(3))
    if depth == 16:
        return to_rgb(image)
    shifts = np.array([depth - 8] * 3 + [_depth(image, slice(3, 4)) - 8] * (len(image.getbands()) - 3), np.uint16)
    with reopen() as lower:
        _set_raw_mode(lower, "RGBA" if mode == "LA;16B" else mode[:-3] + OTHER_BYTE[mode[-3:]])
        lower.load()
        channels = [1, 1, 1, 3] if mode == "LA;16B" else list(range(len(shifts)))  # L is two bytes, and A is two

        def joined(upper: Image.Image, lower: Image.Image) -> Image.Image:
            values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)[..., channels]
            return to_rgb(Image.fromarray((values >> shifts).astype(np.uint8)))

        made = by_tiles(joined, image, lower)
    made.info[BIT_DEPTH] = depth
    return made


def _set_raw_mode(image: ImageFile, mode: str) -> None:
    """Have an image that is not decoded yet read its bytes as those of another raw mode."""
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode) for tile in image.tile
    ]


def _depth(image: Image.Image, channels: slice) -> int:
    """Bits that the values of some channels need, whose upper bytes an image holds; 8 without such channels."""
    highest = max((channel.getextrema()[1] for channel in image.split()[channels]), default=0)
    return next(depth for depth in BIT_DEPTHS if highest < 2 ** (depth - 8))
