"""Reads data set objects: torchvision's, Hugging Face's, and lists of pairs; decodes only where it has to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from selfprompt.data.items import ImageTable, IndexedSource, plural
from selfprompt.data.parts import Part

LABELS = ("targets", "_labels", "labels", "y")  # where torchvision's data sets keep their labels
SAMPLES = ("samples", "_samples", "imgs")  # ... or pairs (path, label)


def read_object(source: Any) -> Part:
    """The images of one data set object, as one split.

    Raises:
        TypeError: If the object is of no known kind.
        ValueError: If its labels cannot be used.
    """
    if hasattr(source, "features") and hasattr(source, "column_names"):
        return _read_hugging_face(source)
    if isinstance(source, (list, tuple)):
        return _read_pairs(source)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _read_torchvision(source)
    raise TypeError(
        f"A data source must be a folder, a manifest (.csv, .tsv, .parquet), a torchvision or Hugging Face "
        f"data set, a list of (image, label) or a dict of splits; got {type(source).__name__}."
    )


def _read_pairs(pairs: Sequence[Any]) -> Part:
    """A list of (PIL image or path, label or class name)."""
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise TypeError("A list of images must hold pairs (image or path, label).")
    labels = [pair[1].item() if hasattr(pair[1], "item") else pair[1] for pair in pairs]
    kinds = {type(label) for label in labels}
    if len(kinds) > 1 or not kinds <= {int, str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"Labels must be all ints or all class names, got {names}.")
    table = ImageTable("images", lambda index: pairs[index][0])
    sources: list[Path | IndexedSource] = []
    for index, (image, _) in enumerate(pairs):
        if isinstance(image, (str, Path)):
            sources.append(Path(image))
        elif isinstance(image, Image.Image) or hasattr(image, "shape"):
            sources.append(IndexedSource(table, index))
        else:
            raise TypeError(f"Pair {index} must hold an image or its path, got {type(image).__name__}.")
    return _numbered(sources, labels, None) if kinds == {int} else Part(sources, labels)


def _read_torchvision(dataset: Any) -> Part:
    """Anything with ``dataset[i] -> (image, label)``; decodes nothing where the object tells its labels."""
    name = type(dataset).__name__
    if _own(dataset, "target_transform") is not None:
        raise ValueError(f"{name} has a target_transform, which breaks its class names: load it without.")
    table = ImageTable(name, lambda index: dataset[index][0])
    sources: list[Path | IndexedSource] = [IndexedSource(table, index) for index in range(len(dataset))]
    labels, paths = _labels_of(dataset)
    notes = []
    if labels is None:
        labels = [dataset[index][1] for index in range(len(dataset))]
        notes.append(f"{name} does not tell its labels: {plural(len(labels), 'image')} were read to learn them.")
    if len(labels) != len(dataset):
        raise ValueError(f"{name} must have one label for each image, got {len(labels)} for {len(dataset)}.")
    by_path = len(paths) > 0 and paths[0].is_file()
    if by_path:
        sources = list(paths)
    if _own(dataset, "transform") is not None:
        used = "is not used" if by_path else "is applied before ours, once"
        notes.append(f"The transform of {name} {used}.")
    part = _numbered(sources, labels, _class_names(dataset))
    part.notes = tuple(notes)
    return part


def _labels_of(dataset: Any) -> tuple[list[Any] | None, list[Path]]:
    """Labels without decoding, or None; and paths where there are pairs (path, label)."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels, paths = _labels_of(dataset.dataset)
        chosen = [int(index) for index in dataset.indices]
        return labels and [labels[i] for i in chosen], [paths[i] for i in chosen] if paths else []
    for attribute in SAMPLES:
        pairs = getattr(dataset, attribute, None)
        if isinstance(pairs, list) and pairs and all(map(_is_path_pair, pairs)):
            return [label for _, label in pairs], [Path(path) for path, _ in pairs]
    for attribute in LABELS:
        values = getattr(dataset, attribute, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
            return _plain(values), []
    return None, []


def _is_path_pair(pair: Any) -> bool:
    return isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], (str, Path))


