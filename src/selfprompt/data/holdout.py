"""Draws test images from the training images of a data set that comes without a test split."""

import dataclasses
import random
from collections import defaultdict
from itertools import chain

from selfprompt.data.dataset import Dataset, Source
from selfprompt.data.duplicates import DuplicateMap, find_duplicates
from selfprompt.utils.wording import listing, plural


def hold_out(dataset: Dataset, part: float, seed: int, copies: DuplicateMap | None = None) -> Dataset:
    """Move a part of each class from train to test.

    Of a class with n >= 2 training images ``round(part * n)`` are moved, at least 1 and never all; a single
    image stays. Which ones depends on the seed and n only: renaming, adding or reordering classes moves none.
    Copies of one picture count as one image and stay together; those that stand under several labels stay in train.

    Args:
        dataset: Whose training images are parted.
        part: How much of each class.
        seed: Seed of the choice.
        copies: What `find_duplicates` found among the images; found anew by default.
    """
    copies = find_duplicates(item.source for item in dataset.train) if copies is None else copies
    pictures: dict[Source, list[int]] = defaultdict(list)  # -> indices of the training images that show it
    for index, item in enumerate(dataset.train):
        pictures[copies.get(item.source, item.source)].append(index)
    members: dict[int, list[list[int]]] = defaultdict(list)  # label -> pictures that have this label only
    for indices in pictures.values():
        labels = {dataset.train[index].label for index in indices}
        if len(labels) == 1:
            members[labels.pop()].append(indices)
    chosen: set[int] = set()
    for own in members.values():
        count = min(max(1, round(part * len(own))), len(own) - 1)
        chosen.update(chain.from_iterable(random.Random(f"{seed}:{len(own)}").sample(own, count)))
    single = [
        dataset.classes[label] for label in sorted({item.label for item in dataset.train}) if len(members[label]) < 2
    ]
    train = tuple(item for index, item in enumerate(dataset.train) if index not in chosen)
    test = tuple(item for index, item in enumerate(dataset.train) if index in chosen)
    notes = [
        f"There is no test split: held out {plural(len(test), 'image')} of {len(dataset.train)} for testing "
        f"({part:.0%} of each class, seed {seed})."
    ]
    if single:
        notes.append(f"A single image, kept for training, so none to test on: {listing(single)}.")
    return dataclasses.replace(dataset, train=train, test=test, notes=(*dataset.notes, *notes), held_out=True)
