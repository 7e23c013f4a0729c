"""How well are images of unknown classes found, and are the promises about known ones kept?

    python -m experiments.unknown_images --shots 4,16

On each task of the embedded suite, heads are trained on the first half of the classes. Test images of these classes
are known; those of the other half are unknown and near, those of the next task are unknown and far. A first table
compares scores that the logits give by their AUROC; a second one shows what ``predict --unknown 0.05`` and
``--coverage 0.9`` do.

The promises are about images like those of the training. In the suite, training images and test images show different
drawings. So with ``--test alike`` all 50 images of a class are shuffled: some are drawn for training, and the others
are test images. ``--test others`` keeps the split of the suite, to show what happens to images of another kind.
"""

import argparse
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.progress import track
from sklearn.metrics import roc_auc_score
from torch import Tensor

from selfprompt.data.dataset import Dataset
from selfprompt.data.fewshot import draw_shots
from selfprompt.data.loading.feature_cache import FeatureStore
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.suites import list_tasks, load_task
from selfprompt.inference.calibration import COVERAGE, UNKNOWN_RATE, class_sets, is_unknown
from selfprompt.inference.classifier import compute_logits
from selfprompt.models.backbone import Backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.training.tune import tune

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "largest logit": lambda logits: logits.amax(dim=1),
    "energy": lambda logits: logits.logsumexp(dim=1),
    "largest probability": lambda logits: logits.softmax(dim=1).amax(dim=1),
    "entropy": lambda logits: (logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1),
    "margin": lambda logits: logits.topk(2, dim=1).values.diff(dim=1).neg()[:, 0],
}
"""Scores of logits that were divided by the temperature, (N, C) to (N,); lower for unknown images."""
PLACES = "smaller place by largest logit and largest probability"
"""The score that ``--unknown`` uses."""


SPLITS = ("alike", "others")


@dataclass(frozen=True)
class Images:
    """All images of a task, always in one order, so that their features are computed once.

    Attributes:
        dataset: Its classes; all images are in ``test``.
        base: Number of classes to train on, the first ones.
        trainable: From which images the shots are drawn, (N,), bool.
        testable: Which images are tested if they are not drawn, (N,), bool.
    """

    dataset: Dataset
    base: int
    trainable: Tensor
    testable: Tensor

    @property
    def labels(self) -> Tensor:
        """The classes, (N,)."""
        return torch.tensor([item.label for item in self.dataset.test])

    def draw(self, shots: int, seed: int) -> tuple[Dataset, Tensor]:
        """Return a data set that has only the drawn training images, and which images are test images, (N,), bool."""
        items = self.dataset.test
        pool = [item for item, allowed in zip(items, self.trainable.tolist(), strict=True) if allowed]
        drawn = draw_shots(pool, shots, random.Random(seed))
        sources = {item.source for item in drawn}
        left = torch.tensor([item.source not in sources for item in items])
        return replace(self.dataset, train=drawn, test=()), left & self.testable


def list_images(name: str, split: str) -> Images:
    """Return the images of a task of the embedded suite, for a split of ``SPLITS``."""
    task = load_task(f"embedded/{name}")
    data = task.dataset
    parts = (data.train, data.val, data.test, task.more_test)
    part = torch.tensor([number for number, items in enumerate(parts) for _ in items])
    alike = torch.full_like(part, split == "alike", dtype=torch.bool)
    items = tuple(item for items in parts for item in items)
    base = (len(data.classes) + 1) // 2
    return Images(replace(data, train=(), val=(), test=items), base, alike | (part == 0), alike | (part >= 2))


@dataclass(frozen=True)
class Outcome:
    """One classifier: AUROC of each score for near and far images in percent, and shares of images in percent.

    ``calibration_images`` and ``known`` are numbers of images: of the calibration, and of known test images.
    """

    method: str
    near: dict[str, float]
    far: dict[str, float]
    refused: float
    found_near: float
    found_far: float
    covered: float
    set_size: float
    error_before: float
    error: float
    calibration_images: int
    known: int


