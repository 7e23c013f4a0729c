"""A map of prompts among patch tokens: the plane of the two principal components of a block's input."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.analysis.tower_runs import TowerRun


@dataclass(frozen=True)
class TokenMap:
    """Coordinates of tokens on the plane of their first two principal components.

    Attributes:
        patches: (B, N, 2).
        prompts: (1, P, 2) if all images have the same prompts, else (B, P, 2).
        share: Fraction of the variance of all these tokens that the plane shows, in [0, 1].
    """

    patches: Tensor
    prompts: Tensor
    share: float


def plane(points: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the principal plane of points, (n, D).

    The order of the points does not matter: the sign of each direction makes its largest coordinate positive.

    Returns:
        Mean, (D,), directions, (D, 2), and their fraction of the variance.
    """
    points = points.double()
    centre = points.mean(dim=0)
    centred = points - centre
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = directions[:, -2:].flip(-1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    total = float(variances.sum())
    share = float(variances[-2:].sum()) / total if total > 0 else 1.0
    return centre, axes * largest.sign(), min(max(share, 0.0), 1.0)


@torch.no_grad()
def token_map(run: TowerRun, index: int) -> TokenMap:
    """Map the prompts and patch tokens of a block's input."""
    tokens = run.inputs[index]
    patches, prompts = tokens.body.double(), tokens.prompts.double()
    if torch.equal(prompts, prompts[:1].expand_as(prompts)):
        prompts = prompts[:1]
    centre, axes, share = plane(torch.cat([patches.flatten(0, 1), prompts.flatten(0, 1)]))
    return TokenMap((patches - centre) @ axes, (prompts - centre) @ axes, share)
