"""Finds labels of images without class folders, in the names of files or in a table beside them; opens no image."""

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
from selfprompt.data.readers.splits import parse_split, words_of
from selfprompt.data.readers.walk import entries, folders_in, images_in
from selfprompt.utils.wording import listing

CAMERA_WORDS = frozenset(
    {"img", "image", "dsc", "dscn", "pxl", "photo", "picture", "pic", "frame", "screenshot", "file"}
)
"""What cameras and programs call all of their files."""
MASKS = frozenset({"mask", "masks", "trimap", "trimaps", "annotation", "annotations", "segmentation"})
"""Words of folders whose images are no photos, but are called as they are."""
TABLES = (".csv", ".tsv")
LARGEST_TABLE = 1 << 28
"""Bytes of a table that is looked into."""


@dataclass(frozen=True)
class Found:
    """Labels that were found.

    Attributes:
        place: Where they stand, as part of a sentence.
        rows: Path below the folder, label, and split where the image's folder tells it.
    """

    place: str
    rows: tuple[tuple[str, str, str], ...]

    @property
    def counts(self) -> str:
        """``cat (10), dog (12)``."""
        counts = Counter(label for _, label, _ in self.rows)
        return listing([f"{label} ({count})" for label, count in sorted(counts.items())], 8)


def advice(root: Path) -> str:
    """What to do about images without class folders."""
    found = infer_labels(root)
    if found is None:
        return "Sort them into folders named after their classes, or list them in a manifest (path,label)."
    return (
        f"{found.place} seem to tell the classes: {found.counts}. Write them into a manifest with "
        f"`selfprompt data manifest {root}`, and train on that."
    )


def infer_labels(root: Path) -> Found | None:
    """The labels of the images in a folder, or in the folders in it, by a table there or else by their names."""
    places = [root, *(place for place in folders_in(root) if not MASKS & set(words_of(place.name)))]
    inner = (place for outer in places[1:] for place in folders_in(outer))
    places += [place for place in inner if not MASKS & set(words_of(place.name))]
    images = [image for place in places for image in images_in(place)]
    files = [file for place in places for file in entries(place)[1]]
    tables = [file for file in files if file.suffix.lower() in TABLES and "submission" not in file.name.lower()]
    found: dict[tuple[str, str], list[_Table]] = defaultdict(list)  # those of one name and form belong together
    for table in tables:
        if (labels := _by_table(root, table, images)) is not None:
            found[table.name, labels.columns].append(labels)
    joined = [_joined(root, tables) for tables in found.values()]
    several = [labels for labels in joined if len({label for _, label, _ in labels.rows}) > 1]
    return max(several, key=lambda labels: len(labels.rows), default=None) or _by_names(root, images)


@dataclass(frozen=True)
class _Table:
    """What one table says: the file, the words for its columns, and images with their labels."""

    file: Path
    columns: str
    labelled: tuple[tuple[Path, str], ...]


def _joined(root: Path, tables: Sequence[_Table]) -> Found:
    """The labels of tables of one form, one beside each split's images say."""
    files = listing([table.file.relative_to(root).as_posix() for table in tables], 5)
    return Found(f"{tables[0].columns} of {files}", _rows(root, [pair for table in tables for pair in table.labelled]))


def label_in_name(name: str) -> str:
    """The class that a file's name tells with its number: "cat" of cat.0.jpg and 0001-cat.jpg; "" if none."""
    stem = re.sub(r"\.\w+$", "", name)
    label = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", stem)
    return label if label != stem and label.lower() not in CAMERA_WORDS else ""


def _by_names(root: Path, images: Sequence[Path]) -> Found | None:
    """Labels by names, if they make at least 2 classes of at least 2 images on average."""
    labels = [(image, label_in_name(image.name)) for image in images]
    labelled = [(image, label) for image, label in labels if label]
    classes = {label for _, label in labelled}
    if len(classes) < 2 or len(labelled) < 2 * len(classes):
        return None
    return Found("The names of the files", _rows(root, labelled))


