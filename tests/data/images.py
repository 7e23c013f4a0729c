"""Makes image files and items for the tests of `selfprompt.data`."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selfprompt.data.dataset import Dataset, Item


@dataclass(frozen=True)
class Preprocess:
    """CLIP's preprocessing at a small size."""

    size: int = 16
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    mode: str = "shortest"
    resize: int | None = None


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    """Return a noise image that depends on its seed only."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_classes(root: Path, counts: Mapping[str, int], suffix: str = ".png") -> Path:
    """Write a folder with a folder of images for each class; ``counts`` gives their number."""
    seed = 0
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(count):
            picture(seed).save(folder / f"{number}{suffix}")
            seed += 1
    return root


def fake_dataset(labels: list[int], val: list[int] | None = None, test: list[int] | None = None) -> Dataset:
    """Return a data set of files that do not exist."""
    splits = {
        split: tuple(Item(Path(f"{split}-{index}"), label) for index, label in enumerate(given or []))
        for split, given in (("train", labels), ("val", val), ("test", test))
    }
    count = max(labels, default=-1) + 1
    return Dataset("fake", tuple(f"name {label}" for label in range(count)), **splits)


def golden_arrays() -> dict[str, np.ndarray]:
    """Load the recorded draws, halves and transforms of the published protocol."""
    with np.load(Path(__file__).parents[1] / "golden" / "sep_protocol.npz") as file:
        return {name: file[name] for name in file.files}


def png_of_16_bits(values: np.ndarray) -> bytes:
    """Return a 16-bit PNG of values (H, W), or (H, W, C) with 2 to 4 channels; PIL writes gray ones only."""
    height, width = values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of(values: np.ndarray, order: str = "<", tags: Mapping[int, int] | None = None) -> bytes:
    """Return a 16-bit TIFF, in one strip, of values (H, W) or (H, W, C).

    Args:
        values: The pixels.
        order: Byte order, "<" or ">".
        tags: Short tags that add to or replace the usual ones.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(f"{order}u2").tobytes()
    short = {256: width, 257: height, 258: 16, 259: 1, 262: 2 if channels > 2 else 1, 277: channels, 278: height}
    short |= {338: 2} if channels == 4 else {}
    short |= dict(tags or {})
    count = len(short) + 2  # plus offset and length of the strip
    start = 8 + 2 + 12 * count + 4
    bits = struct.pack(f"{order}{channels}H", *[16] * channels) if channels > 2 else b""
    long = {273: start + len(bits), 279: len(data)}
    entries = b""
    for tag, value in sorted((short | long).items()):
        if tag == 258 and bits:
            entries += struct.pack(f"{order}HHII", tag, 3, channels, start)
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    return header + entries + bytes(4) + bits + data
