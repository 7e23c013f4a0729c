"""What may be handed over to be classified: one image or many, of whatever kind."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from selfprompt.data.loading.image_inputs import is_open_file, is_path_like
from selfprompt.inference.image_paths import image_paths


def each_image(given: Any) -> Iterable[Any]:
    """The images one by one, each of a kind that `image_inputs.image_from` takes if it is an image at all.

    Args:
        given: One image; the path of a folder, for the images below it; a batch, as array (N, H, W, C) or tensor
            (N, C, H, W); or anything that can be run through, which is done as images are needed.

    Raises:
        ValueError: While iterating, if a folder has no images.
    """
    if is_path_like(given):
        return image_paths([os.fsdecode(given)]) if os.path.isdir(given) else [given]
    if is_open_file(given) or isinstance(given, (Image.Image, Mapping, bytes, bytearray, memoryview)):
        return [given]
    if hasattr(given, "shape"):
        return given if len(given.shape) in (1, 4) else [given]  # 1: a column of paths
    if isinstance(given, Iterable):
        return given
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return (given[index] for index in range(len(given)))
    return [given]


def image_name(image: Any, number: int) -> str:
    """What to call an image: its path, the name of an open file, or its number."""
    name: Any = getattr(image, "name", None) if is_open_file(image) else image
    return os.fsdecode(name) if is_path_like(name) else f"image {number}"
