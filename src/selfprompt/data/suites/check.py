"""Checks the data sets in a folder against the published ones: what is there, missing or wrong, and how to fix it."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfprompt.data.dataset import SPLITS, Dataset
from selfprompt.data.suites import coop, fgvc, tfds, vtab
from selfprompt.data.suites.locate import explain_misplaced, find_folder, how_to_get, is_published_file
from selfprompt.data.suites.specs import COOP, FGVC, VTAB, Counts, DatasetSpec
from selfprompt.utils.wording import plural

SPECS_BY_SUITE = {"coop": COOP, "vtab": VTAB, "fgvc": FGVC}
READERS = {"coop": coop.read_coop_dataset, "vtab": vtab.read_vtab_dataset, "fgvc": fgvc.read_fgvc_dataset}

State = Literal["ok", "differs", "wrong", "missing"]


@dataclass(frozen=True)
class CheckResult:
    """The result of checking one data set.

    Attributes:
        spec: The published data set.
        state: "ok": as published; "differs": complete, but of another size than published; "wrong": cannot be used as
            it is; "missing": not there.
        folder: Its folder; None if missing.
        counts: Images in train, val and test; None if it cannot be read.
        classes: Number of classes; None if it cannot be read.
        remarks: What is wrong or differs and what to do, one sentence each.
    """

    spec: DatasetSpec
    state: State
    folder: Path | None = None
    counts: Counts | None = None
    classes: int | None = None
    remarks: tuple[str, ...] = ()


def check_published(spec: DatasetSpec, root: Path) -> CheckResult:
    """Check one data set below a root by its lists and file names; opens no image."""
    folder = find_folder(spec, root)
    if folder is None and spec.suite == "vtab":
        folder = tfds.find_version_folder(spec.name, root)
    if folder is None:
        misplaced = explain_misplaced(spec, root)
        return CheckResult(spec, "wrong" if misplaced else "missing", remarks=(misplaced,) if misplaced else ())
    try:
        dataset = READERS[spec.suite](spec, root)
    except ValueError as error:
        return CheckResult(spec, "wrong", folder, remarks=(str(error),))
    counts = (len(dataset.train), len(dataset.val), len(dataset.test))
    classes = len(dataset.classes)
    absent, changed = _check_images_exist(dataset, spec), _check_checksums(spec, folder)
    size = _check_size(spec, counts, classes)
    if absent or (changed and not size):  # another split of the published size would pass for the published one
        state: State = "wrong"
    else:
        state = "differs" if size else "ok"
    return CheckResult(spec, state, folder, counts, classes, (*absent, *changed, *size))


def _check_images_exist(dataset: Dataset, spec: DatasetSpec) -> tuple[str, ...]:
    """Return a remark if listed images do not exist; lists each folder once instead of testing each file."""
    listed: dict[Path, list[str]] = defaultdict(list)
    for item in dataset.select("all"):
        if isinstance(item.source, Path):
            listed[item.source.parent].append(item.source.name)
    absent = []
    for folder, names in listed.items():
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        absent += [folder / name for name in names if name not in present]
    if not absent:
        return ()
    return (
        f"Missing {plural(len(absent), 'image')} of {len(dataset.select('all'))} in its lists, "
        f"the first is {absent[0]}: unpack its archive again. {how_to_get(spec)}",
    )


def _check_checksums(spec: DatasetSpec, folder: Path) -> tuple[str, ...]:
    """Return a remark for each file whose checksum is not the published one."""
    return tuple(
        f"{folder / file} is not the published file: it was regenerated or changed, so results are not comparable. "
        f"Move it away, then fetch it: {how_to_get(spec)}"
        for file in spec.checksums
        if is_published_file(spec, folder, file) is False
    )


def _check_size(spec: DatasetSpec, counts: Counts, classes: int) -> tuple[str, ...]:
    """Return remarks if the numbers of images or classes are not the published ones."""
    train, val, test = spec.counts
    published = [spec.counts]
    if spec.suite == "fgvc":  # SPT's lists: with or without VPT's validation images
        published += [(train + val, 0, test), (train, 0, test)]
    remarks = []
    if counts not in published:
        pairs = zip(SPLITS, counts, spec.counts, strict=True)
        differing = ", ".join(
            f"{split} {count:,} instead of {known:,}" for split, count, known in pairs if count != known
        )
        remarks.append(f"Not the published size: {differing} images.")
    if classes != spec.classes:
        remarks.append(f"Not the published classes: {classes} instead of {spec.classes}.")
    return tuple(remarks)
