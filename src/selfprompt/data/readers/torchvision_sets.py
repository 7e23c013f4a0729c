"""The data-set classes whose inside is known, so that their labels, and perhaps paths, are had without decoding.

Only these very classes are opened up. A subclass, or a wrapper that looks alike, may give other pictures or labels
than its lists say, so it is asked for its items (`objects`).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = {  # torchvision.datasets: class -> its list of pairs (path, number)
    "folder.DatasetFolder": "samples",
    "folder.ImageFolder": "samples",
    "imagenet.ImageNet": "samples",
    "country211.Country211": "samples",
    "eurosat.EuroSAT": "samples",
    "stanford_cars.StanfordCars": "_samples",
    "gtsrb.GTSRB": "_samples",
    "imagenette.Imagenette": "_samples",
    "rendered_sst2.RenderedSST2": "_samples",
}
LABELS = {  # ... class -> its list of numbers
    "caltech.Caltech101": "y",
    "caltech.Caltech256": "y",
    "cifar.CIFAR10": "targets",
    "cifar.CIFAR100": "targets",
    "dtd.DTD": "_labels",
    "fgvc_aircraft.FGVCAircraft": "_labels",
    "flowers102.Flowers102": "_labels",
    "food101.Food101": "_labels",
    "mnist.EMNIST": "targets",
    "mnist.FashionMNIST": "targets",
    "mnist.KMNIST": "targets",
    "mnist.MNIST": "targets",
    "oxford_iiit_pet.OxfordIIITPet": "_labels",
    "semeion.SEMEION": "labels",
    "stl10.STL10": "labels",
    "sun397.SUN397": "_labels",
    "svhn.SVHN": "labels",
    "usps.USPS": "targets",
}
KINDS = {  # classes with labels of several kinds, where they keep the kinds asked for, and the kind of LABELS
    "caltech.Caltech101": ("target_type", "category"),
    "oxford_iiit_pet.OxfordIIITPet": ("_target_types", "category"),
}


@dataclass(frozen=True)
class Known:
    """What a known data set tells of itself.

    Attributes:
        labels: The label of each item.
        paths: The file of each item, where an item is no more than the picture in it; None otherwise.
    """

    labels: Sequence[Any]
    paths: Sequence[Path] | None


def known(dataset: Any) -> Known | None:
    """Labels and paths of a data set of a known class, and of subsets of one; None for every other object."""
    if is_exactly(dataset, "torch.utils.data.dataset", "Subset"):
        inner = known(dataset.dataset)
        indices = [int(index) for index in dataset.indices]
        if inner is None or not all(-len(inner.labels) <= index < len(inner.labels) for index in indices):
            return None
        paths = inner.paths and [inner.paths[index] for index in indices]
        return Known([inner.labels[index] for index in indices], paths)
    name = _torchvision_name(dataset)
    if name in SAMPLES:
        pairs = getattr(dataset, SAMPLES[name], None)
        if not isinstance(pairs, list) or len(pairs) != len(dataset):
            return None
        labels, paths = [label for _, label in pairs], [Path(path) for path, _ in pairs]
        return Known(_targets(dataset, labels), paths if _opens_files_plainly(dataset) else None)
    if name in LABELS:
        attribute, kind = KINDS.get(name, ("", ""))
        found = getattr(dataset, LABELS[name], None)
        if found is None or len(found) != len(dataset) or (attribute and getattr(dataset, attribute, None) != [kind]):
            return None
        return Known(_targets(dataset, list(found)), None)
    return None


def is_exactly(value: Any, module: str, name: str) -> bool:
    """Whether a value is of that class itself, not of a subclass; imports nothing."""
    return type(value) is getattr(sys.modules.get(module), name, ())


def innermost(dataset: Any) -> Any:
    """The data set that subsets choose from."""
    while is_exactly(dataset, "torch.utils.data.dataset", "Subset"):
        dataset = dataset.dataset
    return dataset


def recorded_labels(dataset: Any) -> Sequence[Any] | None:
    """The labels that any data set keeps beside its items, which may differ from theirs; None without."""
    if is_exactly(dataset, "torch.utils.data.dataset", "Subset"):
        inner = recorded_labels(dataset.dataset)
        indices = [int(index) for index in dataset.indices]
        if inner is None or not all(-len(inner) <= index < len(inner) for index in indices):
            return None
        return [inner[index] for index in indices]
    for attribute in ("targets", "_labels", "labels", "y"):
        values = _listed(dataset, attribute)
        if values is not None and len(values) == len(dataset):
            return values
    for attribute in ("samples", "_samples", "imgs"):
        pairs = _listed(dataset, attribute)
        if pairs and len(pairs) == len(dataset) and all(map(_is_pair, pairs)):
            return [label for _, label in pairs]
    return None


def class_names(dataset: Any) -> dict[int, str] | None:
    """Names by class number, from ``class_to_idx``, ``classes`` or ``categories``; None without, or in contradiction.

    Of several names for one class the first is taken.

    Raises:
        ValueError: If data sets were joined that mean other classes by the same number.
    """
    dataset = innermost(dataset)
    if is_exactly(dataset, "torch.utils.data.dataset", "ConcatDataset"):
        return _joined_names(dataset)
    names = dict(enumerate(map(_first_name, _listed(dataset, "classes") or _listed(dataset, "categories") or [])))
    numbers = getattr(dataset, "class_to_idx", None)
    if not isinstance(numbers, Mapping) or not all(isinstance(number, int) for number in numbers.values()):
        return names or None
    indexed: dict[int, str] = {}
    for name, number in numbers.items():
        indexed.setdefault(number, _first_name(name))
    if not names:
        return indexed or None
    contradiction = set(names.values()) == set(indexed.values()) and names != indexed
    return None if contradiction else names


def _joined_names(dataset: Any) -> dict[int, str] | None:
    """The names that all joined data sets give; None where one gives none."""
    joined: dict[int, str] = {}
    all_names = [class_names(part) for part in dataset.datasets]
    for names in all_names:
        for number, name in (names or {}).items():
            if joined.setdefault(number, name) != name:
                raise ValueError(
                    f"Joined data sets must number classes alike; {number} is {joined[number]!r} and {name!r}: "
                    "change the labels of one (target_transform)."
                )
    return joined if all(all_names) else None


def _torchvision_name(dataset: Any) -> str:
    """ "module.Class" below torchvision.datasets; empty for classes that are defined elsewhere."""
    kind = type(dataset)
    prefix, _, module = kind.__module__.rpartition(".")
    known_class = prefix == "torchvision.datasets" and is_exactly(dataset, kind.__module__, kind.__name__)
    return f"{module}.{kind.__name__}" if known_class else ""


def _opens_files_plainly(dataset: Any) -> bool:
    """Whether an item is the picture in its file: no transform, and a loader that only opens it."""
    folder = sys.modules.get("torchvision.datasets.folder")
    plain = (None, getattr(folder, "default_loader", None), getattr(folder, "pil_loader", None))
    return getattr(dataset, "transform", None) is None and getattr(dataset, "loader", None) in plain


def _targets(dataset: Any, labels: list[Any]) -> list[Any]:
    """The labels as the data set gives them."""
    change = getattr(dataset, "target_transform", None)
    return labels if change is None else [change(label) for label in labels]


def _listed(dataset: Any, attribute: str) -> list[Any] | None:
    """An attribute that is a list, tuple or vector; None for others, and where there is none."""
    try:
        values = getattr(dataset, attribute)
    except Exception:  # a property of somebody's own may raise anything
        return None
    is_list = isinstance(values, (list, tuple)) or len(getattr(values, "shape", ())) == 1
    return list(values) if is_list else None


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _first_name(name: Any) -> str:
    return str(name[0] if isinstance(name, (list, tuple)) and name else name)
