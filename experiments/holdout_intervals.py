"""Do the intervals of a benchmark on the user's own folder hold? Folders of digits, and the truth from all others.

    python -m experiments.holdout_intervals --folders 300

Each folder has a few images of each class of scikit-learn's digits. As ``bench --suite folder`` does, each seed holds
out a quarter of each class and trains a nearest-mean classifier on the rest, or on shots of it. The interval over seeds
is held against the mean accuracy of these classifiers on all digits outside the folder, with and without the allowance
for images that the draws share.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from selfprompt.benchmarks.results import Spread

HELD_OUT = 0.25
SETTINGS = ((8, 0, 3), (8, 0, 10), (16, 0, 5), (16, 4, 5))
"""Images per class, training images per class (0 for all that are not held out), and seeds."""


@dataclass(frozen=True)
class Digits:
    """Images (N, 64), float64, and their labels (N,)."""

    images: NDArray[np.float64]
    labels: NDArray[np.int64]

    def accuracy(self, training: NDArray[np.int64], test: NDArray[np.int64]) -> float:
        """Return the accuracy in percent of a nearest-mean classifier, given the indices of its images."""
        classes = np.unique(self.labels)
        means = np.stack([self.images[training[self.labels[training] == label]].mean(axis=0) for label in classes])
        distances = ((self.images[test, None] - means) ** 2).sum(axis=-1)
        return 100 * float((classes[distances.argmin(axis=1)] == self.labels[test]).mean())


def simulate(digits: Digits, size: int, shots: int, seeds: int, generator: np.random.Generator) -> tuple[bool, bool]:
    """Return whether the interval of one folder holds the truth, with the allowance and without it."""
    parts = [np.flatnonzero(digits.labels == label) for label in np.unique(digits.labels)]
    folder = [generator.choice(part, size, replace=False) for part in parts]
    others = np.setdiff1d(np.arange(len(digits.labels)), np.concatenate(folder))
    measured, true = [], []
    for _ in range(seeds):
        drawn = [generator.permutation(part) for part in folder]
        held = round(HELD_OUT * size)
        training = np.concatenate([part[held:][: shots or None] for part in drawn])
        measured.append(digits.accuracy(training, np.concatenate([part[:held] for part in drawn])))
        true.append(digits.accuracy(training, others))
    spread, truth = Spread(tuple(measured), overlap=HELD_OUT / (1 - HELD_OUT)), float(np.mean(true))
    return _holds(spread, truth), _holds(replace(spread, overlap=0.0), truth)


def _holds(spread: Spread, truth: float) -> bool:
    return spread.interval is not None and spread.interval[0] <= truth <= spread.interval[1]


def main() -> None:
    """Print the coverage of each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=300, help="simulated folders of each setting")
    folders = parser.parse_args().folders
    images, labels = load_digits(return_X_y=True)
    digits = Digits(images, labels)
    print(
        "| images per class | trained on | seeds | coverage, % | without the allowance, % |\n|---|---|---:|---:|---:|"
    )
    for size, shots, seeds in SETTINGS:
        generator = np.random.default_rng(0)
        held = np.array([simulate(digits, size, shots, seeds, generator) for _ in range(folders)])
        allowed, plain = 100 * held.mean(axis=0)
        print(
            f"| {size} | {f'{shots} shots' if shots else 'the rest'} | {seeds} | {allowed:.1f} | {plain:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