def _by_table(root: Path, table: Path, images: Sequence[Path]) -> _Table | None:
    """Labels by a table with a column of file names or ids, and one of labels or one for each class."""
    try:
        if table.stat().st_size > LARGEST_TABLE:
            return None
        file, delimiter = open_table(table)
        records = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, ValueError, csv.Error):
        return None
    known: dict[str, Path] = {}
    for image in _likely(root, table, images):
        for key in _keys(root, image):
            known.setdefault(key, image)
    names = [name for name in (records[0] if records else {}) if name]
    matches = {name: [known.get(_plain(record[name])) for record in records] for name in names}
    paths = max(names, key=lambda name: sum(match is not None for match in matches[name]), default="")
    others = [name for name in names if name != paths]
    label = _label_column(records, others)
    classes = [] if label else _classes_marked(records, others)
    if not (label or classes) or not any(matches[paths]):
        return None
    found = classes or [(record[label] or "").strip() for record in records]
    labelled = tuple((image, word) for image, word in zip(matches[paths], found, strict=True) if image and word)
    columns = f"The columns {paths.strip()} and {label.strip() or listing([name.strip() for name in others], 4)}"
    return _Table(table, columns, labelled)


def _likely(root: Path, table: Path, images: Sequence[Path]) -> list[Path]:
    """The images that a table may be of, the likeliest first: train.csv is not of the folder test."""
    own = parse_split(table.stem)
    ranks: dict[str | None, int] = {own: 0, None: 1}
    if own is None:
        ranks |= {"train": 2, "val": 3, "test": 4}
    ranked = [
        (-1 if table.parent == image.parent else ranks.get(_split_of(image.relative_to(root))), image)
        for image in images
    ]
    return [image for rank, image in sorted((pair for pair in ranked if pair[0] is not None), key=itemgetter(0))]


def _split_of(path: Path) -> Split | None:
    """The split that the folders of a path tell."""
    return next((word for part in path.parts[:-1] if (word := parse_split(part))), None)


def _plain(cell: str | None) -> str:
    return (cell or "").strip().replace("\\", "/").removeprefix("./")


def _keys(root: Path, image: Path) -> Iterator[str]:
    """What a table may call an image."""
    yield from (image.stem, image.name, image.relative_to(root.parent).as_posix(), image.relative_to(root).as_posix())
    yield f"{image.parent.name}/{image.name}"


def _label_column(records: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    """The column that a manifest would have for labels, else the one of the fewest different words, at least 2."""
    usual = next((name for alias in COLUMNS["label"] for name in names if name.strip().lower() == alias), None)
    if usual is not None:
        return usual
    words = {name: len({record[name] for record in records}) for name in names}
    likely = [name for name in names if 2 <= words[name] <= len(records) // 2]
    marks = [name for name in names if all(_mark(record[name]) is not None for record in records)]
    likely = (
        likely if len(marks) < 2 else [name for name in likely if name not in marks]
    )  # one mark of many is no label
    return min(likely, key=words.__getitem__, default="")


def _classes_marked(records: Sequence[dict[str, str]], names: Sequence[str]) -> list[str]:
    """The class of each row where all columns are classes and each row marks one of them, 0,1,0; else nothing."""
    classes = []
    for record in records if len(names) > 1 else ():
        marks = [_mark(record[name]) for name in names]
        if None in marks or sum(mark or 0 for mark in marks) != 1:
            return []
        classes.append(names[marks.index(1)].strip())
    return classes


def _mark(cell: str | None) -> int | None:
    return {"0": 0, "0.0": 0, "1": 1, "1.0": 1}.get((cell or "").strip())


def _rows(root: Path, labelled: Sequence[tuple[Path, str]]) -> tuple[tuple[str, str, str], ...]:
    rows = []
    for image, label in dict.fromkeys(labelled):
        inside = image.relative_to(root)
        rows.append((inside.as_posix(), label, str(_split_of(inside) or "")))
    return tuple(rows)


def format_manifest(found: Found, root: Path, folder: Path) -> str:
    """The text of a manifest that is to lie in ``folder``; with splits where there is more than one."""
    splits = {split for _, _, split in found.rows}
    wide = len(splits) > 1 and "" not in splits
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "label", "split"] if wide else ["path", "label"])
    for path, label, split in found.rows:
        inside = Path(os.path.relpath(root / path, folder)).as_posix()
        writer.writerow([inside, label, split] if wide else [inside, label])
    return out.getvalue()
