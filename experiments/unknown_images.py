"""How well are images of unknown classes found, and are the promises on known ones kept?

    python -m experiments.unknown_images --shots 4,16

On each task of the embedded suite, heads are trained on the first half of the classes. Test images of these classes
are known; those of the other half are unknown and near, those of the next task are unknown and far. A first table
compares scores that the logits give by their AUROC; a second one shows what ``predict --unknown 0.05`` and
``--coverage 0.9`` do.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from rich.progress import track
from sklearn.metrics import roc_auc_score
from torch import Tensor

from selfprompt.data.dataset import Dataset
from selfprompt.data.fewshot import select_base_new
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.suites import list_tasks, load_task
from selfprompt.inference.calibration import COVERAGE, UNKNOWN_RATE, class_sets, is_unknown
from selfprompt.inference.classifier import Classifier, compute_logits
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


@dataclass(frozen=True)
class Outcome:
    """One classifier: AUROC of each score for near and far images in percent, and shares of images in percent."""

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


def measure(method: str, backbone: Backbone, dataset: Dataset, far: Dataset, shots: int, seed: int) -> Outcome:
    """Train on the first half of the classes, and score images of these, of the others, and of another task."""
    data = replace(dataset, val=())
    known, near = (select_base_new(data, part) for part in ("base", "new"))
    classifier = tune(data, method=method, backbone=backbone, shots=shots, seed=seed, classes="base", workers=0)
    if classifier.calibration is None:
        raise ValueError(f"{method} was not calibrated on {dataset.name}.")
    logits = [logits_on(classifier, part) for part in (known, near, far)]
    scaled = [part.double() / classifier.calibration.temperature for part in logits]
    places = [torch.from_numpy(classifier.calibration.typicality(part)) for part in logits]
    found = [
        {PLACES: auroc(places[0], places[part])}
        | {name: auroc(score(scaled[0]), score(scaled[part])) for name, score in SCORES.items()}
        for part in (1, 2)
    ]
    labels = torch.tensor([item.label for item in known.test])
    metrics = classifier.metrics(logits[0], labels)
    refused = [100 * float(is_unknown(part, classifier.calibration, UNKNOWN_RATE).mean()) for part in logits]
    sets = torch.from_numpy(class_sets(logits[0], classifier.calibration, COVERAGE))
    return Outcome(
        method,
        near=found[0],
        far=found[1],
        refused=refused[0],
        found_near=refused[1],
        found_far=refused[2],
        covered=100 * float(sets.gather(1, labels[:, None]).double().mean()),
        set_size=float(sets.sum(dim=1).double().mean()),
        error_before=metrics.calibration.error_before if metrics.calibration else 0.0,
        error=metrics.calibration_error,
    )


def logits_on(classifier: Classifier, dataset: Dataset) -> Tensor:
    """Return the logits of the test images, (N, C)."""
    return compute_logits(classifier.method, classifier.batches(dataset.test, ImageStore(0)))


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


def promise_table(outcomes: Sequence[Outcome]) -> str:
    """Return a table with the means of each method."""
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
    options = parser.parse_args()
    backbone = load_backbone(options.backbone)
    names = options.datasets.split(",")
    tasks = [load_task(f"embedded/{name}").dataset for name in names]
    pairs = list(zip(tasks, tasks[1:] + tasks[:1], strict=True))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for shots in map(int, options.shots.split(",")):
        runs = [(method, *pair, seed) for method in options.methods.split(",") for pair in pairs for seed in seeds]
        outcomes = [
            measure(method, backbone, dataset, far, shots, seed)
            for method, dataset, far, seed in track(runs, f"{shots} shots")
        ]
        print(f"\n{shots} shots, {len(outcomes)} classifiers\n\n{score_table(outcomes)}\n\n{promise_table(outcomes)}")


if __name__ == "__main__":
    main()
