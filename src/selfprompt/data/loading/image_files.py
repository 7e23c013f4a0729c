"""Opens one image file, whatever its kind, as upright 8-bit RGB; knows only PIL.

Nothing is decoded before the header says how large it is. An animation gives its first frame. What the pixels become
is told in `selfprompt.data.loading.rgb`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.ImageFile import ImageFile

from selfprompt.data.loading.image_formats import EXTENSIONS, HEADER_BYTES, detect_format
from selfprompt.data.loading.memory_limit import Reserve, unbounded
from selfprompt.data.loading.rgb import (
    apply_orientation,
    check_size,
    decoded_bytes,
    exif_orientation,
    pixels_to_rgb,
    to_8_bits,
    to_rgb,
)
from selfprompt.data.loading.sixteen_bit_colour import raw_mode, with_lower_bytes

__all__ = ["BadImage", "BadImageError", "decode", "error_reason", "open_image", "pixels_to_rgb", "to_8_bits", "to_rgb"]

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000")
"""Whatever the file's name; none runs other programs. A phone's MPO opens as the JPEG that it begins with."""
SCALED_FORMATS = ("PPM", "JPEG2000")
"""Formats whose 16-bit values PIL has scaled to 0..65535, by what the file says of them."""
REMEDIES = {
    "HEIC": "pip install 'selfprompt[heif]' (the package pillow-heif)",
    "AVIF": "pip install 'pillow>=11.3'",
    "JPEG XL": "convert it to JPEG or PNG (the package pillow-jxl-plugin reads it)",
    "camera raw": "convert it to JPEG or PNG (the package rawpy reads it)",
    "SVG": "convert it to PNG (the package resvg-py reads it)",
    "PSD": "convert it to PNG (the package psd-tools reads it)",
}
"""Format -> what to do where it cannot be decoded; otherwise: convert it to PNG."""
TEXT_SIGNATURES = {
    b"<!doctype html": "an HTML page, not an image: the download went wrong",
    b"<html": "an HTML page, not an image: the download went wrong",
    b"version https://git-lfs": "a pointer of Git LFS, not an image: fetch it with git lfs pull",
}
"""How files begin that often stand under an image's name."""
PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 262, 322, 323  # tags of TIFF
PATH_COLUMNS = ("file_name", "filename", "file", "path", "image", "id", "image_id")  # first cells of tables of images
MAX_TILE_PIXELS = 1 << 24
"""Pixels of a TIFF's tile, at most; its memory is taken whole, however small the image is."""


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used: its file (or ``name[index]``) and the reason in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadImageError(ValueError):
    """Raised where one image cannot be read; carries the `BadImage`."""

    def __init__(self, bad: BadImage) -> None:
        super().__init__(str(bad))
        self.bad = bad


def open_image(path: Path, reserve: Reserve = unbounded) -> Image.Image:
    """Read an image file as an upright 8-bit RGB image.

    Args:
        path: The file.
        reserve: Called with the bytes that the image will take, before it is decoded.

    Raises:
        BadImageError: If the file is missing, empty, cut off, no image, or too large to be opened safely.
    """
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise ValueError("not a file")
        if status.st_size == 0:
            raise ValueError("the file is empty")
        with open(path, "rb") as file:
            return decode(file, path.suffix, reserve)
    except FileNotFoundError:
        fault = f"the file does not exist{missing_path_hint(path)}"
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on broken files
        fault = error_reason(error)
    raise BadImageError(BadImage(str(path), fault))


