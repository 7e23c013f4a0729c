"""Another image size than that of the pretraining: the rule for sizes, and positions for another grid of patches."""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_multiple(size: int, step: int, reason: str) -> None:
    """Raise ValueError, with the nearest sizes, unless an image size in pixels is a multiple of a step."""
    if size % step:
        nearest = [multiple for multiple in (size // step * step, (size // step + 1) * step) if multiple]
        raise ValueError(
            f"image_size must be a multiple of {step}, {reason}: {' or '.join(map(str, nearest))}, got {size}."
        )


def resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Resample position embeddings to another grid of patches, as timm and open_clip do; the prefix stays as it is.

    Args:
        positions: Those of the prefix, then of the patches row by row, (prefix + N, D).
        old: Rows and columns of patches.
        new: Rows and columns of the result.
        mode: "bicubic", or "bilinear" as in NaFlex; both with antialiasing.
    """
    prefix, patches = positions.split([len(positions) - old[0] * old[1], old[0] * old[1]])
    grid = patches.float().t().reshape(1, -1, *old)
    grid = F.interpolate(grid, size=new, mode=mode, antialias=True)
    return torch.cat([prefix, grid[0].flatten(1).t().to(positions.dtype)])
