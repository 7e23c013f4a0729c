"""Writes miniature data roots in the layouts of the published data sets."""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from selfprompt.data.dataset import SPLITS
from selfprompt.data.suites.specs import SPECS
from tests.data.images import picture

Split = Mapping[str, Sequence[tuple[str, int, str]]]


@cache
def image_bytes(kind: str = "JPEG", size: int = 8) -> bytes:
    """Return the bytes of a small image file."""
    buffer = io.BytesIO()
    picture(0, size, size).save(buffer, kind)
    return buffer.getvalue()


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image_bytes("PNG" if path.suffix == ".png" else "JPEG"))
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def draw_split(names: Sequence[str], counts: tuple[int, int, int], prefix: str = "") -> dict[str, list[Any]]:
    """Return the entries of a split file with ``counts`` images of each class in train, val and test."""
    return {
        split: [
            [f"{prefix}{label}/{split}-{number}.jpg", label, name]
            for label, name in enumerate(names)
            for number in range(count)
        ]
        for split, count in zip(SPLITS, counts, strict=True)
    }


def write_coop(root: Path, name: str, split: Split, *, folder: str | None = None) -> Path:
    """Write a data set with a split_zhou_*.json and its images."""
    spec = SPECS[f"coop/{name}"]
    target = root / (folder or spec.folder)
    base = target if spec.base == "folder" else target / spec.images[0]
    base.mkdir(parents=True, exist_ok=True)
    for entries in split.values():
        for path, _, _ in entries:
            write_image(base / path)
    write_text(target / spec.lists[0], json.dumps(split, indent=4))
    return target


def write_aircraft(root: Path, variants: Sequence[str], lists: Mapping[str, Sequence[tuple[str, str]]]) -> Path:
    """Write FGVCAircraft: variants, and lists of (image id, variant)."""
    target = root / "fgvc_aircraft"
    write_text(target / "variants.txt", "".join(f"{name}\n" for name in variants))
    for split, rows in lists.items():
        for image, _ in rows:
            write_image(target / "images" / f"{image}.jpg")
        write_text(target / f"images_variant_{split}.txt", "".join(f"{image} {name}\n" for image, name in rows))
    return target


def write_class_folders(target: Path, counts: Mapping[str, int], suffix: str = ".JPEG") -> Path:
    for folder, count in counts.items():
        for number in range(count):
            write_image(target / folder / f"{folder}_{number}{suffix}")
    return target


def write_imagenet(root: Path, names: Mapping[str, str], train: int = 3, test: int = 2) -> Path:
    """Write ImageNet with these WordNet ids and names; classnames.txt lists them in reverse."""
    target = root / "imagenet"
    write_class_folders(target / "images" / "train", dict.fromkeys(names, train))
    write_class_folders(target / "images" / "val", dict.fromkeys(names, test))
    write_text(target / "classnames.txt", "".join(f"{wnid} {name}\n" for wnid, name in reversed(names.items())))
    return target


def write_vtab(root: Path, name: str, counts: tuple[int, int, int], *, folder: str | None = None) -> Path:
    """Write a task of VTAB-1k as image lists, with labels in turn."""
    spec = SPECS[f"vtab/{name}"]
    target = root / (folder or spec.folder)
    for split, file, count in zip(("train800", "val200", "test"), spec.lists, counts, strict=True):
        paths = [f"images/{split}/{number:06d}.jpg" for number in range(count)]
        for path in paths:
            write_image(target / path)
        rows = [f"{path} {number % spec.classes}\n" for number, path in enumerate(paths)]
        write_text(target / file, "".join(rows))
    return target


def write_vpt(target: Path, base: str, splits: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write VPT's JSON splits of image path -> class id, and the images below ``base``."""
    for split, rows in splits.items():
        for path in rows:
            write_image(target / base / path)
        write_text(target / f"{split}.json", json.dumps(rows))
    return target


def write_tfds(folder: Path, split: str, shards: Sequence[Sequence[bytes]]) -> Path:
    """Write messages as TFRecord files, as tensorflow_datasets does."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards):
        content = b"".join(struct.pack("<QI", len(message), 0) + message + bytes(4) for message in shard)
        (folder / f"x-{split}.tfrecord-{number:05d}-of-{len(shards):05d}").write_bytes(content)
    return folder


def example(values: Mapping[str, Sequence[Any]]) -> bytes:
    """Encode a tf.train.Example of lists of bytes, floats or integers."""
    entries = [_field(1, _field(1, name.encode()) + _field(2, _feature(value))) for name, value in values.items()]
    return _field(1, b"".join(entries))


def _feature(values: Sequence[Any]) -> bytes:
    if all(isinstance(value, bytes) for value in values):
        return _field(1, b"".join(_field(1, value) for value in values))
    if all(isinstance(value, float) for value in values):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    return _field(3, _field(1, b"".join(_varint(value % (1 << 64)) for value in values)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