def _class_names(dataset: Any) -> list[str] | None:
    """``.classes`` (of several names for one class the first), or ``.categories``."""
    names = _own(dataset, "classes") or _own(dataset, "categories")
    if not isinstance(names, (list, tuple)):
        return None
    return [str(name[0] if isinstance(name, (list, tuple)) else name) for name in names]


def _own(dataset: Any, attribute: str) -> Any:
    """An attribute of a data set, or of the one that it is a subset of."""
    while hasattr(dataset, "dataset") and not hasattr(dataset, attribute):
        dataset = dataset.dataset
    return getattr(dataset, attribute, None)


def _read_hugging_face(dataset: Any) -> Part:
    """A `datasets.Dataset` with an Image column and a ClassLabel (or text or number) column."""
    if not hasattr(dataset, "__len__"):
        raise ValueError("A streaming data set has no order to draw from: load it without streaming=True.")
    image, more_images = _column(dataset, ("Image",), ("image", "img"))
    label, more_labels = _column(dataset, ("ClassLabel",), ("label", "labels", "fine_label"))
    if label is None:
        label, more_labels = _column(dataset, ("Value",), ("label", "class", "category"), only_preferred=True)
    if image is None or label is None:
        missing = "an Image" if image is None else "a ClassLabel (or 'label')"
        raise ValueError(f"The data set needs {missing} column; its columns are: {dataset.features}.")
    plain = dataset.with_format(None)
    images = plain.select_columns([image])
    table = ImageTable("data set", lambda index: images[index][image])
    sources: list[Path | IndexedSource] = [IndexedSource(table, index) for index in range(len(dataset))]
    labels = list(plain[label])
    names = getattr(dataset.features[label], "names", None)
    kinds = {type(value) for value in labels}
    part = Part(sources, labels) if names is None and kinds == {str} else _numbered(sources, labels, names)
    if more_images or more_labels:
        part.notes = (f"Used the columns {image!r} and {label!r}; others: {', '.join(more_images + more_labels)}.",)
    return part


def _column(
    dataset: Any, kinds: tuple[str, ...], preferred: tuple[str, ...], *, only_preferred: bool = False
) -> tuple[str | None, list[str]]:
    """The column of a kind (the preferred name first), and others of that kind."""
    found = [name for name, feature in dataset.features.items() if type(feature).__name__ in kinds]
    found.sort(key=lambda name: preferred.index(name) if name in preferred else len(preferred))
    if only_preferred:
        found = [name for name in found if name in preferred]
    return (found[0], found[1:]) if found else (None, [])


def _numbered(sources: list[Path | IndexedSource], labels: Sequence[Any], names: Sequence[str] | None) -> Part:
    """A part whose labels are class numbers; without names they are called "class 0" and so on."""
    if any(isinstance(label, bool) or not isinstance(label, int) for label in labels):
        wrong = next(label for label in labels if isinstance(label, bool) or not isinstance(label, int))
        raise ValueError(f"A label must be one class number, got {wrong!r}.")
    top = len(names) - 1 if names else max(labels, default=0)
    wrong = [label for label in labels if not 0 <= label <= top]
    if wrong:
        raise ValueError(
            f"Labels must lie in 0..{top}, got {wrong[0]} ({plural(len(wrong), 'image')}). "
            f"Labels below 0 mean unlabelled: leave that split out."
        )
    words = list(map(str, labels))
    if names is None:
        return Part(sources, words, names={word: f"class {word}" for word in words})
    numbers = tuple(map(str, range(len(names))))
    return Part(sources, words, numbers, dict(zip(numbers, names, strict=True)))


def _plain(values: Any) -> list[Any]:
    """A list of Python values from a list, an array or a tensor."""
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    return [value.item() if hasattr(value, "item") else value for value in values]
