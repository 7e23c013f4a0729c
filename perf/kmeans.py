"""Full k-means with scikit-learn over all tokens, as the baseline of ours."""

import torch
from torch import Tensor


def kmeans_centres(tokens: Tensor, count: int) -> Tensor:
    """Cluster tokens, (M, D), and return the centres, (count, D): the best of ten runs to convergence."""
    from sklearn.cluster import KMeans  # takes two seconds to import

    centres = KMeans(count, n_init=10, random_state=0).fit(tokens.float().cpu().numpy()).cluster_centers_
    return torch.from_numpy(centres).to(tokens)


def inertia(tokens: Tensor, centres: Tensor) -> float:
    """Return the sum of squared distances of the tokens, (M, D), to their nearest centres."""
    return float(torch.cdist(tokens.float(), centres.float()).min(dim=1).values.square().sum())
