"""Tells image files from others by their extension, else by their first bytes; decodes nothing."""

import os
import re
from pathlib import Path
from stat import S_ISREG

EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".heic", ".heif", ".jp2"),
    }
)
"""Extensions, in lower case, that are trusted without opening the file: a folder may hold millions."""
HEADER_BYTES = 512
"""Bytes at the start of a file that determine its format."""
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS\0": "PSD",
    b"\0\0\1\0": "ICO",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"qoif": "QOI",
    b"DDS |\0": "DDS",
    b"FUJIFILMCCD-RAW": "camera raw",
    b"IIRO": "camera raw",
    b"IIU\0": "camera raw",
}
"""First bytes of a file -> its format; `detect_format` handles the formats that need more than a prefix."""
BRAND_FORMATS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"crx ": "camera raw",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
"""Brand that follows ``ftyp`` in an ISO media file, a container that videos use, too -> format."""
GENERIC_BRANDS = (b"mif1", b"msf1")
"""Brands of images whose codec is given by the compatible brands that follow."""
RAW_EXTENSIONS = frozenset(
    {
        *(".dng", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".cr2", ".cr3", ".crw", ".orf", ".rw2", ".raf"),
        *(".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr", ".mrw", ".rwl", ".mos", ".mef", ".fff"),
    }
)
"""Extensions of camera raw files. Most begin like a TIFF whose first image is only a thumbnail."""
BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
"""Sizes of a BMP's second header: its signature is only two letters, with which texts may begin, too."""


def is_image(path: Path) -> bool:
    """Return whether a file is an image, readable or not: by its extension, else by its first bytes."""
    suffix = path.suffix.lower()
    return suffix in EXTENSIONS or file_format(path) is not None


def file_format(path: Path) -> str | None:
    """Return the format of an image file; None for other files and for those that cannot be opened."""
    try:
        if not S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
            return None
        with open(path, "rb") as file:
            return detect_format(file.read(HEADER_BYTES), path.suffix)
    except (OSError, ValueError):
        return None


def detect_format(head: bytes, suffix: str = "") -> str | None:
    """Return the format of an image file that begins with ``head``; None if it is not an image."""
    kind = next((name for signature, name in SIGNATURES.items() if head.startswith(signature)), None)
    if kind == "TIFF" and suffix.lower() in RAW_EXTENSIONS:
        return "camera raw"
    if kind == "ICO" and not (head[4:6] > b"\0\0" and head[9:10] == b"\0"):
        return None
    if kind is not None:
        return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _format_of_brands(head)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADER_SIZES:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#|\d)", head):
        return "PPM"
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return "SVG" if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text else None


def _format_of_brands(head: bytes) -> str | None:
    brand = head[8:12]
    if brand not in GENERIC_BRANDS:
        return BRAND_FORMATS.get(brand)
    end = min(int.from_bytes(head[:4], "big"), len(head))
    others = (head[start : start + 4] for start in range(16, end, 4))
    return next((BRAND_FORMATS[other] for other in others if other in BRAND_FORMATS), "HEIC")
