"""Reads the labels, and where possible the paths, of known torchvision data sets without decoding an image.

Only exactly these classes are read directly. A subclass or a wrapper may return other images or labels than are in its
lists, so its items are read one by one (`objects`).
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLES = {  # class in torchvision.datasets -> attribute with its list of pairs (path, class number)
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
LABELS = {  # class in torchvision.datasets -> attribute with its class numbers
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
TARGET_TYPES = {  # class with several target types -> attribute with the selected types, and the type in LABELS
    "caltech.Caltech101": ("target_type", "category"),
    "oxford_iiit_pet.OxfordIIITPet": ("_target_types", "category"),
}


@dataclass(frozen=True)
class LabelsAndPaths:
    """The labels and files of a data set's items.

    Attributes:
        labels: The label of each item.
        paths: The file of each item if every item is exactly the image in its file; None otherwise.
    """

    labels: Sequence[Any]
    paths: Sequence[Path] | None


def read_labels_and_paths(dataset: Any) -> LabelsAndPaths | None:
    """Return the labels and paths of a known data set or of a subset of one; None for every other object."""
    if _is_subset(dataset):
        inner = read_labels_and_paths(dataset.dataset)
        indices = [int(index) for index in dataset.indices]
        if inner is None or not _fit(indices, len(inner.labels)):
            return None
        paths = inner.paths and [inner.paths[index] for index in indices]
        return LabelsAndPaths([inner.labels[index] for index in indices], paths)
    name = _torchvision_name(dataset)
    if name in SAMPLES:
        pairs = getattr(dataset, SAMPLES[name], None)
        if not isinstance(pairs, list) or len(pairs) != len(dataset):
            return None
        labels, paths = [label for _, label in pairs], [Path(path) for path, _ in pairs]
        return LabelsAndPaths(_apply_target_transform(dataset, labels), paths if _returns_files(dataset) else None)
    if name in LABELS:
        attribute, kind = TARGET_TYPES.get(name, ("", ""))
        values = getattr(dataset, LABELS[name], None)
        if values is None or len(values) != len(dataset):
            return None
        if attribute and getattr(dataset, attribute, None) != [kind]:
            return None
        return LabelsAndPaths(_apply_target_transform(dataset, list(values)), None)
    return None


def is_instance_of(value: Any, module: str, name: str) -> bool:
    """Return whether a value is an instance of exactly this class, not of a subclass; imports nothing."""
    return type(value) is getattr(sys.modules.get(module), name, ())


def unwrap_subsets(dataset: Any) -> Any:
    """Return the data set inside nested `torch.utils.data.Subset` objects."""
    while _is_subset(dataset):
        dataset = dataset.dataset
    return dataset


def read_listed_labels(dataset: Any) -> Sequence[Any] | None:
    """Return the labels that any data set stores as a list, which may differ from its items' labels; None without."""
    if _is_subset(dataset):
        inner = read_listed_labels(dataset.dataset)
        indices = [int(index) for index in dataset.indices]
        if inner is None or not _fit(indices, len(inner)):
            return None
        return [inner[index] for index in indices]
    for attribute in ("targets", "_labels", "labels", "y"):
        values = _read_list(dataset, attribute)
        if values is not None and len(values) == len(dataset):
            return values
    for attribute in ("samples", "_samples", "imgs"):
        pairs = _read_list(dataset, attribute)
        if pairs and len(pairs) == len(dataset) and all(map(_is_pair, pairs)):
            return [label for _, label in pairs]
    return None


def read_class_names(dataset: Any) -> dict[int, str] | None:
    """Return the class names by number from ``class_to_idx``, ``classes`` or ``categories``.

    Of several names for a class the first is used. None if there are no names, or if they contradict each other.

    Raises:
        ValueError: If data sets were concatenated that use the same number for different classes.
    """
    dataset = unwrap_subsets(dataset)
    if is_instance_of(dataset, "torch.utils.data.dataset", "ConcatDataset"):
        return _join_names(dataset)
    listed = _read_list(dataset, "classes") or _read_list(dataset, "categories") or []
    names = dict(enumerate(map(_first_name, listed)))
    numbers = getattr(dataset, "class_to_idx", None)
    if not isinstance(numbers, Mapping) or not all(isinstance(number, int) for number in numbers.values()):
        return names or None
    indexed: dict[int, str] = {}
    for name, number in numbers.items():
        indexed.setdefault(number, _first_name(name))
    if not names:
        return indexed or None
    contradict = set(names.values()) == set(indexed.values()) and names != indexed
    return None if contradict else names


def _join_names(dataset: Any) -> dict[int, str] | None:
    """Return the names of all concatenated data sets; None if one has no names."""
    joined: dict[int, str] = {}
    all_names = [read_class_names(part) for part in dataset.datasets]
    for names in all_names:
        for number, name in (names or {}).items():
            if joined.setdefault(number, name) != name:
                raise ValueError(
                    f"Concatenated data sets must number their classes alike; {number} is {joined[number]!r} and "
                    f"{name!r}: change the labels of one with target_transform."
                )
    return joined if all(all_names) else None


def _is_subset(dataset: Any) -> bool:
    return is_instance_of(dataset, "torch.utils.data.dataset", "Subset")


def _fit(indices: Sequence[int], count: int) -> bool:
    """Return whether all indices exist in a list of ``count`` values."""
    return all(-count <= index < count for index in indices)


def _torchvision_name(dataset: Any) -> str:
    """Return "module.Class" below torchvision.datasets; "" for classes defined elsewhere."""
    kind = type(dataset)
    prefix, _, module = kind.__module__.rpartition(".")
    is_torchvision = prefix == "torchvision.datasets" and is_instance_of(dataset, kind.__module__, kind.__name__)
    return f"{module}.{kind.__name__}" if is_torchvision else ""


def _returns_files(dataset: Any) -> bool:
    """Return whether an item is the image in its file: there is no transform, and the loader only opens the file."""
    folder = sys.modules.get("torchvision.datasets.folder")
    loaders = (None, getattr(folder, "default_loader", None), getattr(folder, "pil_loader", None))
    return getattr(dataset, "transform", None) is None and getattr(dataset, "loader", None) in loaders


def _apply_target_transform(dataset: Any, labels: list[Any]) -> list[Any]:
    """Return the labels as the items of the data set have them."""
    transform = getattr(dataset, "target_transform", None)
    return labels if transform is None else [transform(label) for label in labels]


def _read_list(dataset: Any, attribute: str) -> list[Any] | None:
    """Return an attribute that is a list, tuple or vector; None if it is missing or something else."""
    try:
        values = getattr(dataset, attribute)
    except Exception:  # a property of a user's class may raise anything
        return None
    is_list = isinstance(values, (list, tuple)) or len(getattr(values, "shape", ())) == 1
    return list(values) if is_list else None


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _first_name(name: Any) -> str:
    return str(name[0] if isinstance(name, (list, tuple)) and name else name)
