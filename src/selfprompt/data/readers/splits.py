"""What every reader returns: one split's images with their labels as found; and the words for splits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from selfprompt.data.dataset import Source, Split

WORDS: dict[str, Split] = {
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
NOUNS = frozenset(
    {
        *("set", "sets", "data", "dataset", "split", "subset", "part", "folder", "dir", "file", "files"),
        *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "pic", "pics"),
        *("sample", "samples", "jpg", "jpeg", "png"),
    }
)
"""Words that stand beside those for splits and mean nothing more: train_images, testset."""


@dataclass
class Part:
    """One split as it was found.

    Attributes:
        sources: The images, in a fixed order.
        labels: The label of each, as a word: a folder's name, a manifest's entry, a data set's class number.
        order: All labels, in the order that the source gives them; None: sorted order of those that occur.
        names: Names that the source gives its labels.
        notes: What was left out or decided, one sentence each.
    """

    sources: list[Source]
    labels: list[str]
    order: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def parse_split(word: str) -> Split | None:
    """Which split a word means, in any case: "train", "Test_Set", "trainImages", "test1"; None if it is none."""
    split, rest = split_and_rest(word)
    return None if rest else split


def split_and_rest(name: str) -> tuple[Split | None, str]:
    """Which split a name speaks of, and its other words: ("test", "seg") for "seg_test"; numbers mean nothing."""
    splits, rest = [], []
    for token in words_of(name):
        split = WORDS.get(token) or _joined(token)
        if split is not None:
            splits.append(split)
        elif token not in NOUNS:
            rest.append(token)
    return (splits[0], " ".join(rest)) if len(splits) == 1 else (None, "")


def words_of(name: str) -> list[str]:
    """The words of a name in lower case, without numbers: "TrainImages_2" is train, images."""
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _joined(token: str) -> Split | None:
    """The split of a word that is joined to its noun: "trainset"."""
    return next(
        (split for word, split in WORDS.items() if token.startswith(word) and token[len(word) :] in NOUNS), None
    )


UNKNOWN_SPLIT = "Known: " + ", ".join(sorted(WORDS)) + "."
