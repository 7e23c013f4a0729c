"""Full k-means, to hold ours against: scikit-learn's, over all tokens."""

import torch
from torch import Tensor


def kmeans_centres(tokens: Tensor, count: int) -> Tensor:
    """Centres of the tokens, (M, D) to (count, D): ten starts, each run to the end."""
    from sklearn.cluster import KMeans  # takes two seconds to import

    centres = KMeans(count, n_init=10, random_state=0).fit(tokens.float().cpu().numpy()).cluster_centers_
    return torch.from_numpy(centres).to(tokens)


def inertia(tokens: Tensor, centres: Tensor) -> float:
    """Sum of the squared distances of the tokens, (M, D), to the nearest centre."""
    return float(torch.cdist(tokens.float(), centres.float()).min(dim=1).values.square().sum())