def decode(file: BinaryIO, suffix: str = "", reserve: Reserve = unbounded) -> Image.Image:
    """The upright RGB image in an open file; raises whatever is wrong with it.

    Args:
        file: Open as binary, at its start.
        suffix: The ending of its name, by which a camera's raw file is told from a TIFF.
        reserve: As in `open_image`.
    """
    head = file.read(HEADER_BYTES)
    found = detect_format(head, suffix)
    if found == "HEIC":
        return _read_heic(file, reserve)
    if found == "camera raw" or (found == "AVIF" and "avif" not in features.get_supported_modules()):
        raise ValueError(_no_decoder(found))
    formats = ("AVIF",) if found == "AVIF" else FORMATS
    try:
        image = _open_as(file, formats)
    except UnidentifiedImageError:
        damaged = f"damaged, or a kind of {found} that cannot be decoded"
        raise ValueError(
            damaged if found in formats else _no_decoder(found) if found else _not_an_image(head)
        ) from None
    with image:
        check_size(image.size)
        _check_tiles(image)
        mode = raw_mode(image)
        reserve(decoded_bytes(image) + (4 * image.width * image.height if mode else 0))
        image.load()
        if mode is None:
            made = to_rgb(image, 16 if image.format in SCALED_FORMATS else None)
        else:
            made = with_lower_bytes(image, mode, lambda: _open_as(file, formats))
        if image.mode.startswith("I;16") and _tag(image, PHOTOMETRIC, 1) == 0:  # white is 0: PIL heeds it in 8 bits
            made = ImageOps.invert(made)
        return apply_orientation(made, exif_orientation(image))


def _open_as(file: BinaryIO, formats: tuple[str, ...]) -> ImageFile:
    file.seek(0)
    return Image.open(file, formats=formats)


def _read_heic(file: BinaryIO, reserve: Reserve) -> Image.Image:
    try:
        from pillow_heif import open_heif
    except ImportError:
        raise ValueError(_no_decoder("HEIC")) from None
    file.seek(0)
    found = open_heif(file)
    check_size(found.size)
    reserve(20 * found.size[0] * found.size[1])
    image = found.to_pillow()
    return apply_orientation(to_rgb(image), exif_orientation(image))


def _check_tiles(image: Image.Image) -> None:
    """Refuse a TIFF whose tiles take more memory than its size promises."""
    width, length = _tag(image, TILE_WIDTH, 0), _tag(image, TILE_LENGTH, 0)
    if width * length > max(MAX_TILE_PIXELS, image.width * image.height):
        raise ValueError(
            f"a tile of {width:,} x {length:,} pixels is larger than {MAX_TILE_PIXELS:,} and than the image"
        )


def _tag(image: Image.Image, tag: int, otherwise: int) -> int:
    """A tag of a TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag, otherwise)
    return int(value[0] if isinstance(value, tuple) else value)


def _no_decoder(name: str) -> str:
    article = "an" if name[0] in "AEIOHS" and name != "HEIC" else "a"
    return f"{article} {name} image, which cannot be decoded here: {REMEDIES.get(name, 'convert it to PNG')}"


def _not_an_image(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    found = next((told for start, told in TEXT_SIGNATURES.items() if text.startswith(start)), None)
    return found or "not an image, or of an unknown kind"


def missing_path_hint(path: Path) -> str:
    """What may have been meant by a path that does not exist, as the rest of a sentence; else nothing."""
    name = str(path)
    if "\\" in name and os.path.exists(meant := Path(name.replace("\\", "/"))):
        return f", but {meant} does: write paths with /"
    for suffix in sorted(EXTENSIONS):
        for ending in (suffix, suffix.upper()):
            if os.path.exists(meant := path.with_name(path.name + ending)):
                return f", but {meant.name} does: give the whole name"
    cell = name.split("\t" if "\t" in name else ",")[0].strip().strip('"')
    if cell != name and (Path(cell).suffix.lower() in EXTENSIONS or cell in PATH_COLUMNS or os.path.isfile(cell)):
        return ": it looks like a row of a table; a list has one path a line, and nothing else"
    return ""


def error_reason(error: Exception) -> str:
    """Why an image cannot be used, in one line."""
    if isinstance(error, BadImageError):
        return error.bad.reason
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown kind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or "no details"
    known = isinstance(error, (OSError, ValueError, TypeError))
    return text if known else f"{type(error).__name__}: {text}"
