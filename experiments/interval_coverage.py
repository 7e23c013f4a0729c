"""Do the intervals of ``auto`` hold? Simulated folders, with the true accuracy from a large test set.

    python -m experiments.interval_coverage --folders 200

Each folder has 3 to 10 classes with 4, 8 or 16 images, as Gaussian features around random class means. Candidates are
compared and the estimate is made as ``train --method auto`` does; then the chosen one is trained on all images of the
folder, and its accuracy on 5,000 new ones is held against the 95 % interval.
"""

import argparse
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfprompt.data.known_features import KnownFeatures
from selfprompt.data.views import Views
from selfprompt.methods.base import Method
from selfprompt.methods.registry import find_method
from selfprompt.training.crossfit import Split, cross_fit_features
from selfprompt.training.selection import Estimate, Shares, corrected_estimate, simplest_of_the_best, stratified_folds

CANDIDATES = ("simpleshot", "ridge", "logistic")
WIDTH = 32
TEST = 5000


@dataclass(frozen=True)
class Outcome:
    """The estimate for one simulated folder, and the true accuracy in percent."""

    estimate: Estimate
    accuracy: float

    @property
    def covered(self) -> bool:
        """Whether the interval holds the true accuracy."""
        low, high = self.estimate.interval
        return low <= self.accuracy <= high


def simulate(seed: int) -> Outcome:
    """Simulate one folder, choose as ``auto`` does, and measure the choice."""
    generator = torch.Generator().manual_seed(seed)
    classes = int(torch.randint(3, 11, (), generator=generator))
    shots = (4, 8, 16)[int(torch.randint(3, (), generator=generator))]
    means = torch.randn(classes, WIDTH, generator=generator) * float(torch.rand((), generator=generator) + 0.2)
    training = draw(means, classes * shots, generator)
    test = draw(means, TEST, generator)
    folds = stratified_folds(training.labels.tolist(), range(training.size), folds=5, repeats=3, seed=seed)
    splits: list[Split] = [[(torch.from_numpy(a), torch.from_numpy(b)) for a, b in split] for split in folds]
    methods = [head(name, classes) for name in CANDIDATES]
    shares, costs = (
        np.stack([cross_validated(method, training, splits, seed) for method in methods]),
        [0] * len(methods),
    )
    chosen = methods[simplest_of_the_best(shares, costs)]
    with torch.no_grad():
        chosen.prepare(training, torch.Generator().manual_seed(seed))
        hits = chosen.logits(Views(None, test.features, test.labels)).argmax(dim=1) == test.labels
    return Outcome(corrected_estimate(shares, costs, seed=seed, resamples=500), 100 * float(hits.float().mean()))


def cross_validated(method: Method, training: KnownFeatures, splits: list[Split], seed: int) -> Shares:
    """Return the share of repetitions that classify each image correctly, (N,)."""
    logits = [cross_fit_features(method, training, split, seed, lambda: None) for split in splits]
    hits = torch.stack(logits).argmax(dim=2) == training.labels
    return np.asarray(hits.double().mean(dim=0).numpy())


def draw(means: Tensor, count: int, generator: torch.Generator) -> KnownFeatures:
    """Draw images of all classes in turn."""
    labels = torch.arange(count) % len(means)
    return KnownFeatures(means[labels] + torch.randn(count, means.shape[1], generator=generator), labels)


def head(name: str, classes: int) -> Method:
    """Build a method of features on a backbone that has no tower."""
    vision = nn.Linear(1, 1).requires_grad_(False)
    vision.feature_size = lambda pooling: WIDTH  # type: ignore[assignment]
    vision.check_pooling = lambda pooling: None  # type: ignore[assignment]
    backbone: Any = SimpleNamespace(name="simulated", vision=vision, text=None, pooling="native")
    kind = find_method(name)
    return kind(backbone, [str(n) for n in range(classes)], kind.Options(), torch.Generator().manual_seed(0)).eval()


def main() -> None:
    """Print the coverage over many folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=200, help="number of simulated folders")
    folders = parser.parse_args().folders
    outcomes = [simulate(seed) for seed in range(folders)]
    covered = sum(outcome.covered for outcome in outcomes)
    bias = np.mean([outcome.estimate.accuracy - outcome.accuracy for outcome in outcomes])
    width = np.mean([outcome.estimate.interval[1] - outcome.estimate.interval[0] for outcome in outcomes])
    print(f"{covered} of {folders} intervals hold the true accuracy ({100 * covered / folders:.1f} %)")
    print(f"estimate minus truth: {bias:+.1f} points on average; mean width of an interval: {width:.1f} points")


if __name__ == "__main__":
    main()
