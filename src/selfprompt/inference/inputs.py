"""Inputs of a classifier: one image or many, of any supported type."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from selfprompt.data.loading.image_inputs import is_open_file, is_path_like
from selfprompt.inference.image_paths import image_paths


def iterate_images(images: Any) -> Iterable[Any]:
    """Return an iterable of single images, as `image_inputs.read_image` takes them.

    Args:
        images: One image; the path of a folder, for all images below it; a batch, as array (N, H, W, C) or tensor
            (N, C, H, W); or any iterable of images, which is consumed lazily.

    Raises:
        ValueError: While iterating, if a folder has no images.
    """
    if is_path_like(images):
        return image_paths([os.fsdecode(images)]) if os.path.isdir(images) else [images]
    if is_open_file(images) or isinstance(images, (Image.Image, Mapping, bytes, bytearray, memoryview)):
        return [images]
    if hasattr(images, "shape"):
        return images if len(images.shape) in (1, 4) else [images]  # 1: a column of paths
    if isinstance(images, Iterable):
        return images
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return (images[index] for index in range(len(images)))
    return [images]


def image_name(image: Any, number: int) -> str:
    """Return a name for an image: its path, the name of an open file, or its number."""
    name: Any = getattr(image, "name", None) if is_open_file(image) else image
    return os.fsdecode(name) if is_path_like(name) else f"image {number}"
