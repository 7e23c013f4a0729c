"""Labels and items of data-set objects as plain values: class numbers or class names, whatever they came as."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from PIL import Image

IMAGE_KEYS = ("image", "img", "pixel_values", "pixels", "picture", "photo", "path", "file", "image_path", "file_name")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "category", "fine_label", "class_name", "y")

Label = int | str | bool


def plain_label(value: Any, place: str) -> Label:
    """A label as an int, a bool or a text.

    Args:
        value: A Python or NumPy scalar, a tensor or array of one value, an enumeration's member, UTF-8 bytes.
        place: Whose label it is, for messages: "Photos[3]".

    Raises:
        ValueError: If there is no label, or more than one.
        TypeError: If it is of another kind.
    """
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # arrays, tensors, NumPy's scalars
        count = math.prod(value.shape)
        if count != 1:
            raise ValueError(
                f"{place} must have one class number, got {count} values (one-hot, or several labels?): "
                "give the number of its class, int(label.argmax()) for a one-hot label."
            )
        value = value.reshape(-1).tolist()[0]
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, (int, str)) else value.name
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{place} has no label (it is {value}): leave it out, or label it.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (list, tuple, set, Mapping)):
        raise ValueError(f"{place} must have one class number, got {value!r}: an image has a single class here.")
    raise TypeError(f"Labels must be all ints or all class names, got {type(value).__name__} {value!r} at {place}.")


def check_alike(labels: Sequence[Label], name: str, indices: Sequence[int]) -> None:
    """Raise TypeError unless all labels are numbers, or all are names; they stand at these indices of the object."""
    first = {type(label): index for index, label in reversed(list(enumerate(labels)))}
    if len(first) > 1:
        kinds = ", ".join(sorted(kind.__name__ for kind in first))
        examples = " and ".join(f"{labels[index]!r} ({name}[{indices[index]}])" for index in sorted(first.values()))
        raise TypeError(f"Labels must be all ints or all class names, got {kinds}: {examples}.")


def image_and_label(item: Any, place: str) -> tuple[Any, Any]:
    """Image and label of a data set's item, each as it came.

    Args:
        item: A pair (image, label), a mapping or named tuple with an image and a label, or an object with the
            attributes ``image`` and ``label``.
        place: Which item it is, for messages.

    Raises:
        TypeError: If it is none of these.
    """
    named = _by_name(item, place)
    if named is not None:
        image, label = named
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        image, label = item
    else:
        raise TypeError(f"{place} must be a pair (image, label), got {_shape_of(item)}.")
    if not may_be_image(image):
        turned = " It holds the label first: turn it around." if may_be_image(label) else ""
        raise TypeError(f"{place} must hold an image or its path, got {type(image).__name__}.{turned}")
    return image, label


def may_be_image(value: Any) -> bool:
    """Whether a value can be meant as an image; None is an image that is missing."""
    if isinstance(value, Mapping):
        return bool({"bytes", "path"} & set(value))
    is_array = len(getattr(value, "shape", ())) > 1
    is_path = hasattr(value, "__fspath__") or isinstance(value, (str, bytes, bytearray))
    return value is None or is_path or is_array or isinstance(value, (Image.Image, list)) or hasattr(value, "read")


def _by_name(item: Any, place: str) -> tuple[Any, Any] | None:
    """Image and label by their names, where the item names its members."""
    if isinstance(item, Mapping):
        names, get = list(map(str, item)), item.__getitem__
    elif isinstance(item, tuple) and hasattr(item, "_fields"):
        names, get = list(item._fields), lambda name: getattr(item, name)
    elif not isinstance(item, (tuple, list, Image.Image)) and hasattr(item, "image") and hasattr(item, "label"):
        return item.image, item.label
    else:
        return None
    image = next((name for name in IMAGE_KEYS if name in names), None)
    label = next((name for name in LABEL_KEYS if name in names), None)
    if image is not None and label is not None:
        return get(image), get(label)
    if isinstance(item, tuple):
        return None
    what, keys = ("an image", IMAGE_KEYS) if image is None else ("a label", LABEL_KEYS)
    raise TypeError(f"{place} needs {what}, called {', '.join(keys)}; its keys are: {', '.join(names) or 'none'}.")


def _shape_of(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        wrap = ": choose the two, [(item[0], item[1]) for item in data] say" if len(item) > 2 else ""
        return f"{len(item)} value{'s' if len(item) != 1 else ''}{wrap}"
    return f"{type(item).__name__}{' without a label' if may_be_image(item) else ''}"
