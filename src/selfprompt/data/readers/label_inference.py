"""Infers labels of images without class folders from file names, or from a table next to them; opens no image."""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from selfprompt.data.dataset import Split
from selfprompt.data.readers.manifest import COLUMNS, open_table
from selfprompt.data.readers.splits import list_words, parse_split
from selfprompt.data.readers.walk import list_folder, list_folders, list_images
from selfprompt.utils.wording import listing

CAMERA_WORDS = frozenset(
    {"img", "image", "dsc", "dscn", "pxl", "photo", "picture", "pic", "frame", "screenshot", "file"}
)
"""Words that cameras and programs put into all their file names."""
MASKS = frozenset({"mask", "masks", "trimap", "trimaps", "annotation", "annotations", "segmentation"})
"""Words in the names of folders whose images have the photos' names, but are not photos."""
TABLES = (".csv", ".tsv")
LARGEST_TABLE = 1 << 28
"""Bytes; larger tables are not read."""


@dataclass(frozen=True)
class InferredLabels:
    """Labels for images.

    Attributes:
        origin: The source of the labels, as the plural subject of a sentence: "The file names".
        rows: Path below the folder, label, and split if the image's folder names one, else "".
    """

    origin: str
    rows: tuple[tuple[str, str, str], ...]

    @property
    def counts(self) -> str:
        """Number of images of each class: ``cat (10), dog (12)``."""
        counts = Counter(label for _, label, _ in self.rows)
        return listing([f"{label} ({count})" for label, count in sorted(counts.items())], 8)


@dataclass(frozen=True)
class _TableLabels:
    """The labels in one table.

    Attributes:
        file: The table.
        columns: Its columns of files and labels, as the start of a sentence.
        labelled: Images with their labels.
    """

    file: Path
    columns: str
    labelled: tuple[tuple[Path, str], ...]


def advise_on_labels(root: Path) -> str:
    """Return a sentence on what to do about images without class folders."""
    labels = infer_labels(root)
    if labels is None:
        return "Sort them into folders named after their classes, or list them in a manifest (path,label)."
    return (
        f"{labels.origin} seem to contain the classes: {labels.counts}. Write a manifest with "
        f"`selfprompt data manifest {root}`, and train on it."
    )


def infer_labels(root: Path) -> InferredLabels | None:
    """Infer the labels of the images in a folder, and in folders up to two levels below it.

    A table with labels takes precedence over the file names. None if neither has any.
    """
    folders = [root, *_photo_folders(root)]
    folders += [inner for outer in folders[1:] for inner in _photo_folders(outer)]
    images = [image for folder in folders for image in list_images(folder)]
    files = [file for folder in folders for file in list_folder(folder).files]
    tables = [file for file in files if file.suffix.lower() in TABLES and "submission" not in file.name.lower()]
    groups: dict[tuple[str, str], list[_TableLabels]] = defaultdict(list)  # one name and form, one for each split
    for table in tables:
        if (labels := _read_table(root, table, images)) is not None:
            groups[table.name, labels.columns].append(labels)
    joined = [_join_tables(root, group) for group in groups.values()]
    usable = [labels for labels in joined if len({label for _, label, _ in labels.rows}) > 1]
    return max(usable, key=lambda labels: len(labels.rows), default=None) or _infer_from_names(root, images)


def label_from_name(name: str) -> str:
    """Return the class in a numbered file name: "cat" for cat.0.jpg and 0001-cat.jpg; "" without."""
    stem = re.sub(r"\.\w+$", "", name)
    label = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", stem)
    return label if label != stem and label.lower() not in CAMERA_WORDS else ""


def format_manifest(labels: InferredLabels, root: Path, folder: Path) -> str:
    """Return the text of a manifest.

    Args:
        labels: The labels; there is a split column if they have more than one split.
        root: The folder that the labels' paths are relative to.
        folder: The folder of the manifest, to which its paths are relative.
    """
    splits = {split for _, _, split in labels.rows}
    with_split = len(splits) > 1 and "" not in splits
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "label", "split"] if with_split else ["path", "label"])
    for path, label, split in labels.rows:
        relative = Path(os.path.relpath(root / path, folder)).as_posix()
        writer.writerow([relative, label, split] if with_split else [relative, label])
    return out.getvalue()


def _photo_folders(folder: Path) -> list[Path]:
    return [inner for inner in list_folders(folder) if not MASKS & set(list_words(inner.name))]


def _join_tables(root: Path, tables: Sequence[_TableLabels]) -> InferredLabels:
    """Join tables of one form, such as one for each split."""
    files = listing([table.file.relative_to(root).as_posix() for table in tables], 5)
    rows = _make_rows(root, [pair for table in tables for pair in table.labelled])
    return InferredLabels(f"{tables[0].columns} of {files}", rows)


