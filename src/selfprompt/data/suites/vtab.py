"""Reads the 19 tasks of VTAB-1k: 800 training and 200 validation images each; writes nothing.

There are two layouts. Image lists (NOAH, SSF, SPT: ``train800.txt``, ``val200.txt``, ``test.txt``) name files that are
mostly JPEG copies; TFDS folders (VPT, adapter_plus) hold the original images, and the builder's version decides which
are the first 800. The two give different pixels. So does the preprocessing: see `PREPROCESSING` for the published
ones. ``Dataset.notes`` says which layout was read.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from selfprompt.data.dataset import SPLITS, Dataset, Item
from selfprompt.data.suites import tfds
from selfprompt.data.suites.lists import parse_list
from selfprompt.data.suites.locate import fetch_again_hint, find_folder, read_required_lines, require_folder, safe_path
from selfprompt.data.suites.sources import VTAB_SOURCE
from selfprompt.data.suites.specs import SPECS, VTAB, VTAB_LISTS, DatasetSpec
from selfprompt.data.suites.task import SuiteTask

TASKS = tuple(spec.name for spec in VTAB)
GROUPS = {"natural": TASKS[:7], "specialized": TASKS[7:11], "structured": TASKS[11:]}
"""The tasks of each group; published tables average over 19 tasks or over the groups' means."""

Layout = Literal["auto", "lists", "tfds"]


class PreprocessLike(Protocol):
    """A backbone's preprocessing record, a dataclass; `selfprompt.models.loading.by_name.Preprocess` is one."""

    @property
    def mode(self) -> str: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def resize(self) -> int | None: ...


P = TypeVar("P", bound=PreprocessLike)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of VTAB's images in published code; none of it augments.

    Attributes:
        mode: "squash" resizes both sides to the model's size, "shortest" resizes the short side and crops the centre.
        interpolation: "bicubic" or "bilinear".
        statistics: Mean and std of normalisation, "backbone" or "imagenet": a recipe's ``statistics``.
        augment: A recipe's ``augment``.
    """

    mode: Literal["squash", "shortest"]
    interpolation: Literal["bicubic", "bilinear"]
    statistics: Literal["backbone", "imagenet"]
    augment: Literal["none"] = "none"

    def apply(self, preprocess: P) -> P:
        """Return a backbone's preprocessing with this mode and interpolation; ``statistics`` is the recipe's."""
        return dataclasses.replace(  # type: ignore[type-var]
            preprocess, mode=self.mode, interpolation=self.interpolation, resize=None
        )


PREPROCESSING = {
    "default": Preprocessing("squash", "bicubic", "backbone"),
    "vpt": Preprocessing("squash", "bilinear", "imagenet"),
    "adapter_plus": Preprocessing("squash", "bilinear", "backbone"),
    "noah": Preprocessing("squash", "bicubic", "imagenet"),
    "spt": Preprocessing("shortest", "bicubic", "imagenet"),
}
"""Published preprocessing by name. The default squashes: a centre crop of a wide frame (KITTI, DMLab, CLEVR) cuts off
what the label is about. VPT and adapter_plus resize with TensorFlow's bilinear filter, without anti-aliasing; ours has
it, so pixels differ a little."""


def load_vtab_task(name: str, root: Path | None, *, layout: Layout = "auto") -> SuiteTask:
    """Read one task; opens no image.

    Args:
        name: One of ``TASKS``.
        root: The folder that holds vtab-1k, or the task folders, or TFDS folders.
        layout: "lists", "tfds", or "auto" for the one that exists (the lists if both do).

    Raises:
        ValueError: If the data are missing or not as published; the message names the file and the remedy.
    """
    spec = SPECS[f"vtab/{name}"]
    return SuiteTask("vtab", name, read_vtab_dataset(spec, root, layout=layout), source=VTAB_SOURCE.attribution)


def read_vtab_dataset(spec: DatasetSpec, root: Path | None, *, layout: Layout = "auto") -> Dataset:
    """Read one task's data; see `load_vtab_task`."""
    exported = None if root is None else tfds.find_version_folder(spec.name, root)
    if root is None or layout == "lists" or exported is None or (layout == "auto" and find_folder(spec, root)):
        if layout == "tfds" and root is not None:
            raise ValueError(f"{root} has no TFDS folder {tfds.BUILDERS[spec.name].config}; prepare it with tfds.")
        return _read_lists(spec, require_folder(spec, root))
    return _read_tfds(spec, exported)


def merge_train_val(dataset: Dataset) -> Dataset:
    """Return the data of the final run: the validation images become training images."""
    note = "Trained on all 1000 images: the validation images are training images now."
    return dataclasses.replace(dataset, train=dataset.train + dataset.val, val=(), notes=(*dataset.notes, note))


def _read_lists(spec: DatasetSpec, folder: Path) -> Dataset:
    items = {}
    for split, file in zip(SPLITS, VTAB_LISTS, strict=True):
        list_path = folder / file
        rows = parse_list(read_required_lines(spec, list_path), str(list_path), fetch_again_hint(spec))
        items[split] = tuple(Item(safe_path(folder, path, str(list_path)), label) for path, label in rows)
        _check_labels([label for _, label in rows], spec, str(list_path))
    notes = ["Read from image lists."]
    suffixes = {item.source.suffix.lower() for item in items["test"][:1000] if isinstance(item.source, Path)}
    if suffixes & {".jpg", ".jpeg"}:
        notes.append("The files are JPEG copies: pixels differ from TFDS's.")
    return Dataset(spec.key, _numbered_names(spec.classes), items["train"], items["val"], items["test"], tuple(notes))


def _read_tfds(spec: DatasetSpec, exported: Path) -> Dataset:
    items = {split: tfds.read_split(spec.name, exported, split) for split in SPLITS}
    for split in SPLITS:
        _check_labels([item.label for item in items[split]], spec, f"{exported}, {split}")
    names = tfds.read_class_names(exported, spec.classes) or _numbered_names(spec.classes)
    path = "/".join(exported.parts[-3:])
    return Dataset(
        spec.key, names, items["train"], items["val"], items["test"], (f"Read from the TFDS folder {path}.",)
    )


def _check_labels(labels: Sequence[int], spec: DatasetSpec, where: str) -> None:
    top = max(labels)
    if top >= spec.classes:
        raise ValueError(f"{where}: labels must lie in 0..{spec.classes - 1}, got {top}. {fetch_again_hint(spec)}")


def _numbered_names(classes: int) -> tuple[str, ...]:
    """Return numbered names, as the exports have none."""
    return tuple(f"class {label}" for label in range(classes))
