"""Reads VTAB's tasks from folders prepared by tensorflow_datasets (TFDS): records and labels, without TensorFlow."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfprompt.data.dataset import ImageTable, IndexedSource, Item, Split
from selfprompt.data.loading.image_inputs import decode_bytes
from selfprompt.data.suites.tfrecord import Record, Values, find_records, read_records

RecordRange = tuple[str, int, int | None]
"""TFDS split, first record, end of the range (exclusive; None: to the end)."""


@dataclass(frozen=True)
class Builder:
    """The part of a TFDS data set that forms a task.

    Attributes:
        config: Builder and config, "eurosat/rgb".
        version: Start of the version that VPT uses, which decides which records are the first 800.
        train, val, test: The records of each split.
        label_features: Names of the features from which the label is computed.
        label: Computes the label from these features.
    """

    config: str
    version: str
    val: RecordRange
    test: RecordRange = ("test", 0, None)
    train: RecordRange = ("train", 0, 800)
    label_features: tuple[str, ...] = ("label",)
    label: Callable[[Mapping[str, Any]], int] = lambda values: int(values["label"][0])


def _val_after(start: int) -> RecordRange:
    """Return 200 records of TFDS's training split, which follow those left for training."""
    return ("train", start, start + 200)


def _clevr_count(values: Mapping[str, Any]) -> int:
    return len(values["objects/pixel_coords"]) // 3 - 3


def _clevr_distance(values: Mapping[str, Any]) -> int:
    nearest = min(values["objects/pixel_coords"][2::3])
    return sum(nearest > edge for edge in (8.0, 8.5, 9.0, 9.5, 10.0))


def _kitti_distance(values: Mapping[str, Any]) -> int:
    """Return the class of the distance to the nearest car, van or truck; the last class means none."""
    depths = values["objects/location"][2::3]
    vehicles = [depth for kind, depth in zip(values["objects/type"], depths, strict=True) if kind < 3]
    return sum(min(vehicles, default=math.inf) > edge for edge in (8.0, 20.0, 999.0))


def _scalar_label(name: str, every: float = 1) -> dict[str, Any]:
    """Define a label that is one value, or that joins ``every`` neighbouring values to a class."""
    return {"label_features": (name,), "label": lambda values: int(values[name][0] // every)}


_SHORT_VAL = ("validation", 0, 200)
_DSPRITES: dict[str, Any] = {"val": _val_after(589_824), "test": ("train", 663_552, None)}
_NORB: dict[str, Any] = {"val": ("test", 0, 200), "test": ("test", 12_150, None)}
_CLEVR: dict[str, Any] = {
    "val": _val_after(63_000),
    "test": ("validation", 0, None),
    "label_features": ("objects/pixel_coords",),
}

BUILDERS = {
    "cifar": Builder("cifar100", "3.", _val_after(45_000)),
    "caltech101": Builder("caltech101", "3.", _val_after(2_754)),
    "dtd": Builder("dtd", "3.", _SHORT_VAL),
    "oxford_flowers102": Builder("oxford_flowers102", "2.", _SHORT_VAL),
    "oxford_iiit_pet": Builder("oxford_iiit_pet", "3.", _val_after(2_944)),
    "svhn": Builder("svhn_cropped", "3.", _val_after(65_931)),
    "sun397": Builder("sun397/tfds", "4.", _SHORT_VAL),
    "patch_camelyon": Builder("patch_camelyon", "2.", _SHORT_VAL),
    "eurosat": Builder("eurosat/rgb", "2.", _val_after(16_200), ("train", 21_600, None)),
    "resisc45": Builder("resisc45", "3.", _val_after(18_900), ("train", 25_200, None)),
    "diabetic_retinopathy": Builder("diabetic_retinopathy_detection/btgraham-300", "3.", _SHORT_VAL),
    "clevr_count": Builder("clevr", "3.", **_CLEVR, label=_clevr_count),
    "clevr_dist": Builder("clevr", "3.", **_CLEVR, label=_clevr_distance),
    "dmlab": Builder("dmlab", "2.0.1", _SHORT_VAL),
    "kitti": Builder(
        "kitti", "3.2.0", _SHORT_VAL, label_features=("objects/location", "objects/type"), label=_kitti_distance
    ),
    "dsprites_loc": Builder("dsprites", "2.", **_DSPRITES, **_scalar_label("label_x_position", 2)),
    "dsprites_ori": Builder("dsprites", "2.", **_DSPRITES, **_scalar_label("label_orientation", 2.5)),
    "smallnorb_azi": Builder("smallnorb", "2.", **_NORB, **_scalar_label("label_azimuth")),
    "smallnorb_ele": Builder("smallnorb", "2.", **_NORB, **_scalar_label("label_elevation")),
}


def find_version_folder(task: str, root: Path) -> Path | None:
    """Return the version folder of a task's TFDS data set, below the root or its folder tfds; None without one."""
    builder = BUILDERS[task]
    for base in (root / "tfds", root / "tensorflow_datasets", root):
        versions = sorted((base / builder.config).glob(f"{builder.version}*"))
        if versions and list(versions[-1].glob("*.tfrecord-*")):
            return versions[-1]
    return None


def read_split(task: str, folder: Path, split: Split) -> tuple[Item, ...]:
    """Return the items of one split; reads the labels, and images only on demand.

    Raises:
        ValueError: If files are missing or damaged.
    """
    builder = BUILDERS[task]
    tfds_split, start, stop = {"train": builder.train, "val": builder.val, "test": builder.test}[split]
    paths = sorted(folder.glob(f"*-{tfds_split}.tfrecord-*"))
    if not paths:
        raise ValueError(
            f"{folder} has no records of the split {tfds_split!r}: prepare {builder.config} again with tfds."
        )
    try:
        records = find_records(paths, start, stop)
        labels = [builder.label(values) for values in read_records(records, builder.label_features)]
    except (ValueError, KeyError, IndexError) as error:
        reason = str(error).removesuffix(".")
        raise ValueError(f"{folder}, {tfds_split}: {reason}; prepare {builder.config} again with tfds.") from None
    table = ImageTable(f"{task}-{split}", lambda index: _image(records[index]))
    return tuple(Item(IndexedSource(table, index), label) for index, label in enumerate(labels))


def read_class_names(folder: Path, count: int) -> tuple[str, ...] | None:
    """Return the names in the folder's label.labels.txt; None unless it exists and has ``count`` names."""
    path = folder / "label.labels.txt"
    names = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    names = [name.strip().replace("_", " ") for name in names if name.strip()]
    return tuple(names) if len(names) == count else None


def _image(record: Record) -> Any:
    """Return the bytes of an image; for dSprites the pixels, whose 0 and 1 become 0 and 255 as in VTAB's code."""
    values: dict[str, Values] = record.read()
    data: Any = values["image"][0]
    if "label_x_position" not in values:
        return data
    pixels = np.asarray(decode_bytes(data))
    return pixels * np.uint8(255) if pixels.max() <= 1 else pixels
