"""JPEG files that take as long to decode as photos do."""

import io

import numpy as np
from PIL import Image

SIZE = (500, 375)
"""Width and height in pixels; about 90 kB, as in ImageNet."""


def draw_jpeg(seed: int) -> bytes:
    """Return a JPEG of smooth noise with fine noise on it."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth, np.float32) + rng.normal(0, 12, (SIZE[1], SIZE[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
