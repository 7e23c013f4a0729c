"""Holds out test images from the training images of a data set without a test split."""

import dataclasses
import random
from collections import defaultdict
from itertools import chain

from selfprompt.data.dataset import Dataset, Source
from selfprompt.data.duplicates import DuplicateMap, find_duplicates
from selfprompt.utils.wording import listing, plural


def hold_out(dataset: Dataset, fraction: float, seed: int, duplicates: DuplicateMap | None = None) -> Dataset:
    """Move a fraction of each class from train to test.

    Of a class with n >= 2 training images ``round(fraction * n)`` are moved, at least 1 and never all; a single
    image stays. The choice depends on the seed and n only: renaming, adding or reordering classes changes none.
    Copies of an image count as one image and stay together; copies with different labels stay in train.

    Args:
        dataset: The data set.
        fraction: Fraction of each class, in (0, 1).
        seed: Seed of the choice.
        duplicates: The result of `find_duplicates` for the training images; computed by default.
    """
    if duplicates is None:
        duplicates = find_duplicates(item.source for item in dataset.train)
    pictures_of = _group_copies(dataset, duplicates)
    held: set[int] = set()
    for pictures in pictures_of.values():
        count = min(max(1, round(fraction * len(pictures))), len(pictures) - 1)
        held.update(chain.from_iterable(random.Random(f"{seed}:{len(pictures)}").sample(pictures, count)))
    train = tuple(item for index, item in enumerate(dataset.train) if index not in held)
    test = tuple(item for index, item in enumerate(dataset.train) if index in held)
    notes = [
        f"There is no test split: held out {plural(len(test), 'image')} of {len(dataset.train)} for testing "
        f"({fraction:.0%} of each class, seed {seed})."
    ]
    labels = sorted({item.label for item in dataset.train})
    single = [dataset.classes[label] for label in labels if len(pictures_of.get(label, ())) < 2]
    if single:
        notes.append(f"Classes with a single image, which is kept for training: {listing(single)}.")
    return dataclasses.replace(dataset, train=train, test=test, notes=(*dataset.notes, *notes), held_out=True)


def _group_copies(dataset: Dataset, duplicates: DuplicateMap) -> dict[int, list[list[int]]]:
    """Return the different pictures of each label, each as the indices of its training images.

    Pictures with several labels are left out.
    """
    copies: dict[Source, list[int]] = defaultdict(list)
    for index, item in enumerate(dataset.train):
        copies[duplicates.get(item.source, item.source)].append(index)
    pictures_of: dict[int, list[list[int]]] = defaultdict(list)
    for indices in copies.values():
        labels = {dataset.train[index].label for index in indices}
        if len(labels) == 1:
            pictures_of[labels.pop()].append(indices)
    return pictures_of
