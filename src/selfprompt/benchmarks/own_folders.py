"""The user's own folders and manifests as tasks of a benchmark; imports no torch."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from selfprompt.benchmarks.rows import slug
from selfprompt.data.dataset import Dataset
from selfprompt.data.holdout import hold_out
from selfprompt.data.readers.folders import OnEmptyClass
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.suites.task import SuiteTask
from selfprompt.training.identity import image_identities

LONGEST = 60
"""Letters in the name of a task; it becomes part of the name of a folder."""


def name_folders(paths: Sequence[str]) -> dict[str, Path]:
    """Return the absolute path of each folder or manifest by a name for tables and files.

    A name consists of letters, digits and ``._=+-``, and does not begin with a dot. Folders of the same name get that
    of the folder above in front, or else a number.

    Raises:
        ValueError: If a path is given twice.
    """
    absolute = [Path(os.path.abspath(Path(path).expanduser())) for path in paths]
    if len({path.resolve() for path in absolute}) < len(absolute):
        raise ValueError(f"Each folder may be given once, got {', '.join(paths)}.")
    names = [_name(path) for path in absolute]
    counts = Counter(map(str.casefold, names))
    pairs = zip(absolute, names, strict=True)
    names = [_name(path.parent, f"-{name}") if counts[name.casefold()] > 1 else name for path, name in pairs]
    result: dict[str, Path] = {}
    for path, name in zip(absolute, names, strict=True):
        taken = set(map(str.casefold, result))
        candidates = (name, *(f"{name}-{number}" for number in range(2, len(paths) + 2)))
        result[next(word for word in candidates if word.casefold() not in taken)] = path
    return result


def _name(path: Path, ending: str = "") -> str:
    """Return a name for a path, with an ending."""
    stem = path.stem if path.is_file() else path.name
    return (slug(stem, LONGEST).strip(".") or "images")[: LONGEST - len(ending)] + ending[:LONGEST]


def load_folder_task(
    folders: Mapping[str, Path], on_empty: OnEmptyClass, suite: str, name: str, root: Path | None
) -> SuiteTask:
    """Read one of the user's folders; opens no image.

    Args:
        folders: The folders by name.
        on_empty: What to do with a class folder without images: "skip" or "fail".
        suite: Not used: with the first two arguments bound, the function is a ``TaskLoader``.
        name: One of the names.
        root: Not used.

    Raises:
        ValueError: If the folder cannot be read, or no class has two images and there is no test split.
    """
    dataset = replace(read_dataset(folders[name], holdout=0, on_empty=on_empty), name=name)
    if not dataset.test and max(Counter(item.label for item in dataset.train).values(), default=0) < 2:
        raise ValueError(f"{folders[name]}: a class needs at least two images, one to train on and one to test on.")
    path = folders[name]
    return SuiteTask(suite, name, dataset, folder=path.parent if path.is_file() else path)


def fingerprint(dataset: Dataset) -> str:
    """Return a hash of what is said about the classes, and of relative path, bytes and label of each image.

    Moving all images together does not change it.
    """
    images = [image_identities(items) for items in (dataset.train, dataset.val, dataset.test)]
    text = json.dumps([dataset.classes, *images, *map(asdict, dataset.descriptions)])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def draw_test_images(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Hold out test images with a seed, unless the data have a test split.

    Raises:
        ValueError: If nothing can be held out.
    """
    if dataset.test:
        return dataset
    drawn = hold_out(dataset, fraction, seed)
    if not drawn.test:
        raise ValueError(f"{dataset.name}: no class has two different images, one to train on and one to test on.")
    return drawn
