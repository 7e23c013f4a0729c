"""k-means for the few thousand tokens that prompts start from; scikit-learn's would cost 150 MB just to import."""

import math

import torch
from torch import Tensor

ROUGH, ENOUGH = 8, 100  # Lloyd's iterations of each start, and of the best one
STILL = 1e-4  # of the points' variance: centres that move less have arrived


def cluster(points: Tensor, count: int, *, seed: int = 0, restarts: int = 4) -> Tensor:
    """Euclidean k-means centres, (count, D).

    Each start runs for a few of Lloyd's iterations; the best then runs to the end. Ten starts, or all of them to the
    end, bring the inertia down by less than 1 % more.

    Args:
        points: (M, D) with M >= count. Fewer than 32 bits have centres of 32.
        seed: Of the starts.
        restarts: Number of starts (k-means++).

    Raises:
        ValueError: If there are fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{count} k-means prompts need as many tokens, got {len(points)}.")
    generator, device = torch.Generator().manual_seed(seed), points.device
    points = points.detach().to("cpu", torch.promote_types(points.dtype, torch.float32))  # to the same bits each time
    middle = points.mean(dim=0)
    points = points - middle  # distances are differences of squares, which should not be large
    squares = torch.linalg.vector_norm(points, dim=1).square()
    starts = [_lloyd(points, squares, _spread(points, squares, count, generator), ROUGH) for _ in range(restarts)]
    best, _ = min(starts, key=lambda found: found[1])
    return (_lloyd(points, squares, best, ENOUGH)[0] + middle).to(device)


def _squared_distances(points: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Points (M, D), their squared lengths (M,) and centres (K, D) to (M, K)."""
    between = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2)
    return between.add_(squares[:, None]).clamp_(min=0)


def _spread(points: Tensor, squares: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each next centre is the best of a few points drawn by their squared distance to the nearest.

    Source: Arthur and Vassilvitskii 2007, sections 2.2 and 5 (their remark on several candidates a step).
    """
    candidates = 2 + int(math.log(count))
    chosen = torch.randint(len(points), (1,), generator=generator)
    nearest = _squared_distances(points, squares, points[chosen])[:, 0]
    for _ in range(count - 1):
        nearest[chosen] = 0  # instead of what rounding leaves
        chance = nearest if nearest.any() else torch.ones_like(nearest)
        drawn = torch.multinomial(chance, candidates, replacement=True, generator=generator)
        closer = _squared_distances(points, squares, points[drawn]).minimum(nearest[:, None])
        best = int(closer.sum(dim=0).argmin())
        chosen, nearest = torch.cat([chosen, drawn[best, None]]), closer[:, best].clone()
    return points[chosen]


def _lloyd(points: Tensor, squares: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Move centres to the means of their points; gives them and the sum of squared distances before the last move."""
    still = STILL * float(squares.mean()) / points.shape[1]
    inertia = math.inf
    for _ in range(iterations):
        nearest = _squared_distances(points, squares, centres).min(dim=1)
        inertia = float(nearest.values.sum())
        owned = torch.bincount(nearest.indices, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest.indices, points)
        moved = torch.where(owned > 0, sums / owned.clamp(min=1), centres)
        step, centres = float((moved - centres).square().sum()), moved
        if step <= still:
            break
    return centres, inertia
