"""The pretraining drawings in memory, and random views of them: shifted, recoloured, on backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretraining.concepts import Concept, Forbidden, by_name, frequent, icon_concept, read_emoji
from pretraining.corpus import read_pictures
from pretraining.sets import chosen

# To YIQ, whose last two axes are hue and saturation as a plane.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Samples:
    """All drawings of the pretraining sets, without held-out concepts.

    Attributes:
        alpha: (N, 64, 64) uint8.
        colour: (M, 3, 64, 64) uint8, of the drawings that are not plain black.
        place: (N,) index into ``colour``; -1 for black drawings.
        labels: (N,) index into ``concepts``; -1 where a drawing's concept is too rare to be a class.
        concepts: The classes.
    """

    alpha: Tensor
    colour: Tensor
    place: Tensor
    labels: Tensor
    concepts: tuple[Concept, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Samples":
        """Return a copy on a device."""
        moved = (tensor.to(device) for tensor in (self.alpha, self.colour, self.place, self.labels))
        return Samples(*moved, self.concepts)

    def rgba(self, indices: Tensor) -> Tensor:
        """Return drawings as straight-alpha RGBA, (B, 4, 64, 64) in [0, 1]."""
        place = self.place[indices]
        rgb = self.colour[place.clamp(min=0)] * (place >= 0)[:, None, None, None]
        return torch.cat([rgb, self.alpha[indices][:, None]], dim=1).float() / 255

    def is_black(self, indices: Tensor) -> Tensor:
        """Return which drawings are black shapes, (B,)."""
        return self.place[indices] < 0


def read_samples(packages: Path, corpus: Path) -> Samples:
    """Read the pretraining sets with their concepts."""
    emoji = read_emoji(packages)
    names, forbidden = by_name(emoji), Forbidden(emoji.concepts.values())
    alphas, colours, places, pairs = [], [], [], []
    filled = 0
    for drawn in chosen("pretrain"):
        pictures = read_pictures(corpus, drawn)
        found = [emoji.of(drawn, n) if drawn.kind == "emoji" else icon_concept(n, names) for n in pictures.names]
        kept = [
            row
            for row, (name, concept) in enumerate(zip(pictures.names, found, strict=True))
            if concept and not concept.held_out and not (drawn.kind == "icon" and forbidden(name))
        ]
        pixels = pictures.pixels[kept]
        if pixels.ndim == 4:
            alphas.append(pixels[..., 3])
            colours.append(pixels[..., :3].transpose(0, 3, 1, 2))
            places.append(np.arange(filled, filled + len(kept)))
            filled += len(kept)
        else:
            alphas.append(pixels)
            places.append(np.full(len(kept), -1))
        pairs += [(found[row], drawn.name) for row in kept]
    classes = frequent(pairs)
    concepts = {concept.name: concept for concept, _ in pairs if concept.name in classes}
    number = {name: index for index, name in enumerate(concepts)}
    return Samples(
        torch.from_numpy(np.concatenate(alphas)),
        torch.from_numpy(np.concatenate(colours)),
        torch.from_numpy(np.concatenate(places)),
        torch.tensor([number.get(concept.name, -1) for concept, _ in pairs]),
        tuple(concepts.values()),
    )


def compose(drawings: Tensor, black: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Compose random views: drawings, (B, 4, 64, 64), to images, (B, 3, 64, 64) in [0, 1].

    Args:
        drawings: Straight-alpha RGBA in [0, 1].
        black: Which are black shapes, (B,); these may take any colour that stands out.
        strength: 0 for the unchanged drawing on white, 1 for the strongest changes.
        generator: On the drawings' device.
    """
    size, device = len(drawings), drawings.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(size, *shape, generator=generator, device=device)

    rgb, alpha = drawings[:, :3], drawings[:, 3:]
    rgb = torch.where(_some(uniform(), 0.6 * strength, black), uniform(3)[:, :, None, None], rgb)
    moved = moved_drawings(torch.cat([rgb * alpha, alpha], dim=1), strength, uniform)
    rgb, alpha = moved[:, :3].clamp(0, 1), moved[:, 3:].clamp(0, 1)
    back = backgrounds(strength, uniform)
    hidden = ((back - rgb).abs().mean(dim=1, keepdim=True) * alpha).sum(dim=(1, 2, 3)) / alpha.sum(dim=(1, 2, 3)) < 0.2
    back = torch.where(_some(uniform(), 1.0, black & hidden), 1 - back.round(), back)
    images = rgb + (1 - alpha) * back
    return recoloured(images, strength, uniform)


def _some(draw: Tensor, part: float, among: Tensor) -> Tensor:
    """Select a random fraction of some rows, as a mask that broadcasts over images."""
    return ((draw < part) & among)[:, None, None, None]


def moved_drawings(drawings: Tensor, strength: float, uniform) -> Tensor:
    """Scale, rotate, shear, stretch and shift drawings."""

    def signed(reach: float) -> Tensor:
        return (2 * uniform() - 1) * reach * strength

    angle, shear = signed(0.35), signed(0.2)
    zoom = 1.02 + strength * (uniform() * 0.65 - 0.15)  # above 1 the drawing becomes smaller
    stretch = torch.exp(signed(0.2))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [
        torch.stack([cos * stretch, sin + shear, signed(0.3)], dim=1),
        torch.stack([-sin, cos / stretch, signed(0.3)], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(drawings.shape), align_corners=False)
    return F.grid_sample(drawings, grid, padding_mode="zeros", align_corners=False)


def backgrounds(strength: float, uniform) -> Tensor:
    """Make white, plain or graded backgrounds, (B, 3, 64, 64)."""
    first, second = uniform(3)[:, :, None, None], uniform(3)[:, :, None, None]
    kind, angle = uniform(), uniform() * 2 * torch.pi
    line = torch.linspace(-0.5, 0.5, 64, device=kind.device)
    ramp = torch.cos(angle)[:, None, None] * line + torch.sin(angle)[:, None, None] * line[:, None]
    ramp = (0.5 + ramp / 1.4)[:, None] * (kind > 1 - 0.35 * strength)[:, None, None, None]
    plain = first + ramp * (second - first)
    return torch.where((kind < 1 - 0.7 * strength)[:, None, None, None], torch.ones_like(plain), plain)


def recoloured(images: Tensor, strength: float, uniform) -> Tensor:
    """Change hue, saturation, contrast and brightness; make some images grey or inverted."""
    turn = (2 * uniform() - 1) * 0.5 * strength
    grey = (uniform() < 0.12 * strength).float()
    saturation = torch.exp((2 * uniform() - 1) * 0.5 * strength) * (1 - grey)
    zero, one = torch.zeros_like(turn), torch.ones_like(turn)
    cos, sin = torch.cos(turn) * saturation, torch.sin(turn) * saturation
    change = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    yiq = _YIQ.to(images.device)
    matrix = torch.linalg.inv(yiq) @ change @ yiq
    images = torch.einsum("bij,bjhw->bihw", matrix, images)
    gain = torch.exp((2 * uniform() - 1) * 0.35 * strength)[:, None, None, None]
    shift = ((2 * uniform() - 1) * 0.15 * strength)[:, None, None, None]
    inverted = (uniform() < 0.08 * strength)[:, None, None, None]
    images = ((images - 0.5) * gain + 0.5 + shift).clamp(0, 1)
    return torch.where(inverted, 1 - images, images)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise images by mean and deviation."""
    shape = (1, 3, 1, 1)
    return (images - torch.tensor(mean, device=images.device).view(shape)) / torch.tensor(
        std, device=images.device
    ).view(shape)
