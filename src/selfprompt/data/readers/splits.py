"""`LabelledSplit`, which every reader returns, and the words that name a split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from selfprompt.data.dataset import Source, Split

SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "validating": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
KNOWN_SPLIT_WORDS = "Known: " + ", ".join(sorted(SPLIT_WORDS)) + "."
FILLER_WORDS = frozenset(
    {
        *("set", "sets", "data", "dataset", "split", "subset", "part", "folder", "dir", "file", "files"),
        *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "pic", "pics"),
        *("sample", "samples", "jpg", "jpeg", "png"),
    }
)
"""Words that add nothing to the name of a split: train_images, testset."""


@dataclass
class LabelledSplit:
    """The images of one split with their labels as the source gives them.

    Attributes:
        sources: The images, in a fixed order.
        labels: The label of each image as text: the name of a folder, a manifest cell, or a class number.
        order: All labels in the order that the source defines; None for the sorted labels that occur.
        names: Class names that the source gives for labels.
        notes: What was left out or decided, one sentence each.
    """

    sources: list[Source]
    labels: list[str]
    order: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def parse_split(name: str) -> Split | None:
    """Return the split that a name means, such as "train", "Test_Set", "trainImages" or "test1"; None for others."""
    split, rest = parse_split_name(name)
    return None if rest else split


def parse_split_name(name: str) -> tuple[Split | None, str]:
    """Return the split that a name mentions and its other words, ("test", "seg") for "seg_test".

    Numbers are ignored. A name that mentions no split, or several, gives (None, "").
    """
    splits, rest = [], []
    for word in list_words(name):
        split = SPLIT_WORDS.get(word) or _parse_compound(word)
        if split is not None:
            splits.append(split)
        elif word not in FILLER_WORDS:
            rest.append(word)
    return (splits[0], " ".join(rest)) if len(splits) == 1 else (None, "")


def list_words(name: str) -> list[str]:
    """Return the lower-case words of a name without numbers: ["train", "images"] for "TrainImages_2"."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _parse_compound(word: str) -> Split | None:
    """Return the split of a compound such as "trainset"."""
    for start, split in SPLIT_WORDS.items():
        if word.startswith(start) and word.removeprefix(start) in FILLER_WORDS:
            return split
    return None
