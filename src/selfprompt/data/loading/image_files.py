"""Opens an image file of any supported format as upright 8-bit RGB; knows only PIL.

Nothing is decoded before its size is known from the header. An animation gives its first frame.
`selfprompt.data.loading.rgb` converts the pixels.
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
    to_rgb,
)
from selfprompt.data.loading.sixteen_bit_colour import convert_sixteen_bits, raw_mode

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000")
"""Tried whatever the file's name; none of their decoders runs other programs. An MPO opens as its first JPEG."""
SCALED_FORMATS = ("PPM", "JPEG2000")
"""Formats whose 16-bit values PIL scales to 0..65535, by the maximum stated in the file."""
REMEDIES = {
    "HEIC": "pip install 'selfprompt[heif]' (the package pillow-heif)",
    "AVIF": "pip install 'pillow>=11.3'",
    "JPEG XL": "convert it to JPEG or PNG (the package pillow-jxl-plugin reads it)",
    "camera raw": "convert it to JPEG or PNG (the package rawpy reads it)",
    "SVG": "convert it to PNG (the package resvg-py reads it)",
    "PSD": "convert it to PNG (the package psd-tools reads it)",
}
"""Format -> what to do about an image that cannot be decoded; for other formats: convert it to PNG."""
TEXT_SIGNATURES = {
    b"<!doctype html": "an HTML page, not an image: the download went wrong",
    b"<html": "an HTML page, not an image: the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer, not an image: fetch the image with git lfs pull",
}
"""First bytes of text files that often carry an image's name."""
PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 262, 322, 323  # tags of TIFF
PATH_COLUMNS = ("file_name", "filename", "file", "path", "image", "id", "image_id")
"""Headers of the first column of a table of images."""
UNKNOWN_FORMAT = "not an image, or of an unknown format"
MAX_TILE_PIXELS = 1 << 24
"""Largest tile of a TIFF: a whole tile is allocated, however small the image is."""


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used: its file (or ``name[index]``) and the reason, in one line."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class BadImageError(ValueError):
    """Raised if an image cannot be read; ``bad`` holds the `BadImage`."""

    def __init__(self, bad: BadImage) -> None:
        super().__init__(str(bad))
        self.bad = bad


def open_image(path: Path, reserve: Reserve = unbounded) -> Image.Image:
    """Read an image file as an upright 8-bit RGB image.

    Args:
        path: The file.
        reserve: Called with the bytes that the image will take, before it is decoded.

    Raises:
        BadImageError: If the file is missing, empty, truncated, not an image, or too large to be opened safely.
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
        reason = f"the file does not exist{missing_path_hint(path)}"
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on broken files
        reason = error_reason(error)
    raise BadImageError(BadImage(str(path), reason))


def decode(
    file: BinaryIO, suffix: str = "", reserve: Reserve = unbounded, max_pixels: int | None = None
) -> Image.Image:
    """Decode an open file as an upright RGB image.

    Args:
        file: A binary file at its start.
        suffix: Extension of its name, which distinguishes a camera raw file from a TIFF.
        reserve: See `open_image`.
        max_pixels: Most pixels of an image, checked before it is decoded; None for `rgb.MAX_PIXELS`.

    Raises:
        Exception: Of nearly any type, if the file is damaged or not an image; see `error_reason`.
    """
    head = file.read(HEADER_BYTES)
    kind = detect_format(head, suffix)
    if kind == "HEIC":
        return _read_heic(file, reserve, max_pixels)
    if kind == "camera raw" or (kind == "AVIF" and "avif" not in features.get_supported_modules()):
        raise ValueError(_no_decoder(kind))
    formats = ("AVIF",) if kind == "AVIF" else FORMATS
    try:
        image = _open_as(file, formats)
    except UnidentifiedImageError:
        raise ValueError(_why_unidentified(head, kind, formats)) from None
    with image:
        check_size(image.size, max_pixels)
        _check_tiles(image)
        mode = raw_mode(image)
        reserve(decoded_bytes(image) + (4 * image.width * image.height if mode else 0))
        image.load()
        if mode is None:
            rgb = to_rgb(image, 16 if image.format in SCALED_FORMATS else None)
        else:
            rgb = convert_sixteen_bits(image, mode, lambda: _open_as(file, formats))
        if image.mode.startswith("I;16") and _tag(image, PHOTOMETRIC, 1) == 0:  # white is 0; PIL inverts 8 bits only
            rgb = ImageOps.invert(rgb)
        return apply_orientation(rgb, exif_orientation(image))


def _open_as(file: BinaryIO, formats: tuple[str, ...]) -> ImageFile:
    file.seek(0)
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError:  # PIL's own limit, which a program may have lowered
        raise ValueError("more pixels than can be opened safely; make it smaller") from None


def _read_heic(file: BinaryIO, reserve: Reserve, max_pixels: int | None) -> Image.Image:
    try:
        from pillow_heif import open_heif
    except ImportError:
        raise ValueError(_no_decoder("HEIC")) from None
    file.seek(0)
    heif = open_heif(file)
    check_size(heif.size, max_pixels)
    reserve(20 * heif.size[0] * heif.size[1])
    image = heif.to_pillow()
    return apply_orientation(to_rgb(image), exif_orientation(image))


def _check_tiles(image: Image.Image) -> None:
    """Raise ValueError for a TIFF whose tiles take more memory than its size suggests."""
    width, length = _tag(image, TILE_WIDTH, 0), _tag(image, TILE_LENGTH, 0)
    if width * length > max(MAX_TILE_PIXELS, image.width * image.height):
        raise ValueError(
            f"a tile of {width:,} x {length:,} pixels is larger than {MAX_TILE_PIXELS:,} and than the image"
        )


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """Return a tag of a TIFF; the default for other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _why_unidentified(head: bytes, kind: str | None, formats: tuple[str, ...]) -> str:
    if kind is None:
        return _not_an_image(head)
    return f"damaged, or a kind of {kind} that cannot be decoded" if kind in formats else _no_decoder(kind)


def _no_decoder(name: str) -> str:
    article = "an" if name[0] in "AEIOHS" and name != "HEIC" else "a"
    return f"{article} {name} image, which cannot be decoded here: {REMEDIES.get(name, 'convert it to PNG')}"


def _not_an_image(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    reason = next((reason for start, reason in TEXT_SIGNATURES.items() if text.startswith(start)), None)
    return reason or UNKNOWN_FORMAT


def missing_path_hint(path: Path) -> str:
    """Guess what a path that does not exist should have been; returns the end of a sentence, or ""."""
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
    """Return in one line why an image cannot be used."""
    if isinstance(error, BadImageError):
        return error.bad.reason
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    if isinstance(error, UnidentifiedImageError):
        return UNKNOWN_FORMAT
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or "no details"
    known = isinstance(error, (OSError, ValueError, TypeError))
    return text if known else f"{type(error).__name__}: {text}"
