"""Splits the items of data-set objects into image and label, and converts labels to int, bool or text."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from PIL import Image

IMAGE_KEYS = ("image", "img", "pixel_values", "pixels", "picture", "photo", "path", "file", "image_path", "file_name")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "category", "fine_label", "class_name", "y")

Label = int | str | bool


def parse_label(value: Any, item: str) -> Label:
    """Convert a label to an int, a bool or text.

    Args:
        value: A Python or NumPy scalar, a tensor or array with one value, an enumeration member, or UTF-8 bytes.
        item: The item with this label, for messages: "Photos[3]".

    Raises:
        ValueError: If there is no label, or more than one.
        TypeError: If the value has another type.
    """
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # arrays, tensors, NumPy scalars
        count = math.prod(value.shape)
        if count != 1:
            raise ValueError(
                f"{item} must have one class number, got {count} values (one-hot, or several labels?): "
                "give the class number, for a one-hot label int(label.argmax())."
            )
        value = value.reshape(-1).tolist()[0]
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, (int, str)) else value.name
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{item} has no label (it is {value}): leave it out, or label it.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (list, tuple, set, Mapping)):
        raise ValueError(f"{item} must have one class number, got {value!r}: give each image a single class.")
    raise TypeError(f"Labels must be all ints or all class names, got {type(value).__name__} {value!r} at {item}.")


def check_same_type(labels: Sequence[Label], name: str, indices: Sequence[int]) -> None:
    """Raise TypeError unless all labels are numbers or all are names.

    Args:
        labels: The labels.
        name: The name of the object, for messages.
        indices: The index of each label in the object.
    """
    first = {type(label): index for index, label in reversed(list(enumerate(labels)))}
    if len(first) > 1:
        types = ", ".join(sorted(kind.__name__ for kind in first))
        examples = " and ".join(f"{labels[index]!r} ({name}[{indices[index]}])" for index in sorted(first.values()))
        raise TypeError(f"Labels must be all ints or all class names, got {types}: {examples}.")


def split_item(item: Any, name: str) -> tuple[Any, Any]:
    """Return the image and the label of an item, both unchanged.

    Args:
        item: A pair (image, label), a mapping or named tuple with an image and a label, or an object with the
            attributes ``image`` and ``label``.
        name: The item's name, for messages: "Photos[3]".

    Raises:
        TypeError: If it is none of these.
    """
    named = _split_by_key(item, name)
    if named is not None:
        image, label = named
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        image, label = item
    else:
        raise TypeError(f"{name} must be a pair (image, label), got {_describe_item(item)}.")
    if not may_be_image(image):
        swapped = " Its label comes first: swap the two." if may_be_image(label) else ""
        raise TypeError(f"{name} must have an image or its path, got {type(image).__name__}.{swapped}")
    return image, label


def may_be_image(value: Any) -> bool:
    """Return whether a value may be an image; None counts as a missing image."""
    if isinstance(value, Mapping):
        return bool({"bytes", "path"} & set(value))
    is_array = len(getattr(value, "shape", ())) > 1
    is_path = hasattr(value, "__fspath__") or isinstance(value, (str, bytes, bytearray))
    return value is None or is_path or is_array or isinstance(value, (Image.Image, list)) or hasattr(value, "read")


def _split_by_key(item: Any, name: str) -> tuple[Any, Any] | None:
    """Return image and label by their keys; None if the item has no keys."""
    if isinstance(item, Mapping):
        keys, get = list(map(str, item)), item.__getitem__
    elif isinstance(item, tuple) and hasattr(item, "_fields"):
        keys, get = list(item._fields), lambda key: getattr(item, key)
    elif not isinstance(item, (tuple, list, Image.Image)) and hasattr(item, "image") and hasattr(item, "label"):
        return item.image, item.label
    else:
        return None
    image = next((key for key in IMAGE_KEYS if key in keys), None)
    label = next((key for key in LABEL_KEYS if key in keys), None)
    if image is not None and label is not None:
        return get(image), get(label)
    if isinstance(item, tuple):
        return None
    missing, accepted = ("an image", IMAGE_KEYS) if image is None else ("a label", LABEL_KEYS)
    raise TypeError(
        f"{name} needs {missing} under one of the keys {', '.join(accepted)}; "
        f"its keys are: {', '.join(keys) or 'none'}."
    )


def _describe_item(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        advice = ": select two, for example [(item[0], item[1]) for item in data]" if len(item) > 2 else ""
        return f"{len(item)} value{'s' if len(item) != 1 else ''}{advice}"
    return f"{type(item).__name__}{' without a label' if may_be_image(item) else ''}"