def measure(
    method: str, backbone: Backbone, images: tuple[Images, Images], shots: int, seed: int, features: FeatureStore
) -> Outcome:
    """Train on the first half of a task's classes, and score images of these, of the others, and of another task.

    Args:
        method: Name of the method.
        backbone: The frozen backbone.
        images: Those of the task, and those of the other task.
        shots: Training images a class.
        seed: Seed of the draw and of the training.
        features: Keeps the features of all images.
    """
    own, far = images
    data, tested = own.draw(shots, seed)
    classifier = tune(data, method=method, backbone=backbone, shots=shots, seed=seed, classes="base", workers=0)
    if classifier.calibration is None:
        raise ValueError(f"{method} was not calibrated on {data.name}.")
    found, foreign = (
        compute_logits(classifier.method, classifier.batches(part.dataset.test, ImageStore(0), features))
        for part in images
    )
    known, near = tested & (own.labels < own.base), tested & (own.labels >= own.base)
    logits = [found[known], found[near], foreign[far.testable]]
    scaled = [part.double() / classifier.calibration.temperature for part in logits]
    places = [torch.from_numpy(classifier.calibration.typicality(part)) for part in logits]
    areas = [
        {PLACES: auroc(places[0], places[part])}
        | {name: auroc(score(scaled[0]), score(scaled[part])) for name, score in SCORES.items()}
        for part in (1, 2)
    ]
    labels = own.labels[known]
    metrics = classifier.metrics(logits[0], labels)
    refused = [100 * float(is_unknown(part, classifier.calibration, UNKNOWN_RATE).mean()) for part in logits]
    sets = torch.from_numpy(class_sets(logits[0], classifier.calibration, COVERAGE))
    return Outcome(
        method,
        near=areas[0],
        far=areas[1],
        refused=refused[0],
        found_near=refused[1],
        found_far=refused[2],
        covered=100 * float(sets.gather(1, labels[:, None]).double().mean()),
        set_size=float(sets.sum(dim=1).double().mean()),
        error_before=metrics.calibration.error_before if metrics.calibration else 0.0,
        error=metrics.calibration_error,
        calibration_images=classifier.calibration.images,
        known=len(labels),
    )


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return how often a known image scores higher than an unknown one, in percent."""
    labels = [1] * len(known) + [0] * len(unknown)
    return 100 * float(roc_auc_score(labels, torch.cat([known, unknown]).numpy()))


def score_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table with the mean AUROC of each score."""
    lines = ["| score | AUROC, near | AUROC, far |", "|---|---|---|"]
    for name in (PLACES, *SCORES):
        near = statistics.mean(outcome.near[name] for outcome in outcomes)
        far = statistics.mean(outcome.far[name] for outcome in outcomes)
        lines.append(f"| {name} | {near:.1f} | {far:.1f} |")
    return "\n".join(lines)


def share_of_places(place: int, images: int, tested: int) -> tuple[float, float]:
    """Return the mean and the variance of the share of test images that come before a place among calibration images.

    A new image is as likely to come at each of the n + 1 places in the order of n images like it. Before the k-th of
    these comes a share of m new images whose distribution is beta-binomial: its mean is p = k / (n + 1), its variance
    ``p (1 - p) / (n + 2) (1 + (n + 1) / m)``.

    Args:
        place: k, from 0 to n + 1.
        images: n, number of calibration images.
        tested: m, number of test images.
    """
    mean = place / (images + 1)
    return mean, mean * (1 - mean) / (images + 2) * (1 + (images + 1) / tested)


def exact_rate(rate: float, outcomes: Sequence[Outcome], rounding: Callable[[float], int]) -> str:
    """Return the mean share in percent, and its standard error, if a promised rate is kept exactly."""
    shares = []
    for outcome in outcomes:
        images = outcome.calibration_images
        place = min(images + 1, rounding(round((images + 1) * rate, 9)))
        shares.append(share_of_places(place, images, outcome.known))
    error = math.sqrt(sum(variance for _, variance in shares)) / len(shares)
    return f"{100 * statistics.mean(mean for mean, _ in shares):.1f} ± {100 * error:.1f} %"


def promise_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table with the means of each method, below those of exact promises with their standard errors."""
    by_method = defaultdict(list)
    for outcome in outcomes:
        by_method[outcome.method].append(outcome)
    columns = ("refused", "found_near", "found_far", "covered", "set_size", "error_before", "error")
    titles = (
        "known refused",
        "near found",
        "far found",
        "true class in set",
        "classes in set",
        "error before",
        "after",
    )
    lines = [f"| method | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    one = next(iter(by_method.values()))
    refused, covered = exact_rate(UNKNOWN_RATE, one, math.floor), exact_rate(COVERAGE, one, math.ceil)
    lines.append(f"| exact promises | {refused} | | | {covered} | | | |")
    for method, found in by_method.items():
        means = {name: statistics.mean(getattr(outcome, name) for outcome in found) for name in columns}
        cells = [f"{means[name]:.1f} %" for name in columns[:4]] + [f"{means['set_size']:.2f}"]
        cells += [f"{means[name]:.3f}" for name in columns[5:]]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the experiment and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--datasets", default=",".join(list_tasks("embedded")))
    parser.add_argument("--methods", default="zero-shot,simpleshot,ridge,logistic,ss-text,gda,clap")
    parser.add_argument("--backbone", default="embedded/clip")
    parser.add_argument("--shots", default="4,16")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--test", default="alike", choices=SPLITS)
    options = parser.parse_args()
    backbone = load_backbone(options.backbone)
    names = options.datasets.split(",")
    tasks = [list_images(name, options.test) for name in names]
    pairs = list(zip(tasks, tasks[1:] + tasks[:1], strict=True))
    seeds, features = [int(seed) for seed in options.seeds.split(",")], FeatureStore()
    for shots in map(int, options.shots.split(",")):
        runs = [(method, pair, seed) for method in options.methods.split(",") for pair in pairs for seed in seeds]
        outcomes = [
            measure(method, backbone, pair, shots, seed, features)
            for method, pair, seed in track(runs, f"{shots} shots")
        ]
        print(f"\n{shots} shots, {len(outcomes)} classifiers\n\n{score_table(outcomes)}\n\n{promise_table(outcomes)}")


if __name__ == "__main__":
    main()
