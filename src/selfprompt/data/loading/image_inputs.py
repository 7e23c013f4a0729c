"""Reads whatever a user passes as an image as RGB: a path, the bytes of a file, an open file, an array."""

import os
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selfprompt.data.loading.image_files import decode, open_image
from selfprompt.data.loading.memory_limit import Reserve, unbounded
from selfprompt.data.loading.rgb import pixels_to_rgb

URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)


def read_image(value: Any, reserve: Reserve = unbounded) -> Image.Image:
    """Return an image as RGB.

    Args:
        value: A path, the bytes of an image file, an open binary file (it stays open, and its position is restored
            if possible), a mapping with "bytes" or "path" as in Hugging Face data sets, nested lists of gray or
            colour values, or anything that `rgb.pixels_to_rgb` takes.
        reserve: Called with the bytes that the image will take, before it is decoded.

    Raises:
        ValueError: If it is not an image, or cannot be read; the message gives the reason.
        TypeError: If it has another type.
    """
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is None:
            raise ValueError("it has neither bytes nor a path")
        value = path if data is None else data
    if is_path_like(value):
        return open_image(to_path(value), reserve)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(value), reserve)
    if is_open_file(value):
        return decode_bytes(read_open_file(value), reserve)
    if isinstance(value, list):
        value = np.asarray(value)
    return pixels_to_rgb(value, reserve)


def is_path_like(value: Any) -> bool:
    """Return whether a value is a path: a string, or anything that ``os.fspath`` takes."""
    return isinstance(value, (str, os.PathLike))


def is_open_file(value: Any) -> bool:
    """Return whether a value is an open file or file-like object."""
    return hasattr(value, "read") and not isinstance(value, (Image.Image, os.PathLike))


def to_path(value: str | os.PathLike[Any]) -> Path:
    """Return a value as a path.

    Raises:
        ValueError: If it is a URL.
    """
    text = os.fsdecode(value)
    if URL.match(text) and not os.path.lexists(text):
        raise ValueError("it is a URL, not a file: download it first, then pass the file or its bytes")
    return Path(text)


def read_open_file(file: Any) -> bytes:
    """Read the rest of an open binary file, and restore its position if it is seekable.

    Raises:
        ValueError: If the file is closed, or was opened as text.
    """
    start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
    try:
        data = file.read()
    except UnicodeDecodeError:
        data = ""
    finally:
        if start is not None:
            file.seek(start)
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError("the file is open as text: open it as binary, open(path, 'rb')")
    return bytes(data)


def decode_bytes(data: bytes, reserve: Reserve = unbounded, max_pixels: int | None = None) -> Image.Image:
    """Decode the bytes of an image file as upright RGB."""
    if not data:
        raise ValueError("the file is empty")
    return decode(BytesIO(data), reserve=reserve, max_pixels=max_pixels)