def _infer_from_names(root: Path, images: Sequence[Path]) -> InferredLabels | None:
    """Return the labels in file names if they make at least 2 classes with at least 2 images on average."""
    labels = [(image, label_from_name(image.name)) for image in images]
    labelled = [(image, label) for image, label in labels if label]
    classes = {label for _, label in labelled}
    if len(classes) < 2 or len(labelled) < 2 * len(classes):
        return None
    return InferredLabels("The file names", _make_rows(root, labelled))


def _read_table(root: Path, table: Path, images: Sequence[Path]) -> _TableLabels | None:
    """Return the labels in a table with a column of file names or ids, and one of labels or one for each class."""
    try:
        if table.stat().st_size > LARGEST_TABLE:
            return None
        file, delimiter = open_table(table)
        records = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, ValueError, csv.Error):
        return None
    known: dict[str, Path] = {}
    for image in _rank_images(root, table, images):
        for key in _image_keys(root, image):
            known.setdefault(key, image)
    names = [name for name in (records[0] if records else {}) if name]
    matches = {name: [known.get(_to_key(record[name])) for record in records] for name in names}
    paths = max(names, key=lambda name: sum(match is not None for match in matches[name]), default="")
    others = [name for name in names if name != paths]
    label = _find_label_column(records, others)
    one_hot = [] if label else _read_one_hot(records, others)
    if not (label or one_hot) or not any(matches[paths]):
        return None
    labels = one_hot or [(record[label] or "").strip() for record in records]
    labelled = tuple((image, text) for image, text in zip(matches[paths], labels, strict=True) if image and text)
    columns = f"The columns {paths.strip()} and {label.strip() or listing([name.strip() for name in others], 4)}"
    return _TableLabels(table, columns, labelled)


def _rank_images(root: Path, table: Path, images: Sequence[Path]) -> list[Path]:
    """Return the images that a table may list, the likeliest first: train.csv does not list the folder test."""
    split = parse_split(table.stem)
    ranks: dict[str | None, int] = {split: 0, None: 1}
    if split is None:
        ranks |= {"train": 2, "val": 3, "test": 4}
    ranked = [
        (-1 if table.parent == image.parent else ranks.get(_split_in_path(image.relative_to(root))), image)
        for image in images
    ]
    return [image for rank, image in sorted((pair for pair in ranked if pair[0] is not None), key=itemgetter(0))]


def _split_in_path(path: Path) -> Split | None:
    """Return the split that a folder of a path names."""
    return next((split for part in path.parts[:-1] if (split := parse_split(part))), None)


def _to_key(cell: str | None) -> str:
    return (cell or "").strip().replace("\\", "/").removeprefix("./")


def _image_keys(root: Path, image: Path) -> Iterator[str]:
    """Yield the names under which a table may list an image."""
    yield from (image.stem, image.name, image.relative_to(root.parent).as_posix(), image.relative_to(root).as_posix())
    yield f"{image.parent.name}/{image.name}"


def _find_label_column(records: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    """Return the column with a manifest's name for labels, else the one with the fewest values, at least 2; or ""."""
    usual = next((name for alias in COLUMNS["label"] for name in names if name.strip().lower() == alias), None)
    if usual is not None:
        return usual
    counts = {name: len({record[name] for record in records}) for name in names}
    candidates = [name for name in names if 2 <= counts[name] <= len(records) // 2]
    binary = [name for name in names if all(_parse_bit(record[name]) is not None for record in records)]
    if len(binary) > 1:  # one attribute of many is not a label
        candidates = [name for name in candidates if name not in binary]
    return min(candidates, key=counts.__getitem__, default="")


def _read_one_hot(records: Sequence[dict[str, str]], names: Sequence[str]) -> list[str]:
    """Return the class of each row if every column is a class and each row has a single 1; else nothing."""
    classes = []
    for record in records if len(names) > 1 else ():
        bits = [_parse_bit(record[name]) for name in names]
        if None in bits or sum(bit or 0 for bit in bits) != 1:
            return []
        classes.append(names[bits.index(1)].strip())
    return classes


def _parse_bit(cell: str | None) -> int | None:
    return {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get((cell or "").strip())


def _make_rows(root: Path, labelled: Sequence[tuple[Path, str]]) -> tuple[tuple[str, str, str], ...]:
    rows = []
    for image, label in dict.fromkeys(labelled):
        path = image.relative_to(root)
        rows.append((path.as_posix(), label, str(_split_in_path(path) or "")))
    return tuple(rows)
