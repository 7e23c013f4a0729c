"""Reads Hugging Face data sets: finds the columns of images and labels; decodes nothing."""

from collections.abc import Callable, Sequence
from typing import Any

from selfprompt.data.dataset import ImageTable, IndexedSource, Source
from selfprompt.data.loading.image_inputs import to_path
from selfprompt.data.readers.labels import IMAGE_KEYS, LABEL_KEYS
from selfprompt.data.readers.torchvision_sets import is_instance_of
from selfprompt.utils.wording import listing


def is_hugging_face(source: Any) -> bool:
    """Return whether an object is a `datasets.Dataset` itself, whose items are its rows."""
    return is_instance_of(source, "datasets.arrow_dataset", "Dataset") and not has_transform(source)


def has_transform(source: Any) -> bool:
    """Return whether a `datasets.Dataset` transforms its rows on access."""
    return is_instance_of(source, "datasets.arrow_dataset", "Dataset") and source.format["type"] == "custom"


def is_streaming(source: Any) -> bool:
    """Return whether an object is a Hugging Face data set without a length."""
    return hasattr(source, "features") and hasattr(source, "column_names") and not hasattr(source, "__len__")


def read_columns(dataset: Any) -> tuple[list[Source], list[Any], Sequence[str] | None, list[str]]:
    """Return the images, the unchanged labels, the class names (None without), and notes.

    Raises:
        ValueError: If there is no column of images, or none of labels.
    """
    features = dataset.features
    images = _columns_of_type(features, "Image", IMAGE_KEYS)
    image = next(iter(images), None) or _first_named(features, IMAGE_KEYS, _may_hold_images)
    labels = _columns_of_type(features, "ClassLabel", LABEL_KEYS)
    label = next(iter(labels), None) or _first_named(features, LABEL_KEYS, _may_hold_labels)
    if image is None or label is None or image == label:
        missing = "an Image" if image is None else "a ClassLabel (or 'label')"
        raise ValueError(
            f"The data set needs {missing} column; its columns are: {_describe_columns(features)}. "
            f"Rename the right one: dataset.rename_column(..., '{'image' if image is None else 'label'}')."
        )
    unformatted = dataset.with_format(None)
    sources = _read_sources(unformatted.select_columns([image]), image)
    others = [name for name in (*images, *labels) if name not in (image, label)]
    notes = [f"Used the columns {image!r} and {label!r}; others: {', '.join(others)}."] if others else []
    return sources, list(unformatted[label]), getattr(features[label], "names", None), notes


def read_class_labels(dataset: Any) -> tuple[list[Any], dict[int, str]] | None:
    """Return the labels and class names by number of the ClassLabel column, before any transform; None without."""
    if not is_instance_of(dataset, "datasets.arrow_dataset", "Dataset"):
        return None
    columns = _columns_of_type(dataset.features, "ClassLabel", LABEL_KEYS)
    if not columns:
        return None
    return list(dataset.with_format(None)[columns[0]]), dict(enumerate(dataset.features[columns[0]].names))


def _read_sources(images: Any, column: str) -> list[Source]:
    if type(images.features[column]).__name__ == "Value" and "string" in images.features[column].dtype:
        try:
            return [to_path(path or "") for path in images[column]]
        except ValueError as error:
            raise ValueError(f"The column {column!r} must hold paths of images: {error}.") from None
    table = ImageTable("data set", lambda index: images[index][column])
    return [IndexedSource(table, index) for index in range(len(images))]


def _columns_of_type(features: Any, kind: str, preferred: Sequence[str]) -> list[str]:
    """Return the columns of a feature type, those with preferred names first."""
    names = [name for name, feature in features.items() if type(feature).__name__ == kind]
    return sorted(names, key=lambda name: preferred.index(name) if name in preferred else len(preferred))


def _first_named(features: Any, names: Sequence[str], accepts: Callable[[Any], bool]) -> str | None:
    """Return the column of the first name, in any case, whose type is accepted."""
    lower = {name.lower(): name for name in reversed(list(features))}
    return next((lower[name] for name in names if name in lower and accepts(features[lower[name]])), None)


def _may_hold_images(feature: Any) -> bool:
    """Return whether a column may hold paths, file bytes, mappings of both, arrays or nested lists."""
    kind = type(feature).__name__
    of_values = kind == "Value" and any(word in feature.dtype for word in ("string", "binary"))
    return (
        of_values
        or kind in ("Array2D", "Array3D", "List", "Sequence")
        or (kind == "dict" and bool({"bytes", "path"} & set(feature)))
    )


def _may_hold_labels(feature: Any) -> bool:
    return type(feature).__name__ == "Value"


def _describe_columns(features: Any) -> str:
    return listing([f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in features.items()])
