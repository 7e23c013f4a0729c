"""Is what ``selfprompt review`` says about more photos true? Simulated folders, with the truth from a large test set.

    python -m experiments.more_photos --folders 100

Each folder has 3 to 10 classes of different spread with 8, 16 or 32 images, as Gaussian features around random class
means. The learning curve is held against the accuracy of heads that are trained on new folders with so many photos of
each class; the gain of a class against the accuracy of heads trained on the folder with as many more photos of this
class, on average over 10 draws of these. Accuracies are those on 20,000 new images.
"""

import argparse
from dataclasses import dataclass

import numpy as np

from selfprompt.reviewing.cross_fit import Doubles, Indices, discriminant_scores
from selfprompt.reviewing.learning_curve import class_gains, learning_curve

WIDTH = 32
TEST = 20_000
DRAWS = 10


@dataclass(frozen=True)
class World:
    """Classes to draw images of.

    Attributes:
        means: Of the features, (C, E).
        spreads: Standard deviation of each class, (C,).
    """

    means: Doubles
    spreads: Doubles

    def draw(self, labels: Indices, generator: np.random.Generator) -> Doubles:
        """Draw features of images of these classes, (N, E)."""
        noise = generator.normal(size=(len(labels), WIDTH))
        return np.asarray(self.means[labels] + self.spreads[labels, None] * noise)


@dataclass(frozen=True)
class Outcome:
    """Estimates, their intervals and the truth, in percent or percentage points: (K, 4) each."""

    curve: Doubles
    gains: Doubles


def simulate(seed: int) -> Outcome:
    """Simulate one folder, estimate as ``review`` does, and measure the truth."""
    generator = np.random.default_rng(seed)
    classes, shots = int(generator.integers(3, 11)), int(generator.choice([8, 16, 32]))
    world = World(generator.normal(size=(classes, WIDTH)), generator.uniform(0.5, 2.5, classes))
    labels, truth = np.repeat(np.arange(classes), shots), np.arange(TEST) % classes
    features, test = world.draw(labels, generator), world.draw(truth, generator)
    groups = np.arange(len(labels))

    def accuracies(own: Doubles, given: Indices) -> Doubles:
        hits = discriminant_scores(own, given, test, classes).argmax(axis=1) == truth
        return np.array([100 * hits[truth == label].mean() for label in range(classes)])

    curve = []
    for point in learning_curve(features, labels, groups, classes, seed=seed, progress=lambda *_: None):
        if point.shots:
            given = np.repeat(np.arange(classes), point.shots)
            true = np.mean([accuracies(world.draw(given, generator), given).mean() for _ in range(DRAWS)])
            curve.append((point.accuracy, *point.interval, true))
    before, gains = accuracies(features, labels), []
    for gain in class_gains(features, labels, groups, classes, seed=seed, progress=lambda *_: None):
        more = np.full(shots, gain.label)
        given, after = np.concatenate([labels, more]), []
        for _ in range(DRAWS):
            after.append(accuracies(np.concatenate([features, world.draw(more, generator)]), given)[gain.label])
        gains.append((gain.gain, *gain.interval, np.mean(after) - before[gain.label]))
    return Outcome(np.array(curve), np.array(gains))


def describe(name: str, rows: Doubles) -> str:
    """Return a sentence on estimates, (K, 4)."""
    estimate, low, high, true = rows.T
    held = int(((low <= true) & (true <= high)).sum())
    return (
        f"{name}: {held} of {len(rows)} intervals hold the truth ({100 * held / len(rows):.1f} %); estimate minus "
        f"truth {(estimate - true).mean():+.1f} points on average; mean truth {true.mean():.1f}; mean width of an "
        f"interval {(high - low).mean():.1f}; correlation {np.corrcoef(estimate, true)[0, 1]:.2f}"
    )


def main() -> None:
    """Print how often the intervals hold over many folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=100, help="number of simulated folders")
    outcomes = [simulate(seed) for seed in range(parser.parse_args().folders)]
    print(describe("learning curve", np.concatenate([outcome.curve for outcome in outcomes])))
    print(describe("gains of classes", np.concatenate([outcome.gains for outcome in outcomes])))


if __name__ == "__main__":
    main()
