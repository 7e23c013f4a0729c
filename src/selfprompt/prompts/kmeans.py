"""k-means for the few thousand tokens that prompts start from; importing scikit-learn's would cost 150 MB."""

import math

import torch
from torch import Tensor

FIRST_ITERATIONS, MAX_ITERATIONS = 8, 100  # of Lloyd's algorithm: for each start, and for the best one
TOLERANCE = 1e-4  # relative to the points' variance: centres that move less have converged


def cluster(points: Tensor, count: int, *, seed: int = 0, restarts: int = 4) -> Tensor:
    """Compute Euclidean k-means centres, (count, D).

    Each start runs a few of Lloyd's iterations, and the best one then runs until it converges. Ten starts, or running
    all of them to the end, reduces the inertia by less than 1 % more.

    Args:
        points: (M, D) with M >= count; 16-bit points give float32 centres.
        count: Number of centres.
        seed: Seed of the starts.
        restarts: Number of starts (k-means++).

    Raises:
        ValueError: If there are fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{count} k-means prompts need as many tokens, got {len(points)}.")
    generator, device = torch.Generator().manual_seed(seed), points.device
    points = points.detach().to("cpu", torch.promote_types(points.dtype, torch.float32))  # for the same bits every time
    middle = points.mean(dim=0)
    points = points - middle  # distances are differences of squares, which should be small
    squares = torch.linalg.vector_norm(points, dim=1).square()
    draws = (_spread(points, squares, count, generator) for _ in range(restarts))
    starts = [_lloyd(points, squares, centres, FIRST_ITERATIONS) for centres in draws]
    best, _ = min(starts, key=lambda start: start[1])
    return (_lloyd(points, squares, best, MAX_ITERATIONS)[0] + middle).to(device)


def _squared_distances(points: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """Compute squared distances, (M, K), from points (M, D), their squared lengths (M,) and centres (K, D)."""
    between = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2)
    return between.add_(squares[:, None]).clamp_(min=0)


def _spread(points: Tensor, squares: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw initial centres by greedy k-means++.

    Each further centre is the best of a few points drawn in proportion to the squared distance to the nearest centre.

    Source: Arthur and Vassilvitskii 2007, sections 2.2 and 5 (their remark on several candidates per step).
    """
    candidates = 2 + int(math.log(count))
    chosen = torch.randint(len(points), (1,), generator=generator)
    nearest = _squared_distances(points, squares, points[chosen])[:, 0]
    for _ in range(count - 1):
        nearest[chosen] = 0  # without the rounding error
        chance = nearest if nearest.any() else torch.ones_like(nearest)
        drawn = torch.multinomial(chance, candidates, replacement=True, generator=generator)
        closer = _squared_distances(points, squares, points[drawn]).minimum(nearest[:, None])
        best = int(closer.sum(dim=0).argmin())
        chosen, nearest = torch.cat([chosen, drawn[best, None]]), closer[:, best].clone()
    return points[chosen]


def _lloyd(points: Tensor, squares: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Move centres to the means of their points; returns them and the inertia before the last move."""
    tolerance = TOLERANCE * float(squares.mean()) / points.shape[1]
    inertia = math.inf
    for _ in range(iterations):
        nearest = _squared_distances(points, squares, centres).min(dim=1)
        inertia = float(nearest.values.sum())
        counts = torch.bincount(nearest.indices, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest.indices, points)
        moved = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        step, centres = float((moved - centres).square().sum()), moved
        if step <= tolerance:
            break
    return centres, inertia
