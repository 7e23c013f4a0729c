"""Accuracies of raw pixels, without a backbone, for each task and domain of the suite."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import RidgeClassifier

from selfprompt.data.dataset import Item
from selfprompt.data.suites import list_tasks, load_task

SIDE = 16


@dataclass(frozen=True)
class Row:
    """Accuracies on one test set in percent, with that of chance."""

    name: str
    images: int
    chance: float
    ridge: float
    nearest: float


def baselines(root: Path) -> Iterator[Row]:
    """Measure ridge regression and nearest neighbours on 16 x 16 pixels, trained on all 16 images per class."""
    for name in list_tasks("embedded"):
        task = load_task(f"embedded/{name}", root)
        train, labels = pixels(task.dataset.train), labels_of(task.dataset.train)
        ridge = RidgeClassifier(alpha=100.0).fit(train, labels)
        further = replace(task.dataset, test=task.more_test)
        for title, dataset in {"test": task.dataset, "further test": further, **task.domains}.items():
            known = [task.dataset.classes.index(one) for one in dataset.classes]
            seen, truth = pixels(dataset.test), labels_of(dataset.test)
            scores = ridge.decision_function(seen)[:, known]
            chosen = np.isin(labels, known)
            distance = ((seen[:, None] - train[chosen]) ** 2).sum(-1)
            nearest = np.searchsorted(known, labels[chosen][distance.argmin(1)])
            yield Row(
                f"{name} {title}",
                len(truth),
                100 / len(known),
                100 * float((scores.argmax(1) == truth).mean()),
                100 * float((nearest == truth).mean()),
            )


def pixels(items: tuple[Item, ...]) -> np.ndarray:
    """Return images as rows of 16 x 16 x 3 values, each image standardised by its mean and deviation."""
    small = [np.asarray(item.load().resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) for item in items]
    rows = np.stack(small).reshape(len(small), -1)
    return (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 1e-6)


def labels_of(items: tuple[Item, ...]) -> np.ndarray:
    """Return the labels."""
    return np.array([item.label for item in items])
