"""Holds a data root against the table: what is there, what is missing, what is wrong and what to do about it."""

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
    """What is known of one data set after a look at the root.

    Attributes:
        spec: What it should be.
        state: "ok" as published; "differs" complete in itself, but of another size than published; "wrong" cannot be
            used as it is; "missing" is not there.
        folder: Where it is; None if missing.
        counts: Images in train, val and test; None if it cannot be read.
        classes: Number of classes; None if it cannot be read.
        remarks: What is wrong or differs and what to do, a sentence each.
    """

    spec: DatasetSpec
    state: State
    folder: Path | None = None
    counts: Counts | None = None
    classes: int | None = None
    remarks: tuple[str, ...] = ()


def check_published(spec: DatasetSpec, root: Path) -> CheckResult:
    """Look at one data set below a root: reads its lists and the names of its files, opens no image."""
    folder = find_folder(spec, root)
    if folder is None and spec.suite == "vtab":
        folder = tfds.find_version_folder(spec.name, root)
    if folder is None:
        stray = explain_misplaced(spec, root)
        return CheckResult(spec, "wrong" if stray else "missing", remarks=(stray,) if stray else ())
    try:
        dataset = READERS[spec.suite](spec, root)
    except ValueError as error:
        return CheckResult(spec, "wrong", folder, remarks=(str(error),))
    counts = (len(dataset.train), len(dataset.val), len(dataset.test))
    classes = len(dataset.classes)
    absent, other = _absent_images(dataset, spec), _other_split(spec, folder)
    size = _other_size(spec, counts, classes)
    if absent or (other and not size):  # a split of the published size that is another one passes for it
        state: State = "wrong"
    else:
        state = "differs" if size else "ok"
    return CheckResult(spec, state, folder, counts, classes, (*absent, *other, *size))


def _absent_images(dataset: Dataset, spec: DatasetSpec) -> tuple[str, ...]:
    """A remark if files of the lists are not there; reads each folder once instead of asking for each file."""
    listed: dict[Path, list[str]] = defaultdict(list)
    for item in dataset.select("all"):
        if isinstance(item.source, Path):
            listed[item.source.parent].append(item.source.name)
    absent = []
    for folder, names in listed.items():
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        absent += [folder / name for name in names if name not in there]
    if not absent:
        return ()
    return (
        f"{plural(len(absent), 'image')} of {len(dataset.select('all'))} in its lists are not there, "
        f"the first is {absent[0]}: unpack its archive again. {how_to_get(spec)}",
    )


def _other_split(spec: DatasetSpec, folder: Path) -> tuple[str, ...]:
    """A remark for each file whose checksum is not the published one."""
    return tuple(
        f"{folder / file} is not the published file: it was made anew or changed, so no result is comparable. "
        f"Move it away; then {how_to_get(spec)}"
        for file in spec.checksums
        if is_published_file(spec, folder, file) is False
    )


def _other_size(spec: DatasetSpec, counts: Counts, classes: int) -> tuple[str, ...]:
    """A remark if the numbers of images or classes are not the published ones."""
    train, val, test = spec.counts
    published = [spec.counts]
    if spec.suite == "fgvc":  # SPT's lists: with or without VPT's validation images
        published += [(train + val, 0, test), (train, 0, test)]
    remarks = []
    if counts not in published:
        pairs = zip(SPLITS, counts, spec.counts, strict=True)
        differing = ", ".join(f"{split} {own:,} instead of {known:,}" for split, own, known in pairs if own != known)
        remarks.append(f"Not the published size: {differing} images.")
    if classes != spec.classes:
        remarks.append(f"Not the published classes: {classes} instead of {spec.classes}.")
    return tuple(remarks)
