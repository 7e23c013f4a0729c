"""Do the intervals of a paired difference hold? Simulated methods, seeds, drawings and views, and the truth.

    python -m experiments.paired_intervals --grids 300

Each grid has two methods, some seeds, and a test set with some views of each drawing. A method is right where its
margin is above 0: a sum of the drawing's difficulty for both methods and for this one, of the view's, of the seed's
effect, and of what the seed does to this image. The truth is the mean difference over other drawings and seeds. The
bootstrap draws seeds, and images anew for each of them; or images once for all seeds, as ``resampled_accuracy`` does
by default; or drawings with all views, as the strict protocols do.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfprompt.benchmarks.bootstrap import Interval, Units, resampled_accuracy, seed_weights

REPLICATES = 500
SHARED, OWN, VIEW, SEED, IMAGE, GAIN = 1.5, 0.7, 0.5, 0.05, 0.7, 0.1
"""Standard deviations of the parts of a margin: a drawing's for both methods and for one, a view's, a seed's, and an
image's with one seed, by which two seeds agree on five of six images; and by how much the first method is better."""


@dataclass(frozen=True)
class Setting:
    """Sizes of a grid."""

    drawings: int
    views: int
    seeds: int


SETTINGS = (Setting(200, 1, 1), Setting(200, 1, 10), Setting(60, 10, 1), Setting(60, 10, 10))


def simulate(setting: Setting, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return the hits of two methods, (2, seeds, drawings * views)."""
    drawings, views, seeds = setting.drawings, setting.views, setting.seeds
    drawn = SHARED * generator.standard_normal((1, 1, drawings, 1))
    own = OWN * generator.standard_normal((2, 1, drawings, 1))
    view = VIEW * generator.standard_normal((2, 1, drawings, views))
    seed = SEED * generator.standard_normal((2, seeds, 1, 1))
    image = IMAGE * generator.standard_normal((2, seeds, drawings, views))
    gain = np.array([GAIN, 0.0]).reshape(2, 1, 1, 1)
    right: NDArray[np.bool_] = drawn + own + view + seed + image + gain > 0
    return right.reshape(2, seeds, drawings * views)


def intervals(right: NDArray[np.bool_], setting: Setting, generator: np.random.Generator) -> list[Interval]:
    """Return the intervals of the three ways of drawing images."""
    weights = seed_weights(setting.seeds, generator, REPLICATES)
    anew = np.zeros((2, REPLICATES))
    for seed in range(setting.seeds):
        of_seed = resampled_accuracy(right[:, seed : seed + 1], np.ones((REPLICATES, 1)), generator)
        anew += of_seed * weights[:, seed]
    once = resampled_accuracy(right, weights, generator)
    together = Units.of(np.repeat(np.arange(setting.drawings), setting.views))
    drawings = resampled_accuracy(right, weights, generator, together)
    return [Interval.of(sample[0] - sample[1]) for sample in (anew, once, drawings)]


def main() -> None:
    """Print the coverage of each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=300, help="simulated grids of each setting")
    grids = parser.parse_args().grids
    generator = np.random.default_rng(0)
    many = simulate(Setting(20_000, 1, 200), generator)
    truth = 100 * float(many[0].mean() - many[1].mean())
    print("| drawings | views of each | seeds | images for each seed, % | images once, % | drawings once, % |")
    print("|---:|---:|---:|---:|---:|---:|")
    for setting in SETTINGS:
        held = np.zeros(3)
        for _ in range(grids):
            found = intervals(simulate(setting, generator), setting, generator)
            held += [one.low <= truth <= one.high for one in found]
        cells = " | ".join(f"{share:.1f}" for share in 100 * held / grids)
        print(f"| {setting.drawings} | {setting.views} | {setting.seeds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
