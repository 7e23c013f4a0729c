"""A flat map of prompts among patch tokens: the two directions in which the tokens of a block differ most."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfprompt.analysis.streams import Stream


@dataclass(frozen=True)
class TokenMap:
    """Places of tokens on the plane of their two main directions.

    Attributes:
        patches: (B, N, 2).
        prompts: (1, P, 2) where all images have the same prompts, else (B, P, 2).
        share: Part of the variance of all these tokens that the plane shows, in [0, 1].
    """

    patches: Tensor
    prompts: Tensor
    share: float


def plane(points: Tensor) -> tuple[Tensor, Tensor, float]:
    """The plane of points, (n, D): their mean, (D,), its two directions, (D, 2), and its share of the variance.

    Points in another order give the same plane: a direction points to where its largest coordinate is positive.
    """
    points = points.double()
    centre = points.mean(dim=0)
    away = points - centre
    variances, directions = torch.linalg.eigh(away.T @ away)  # ascending
    axes = directions[:, -2:].flip(-1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    total = float(variances.sum())
    share = float(variances[-2:].sum()) / total if total > 0 else 1.0
    return centre, axes * largest.sign(), min(max(share, 0.0), 1.0)


@torch.no_grad()
def token_map(stream: Stream, index: int) -> TokenMap:
    """Prompts and patch tokens entering a block."""
    tokens = stream.inputs[index]
    patches, prompts = tokens.body.double(), tokens.prompts.double()
    if torch.equal(prompts, prompts[:1].expand_as(prompts)):
        prompts = prompts[:1]
    centre, axes, share = plane(torch.cat([patches.flatten(0, 1), prompts.flatten(0, 1)]))
    return TokenMap((patches - centre) @ axes, (prompts - centre) @ axes, share)
