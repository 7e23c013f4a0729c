"""Random views of a drawing on a background, so that raw pixels do not reveal its class."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIZE = 64
DRAWN = 2 * SIZE  # views are composed at twice their size
COLOURS = 32  # size of a view's palette; half the bytes of full colour


@dataclass(frozen=True)
class Look:
    """Limits of the random views.

    Attributes:
        scale: Smallest and largest size of the drawing's longer side, as a fraction of the image's side.
        angle: Largest rotation in degrees, in either direction.
        mirror: Whether half of the views are mirrored.
        waving: Whether the drawing is bent like cloth.
        paper: Whether black drawings stay black on nearly white paper instead of being recoloured.
    """

    scale: tuple[float, float] = (0.55, 0.95)
    angle: float = 25.0
    mirror: bool = True
    waving: bool = False
    paper: bool = False


def view(drawing: np.ndarray, look: Look, black: bool, rng: np.random.Generator) -> Image.Image:
    """Make one view, 64 x 64, with a palette.

    Args:
        drawing: Straight-alpha RGBA, (128, 128, 4), uint8.
        look: Limits of the view.
        black: Whether the drawing has one dark colour.
        rng: Source of all randomness; it is advanced.
    """
    if black and not look.paper:
        drawing, ground = inked(drawing, rng)
    elif look.paper:
        ground = paper(rng)
    else:
        drawing = lit(drawing, rng)
        ground = contrasting(drawing, rng)
    figure = placed(bent(drawing, rng) if look.waving else drawing, look, rng)
    picture = Image.alpha_composite(ground.convert("RGBA"), figure).convert("RGB")
    small = picture.resize((SIZE, SIZE), Image.Resampling.BOX)
    return small.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def placed(drawing: np.ndarray, look: Look, rng: np.random.Generator) -> Image.Image:
    """Rotate, scale and shift the drawing on an empty canvas, keeping all of it visible."""
    figure = Image.fromarray(drawing)
    figure = figure.crop(figure.getchannel("A").getbbox())
    if look.mirror and rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    figure = figure.rotate(rng.uniform(-look.angle, look.angle), Image.Resampling.BICUBIC, expand=True)
    side = DRAWN * rng.uniform(*look.scale)
    factor = side / max(figure.size)
    size = [max(1, round(length * factor)) for length in figure.size]
    figure = figure.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    canvas = Image.new("RGBA", (DRAWN, DRAWN))
    x, y = (int(rng.integers(0, DRAWN - length + 1)) for length in figure.size)
    canvas.paste(figure, (x, y))
    return canvas


def lit(drawing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the light: brightness overall and per channel."""
    light = rng.uniform(0.65, 1.2) * rng.uniform(0.8, 1.2, 3)
    changed = drawing.copy()
    changed[..., :3] = np.clip(drawing[..., :3] * light, 0, 255).astype(np.uint8)
    return changed


def inked(drawing: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Image.Image]:
    """Recolour a black shape and make a contrasting ground; a third of them are light on dark."""
    dark = colour(rng, (0.0, 1.0), (0.0, 0.4))
    light = [colour(rng, (0.0, 0.3), (0.8, 1.0)) for _ in range(2)]
    changed = drawing.copy()
    if rng.random() < 1 / 3:
        changed[..., :3] = light[0]
        return changed, ground([dark, colour(rng, (0.0, 1.0), (0.0, 0.4))], rng)
    changed[..., :3] = dark
    return changed, ground(light, rng)


def paper(rng: np.random.Generator) -> Image.Image:
    """Make a nearly white ground."""
    return ground([colour(rng, (0.0, 0.06), (0.9, 1.0)) for _ in range(2)], rng)


def contrasting(drawing: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Make a ground that contrasts with most of the drawing."""
    seen = drawing[drawing[..., 3] > 128][:, :3].astype(float)
    best, most = [], -1.0
    for _ in range(8):
        tried = [colour(rng, (0.0, 0.7), (0.25, 1.0)) for _ in range(2)]
        distance = min(float(np.median(np.linalg.norm(seen - np.array(one), axis=1))) for one in tried)
        if distance > most:
            best, most = tried, distance
        if most > 130:
            break
    return ground(best, rng)


def ground(colours: list[tuple[int, int, int]], rng: np.random.Generator) -> Image.Image:
    """Make a background of two colours: the first alone, a gradient, or soft spots, at random."""
    kind = rng.integers(3)
    if kind == 0:
        return Image.new("RGB", (DRAWN, DRAWN), colours[0])
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        across, down = np.meshgrid(np.linspace(-1, 1, DRAWN), np.linspace(-1, 1, DRAWN))
        part = (across * np.cos(angle) + down * np.sin(angle)) / 2.9 + 0.5
    else:
        spots = Image.fromarray(rng.uniform(0, 1, (5, 5)).astype(np.float32))
        part = np.clip(np.asarray(spots.resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)), 0, 1)
    mixed = part[..., None] * np.array(colours[0]) + (1 - part[..., None]) * np.array(colours[1])
    return Image.fromarray(mixed.astype(np.uint8))


def colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> tuple[int, int, int]:
    """Draw a colour of any hue."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(red * 255), round(green * 255), round(blue * 255)


def bent(drawing: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bend a drawing like cloth in the wind: shift its columns along a wave and shade them by its slope."""
    seen = Image.fromarray(drawing)
    seen = seen.crop(seen.getchannel("A").getbbox()).resize((DRAWN, DRAWN * 3 // 4))
    cloth = np.asarray(seen)
    phase, waves, high = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.6), rng.uniform(6, 12)
    angle = phase + waves * 2 * np.pi * np.arange(DRAWN) / DRAWN
    result = np.zeros((DRAWN, DRAWN, 4), dtype=np.uint8)
    margin = (DRAWN - len(cloth)) // 2
    for column, (shift, slope) in enumerate(zip(high * np.sin(angle), np.cos(angle), strict=True)):
        top = margin + round(shift)
        result[top : top + len(cloth), column] = cloth[:, column]
        result[:, column, :3] = np.clip(result[:, column, :3] * (0.85 + 0.15 * slope), 0, 255)
    return result
