"""Rendering drawings to pixels."""

import io
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from pretraining.drawings import Drawing

SIZE = 64


def render(drawing: Drawing, size: int = SIZE) -> np.ndarray | None:
    """Render a drawing, fitted and centred, as straight-alpha RGBA, (size, size, 4) uint8; None if invisible."""
    if isinstance(drawing.source, Path):
        picture = Image.open(drawing.source).convert("RGBA")
    else:
        data = bytes(resvg_py.svg_to_bytes(svg_string=drawing.source, width=2 * size))
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    picture.thumbnail((size, size), Image.Resampling.BOX if picture.width == 2 * size else Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (size, size))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    pixels = np.asarray(square)
    return pixels if pixels[..., 3].max() > 25 else None


def is_black(pixels: np.ndarray) -> bool:
    """Return whether a picture, (S, S, 4), has one dark colour, so that its alpha suffices."""
    seen = pixels[..., 3] > 25
    return bool((pixels[seen][:, :3] < 40).all())
