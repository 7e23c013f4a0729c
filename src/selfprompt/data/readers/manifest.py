"""Reads a manifest: a table with the columns path, label and, if it likes, split; opens no image."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfprompt.data.dataset import SPLITS, Split
from selfprompt.data.label_spelling import tidy
from selfprompt.data.loading.image_files import missing_path_hint
from selfprompt.data.readers.splits import UNKNOWN_SPLIT, Part, parse_split, split_and_rest
from selfprompt.utils.files import read_text
from selfprompt.utils.wording import listing, plural

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "filepaths"),
    "label": ("label", "class", "class_name", "classname", "category", "labels"),
    "split": ("split", "subset", "set"),
}
NAMES = ("class_name", "classname", "label_name")  # a column of names beside one of labels
MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = frozenset({"nan", "NaN", "<NA>", "NaT"})
"""What programs write for a value that is not there."""


def read_manifest(path: Path) -> dict[Split, Part]:
    """The images of a .csv, .tsv or .parquet manifest.

    Args:
        path: The manifest. Image paths in it are relative to its folder, or absolute. Without a split column
            all images are for training (and `sources.read_dataset` holds some out).

    Raises:
        ValueError: If a column or a value is missing, a split word is unknown, or images do not exist.
        ImportError: If a parquet manifest is read without pyarrow.
    """
    rows, columns, told = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    if not rows:
        raise ValueError(f"{path} must list at least one image, but it has no rows.")
    needed = [name for name in columns if name != "name"]
    faults = [f"{place} has no {name}" for place, row in rows for name in needed if not row[name]]
    if faults:
        raise ValueError(f"{path} must be filled in completely, without NaN: {listing(faults)}.")
    names, notes = _names(path, rows, columns)
    parts: dict[Split, Part] = {}
    for place, row in rows:
        split = parse_split(row["split"]) if "split" in row else "train"
        if split is None:
            raise ValueError(f"{path}, {place}: unknown split {row['split'][:80]!r}. {UNKNOWN_SPLIT}")
        part = parts.setdefault(split, Part([], [], names=names))
        part.sources.append(path.parent / row["path"])
        part.labels.append(row["label"])
    next(iter(parts.values())).notes += (*told, *notes)
    _check_files(path, parts)
    return {split: parts[split] for split in SPLITS if split in parts}


Rows = list[tuple[str, dict[str, str]]]  # where the row stands ("line 2"), and its values by our column names


def open_table(path: Path) -> tuple[io.StringIO, str]:
    """The text of a table from its header on, and what separates its cells: , ; | or a tab, or what "sep=" says."""
    file = io.StringIO(read_text(path), newline="")
    header = file.readline()
    if header.startswith("sep=") and len(header.strip("\r\n")) == 5:  # Excel's
        return file, header[4]
    file.seek(0)
    return file, "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)


def _read_text(path: Path) -> tuple[Rows, dict[str, str], tuple[str, ...]]:
    file, delimiter = open_table(path)
    skipped = file.tell() > 0
    try:
        reader = csv.DictReader(file, delimiter=delimiter)
        header_cells = list(reader.fieldnames or [])
        columns = _find_columns(path, [name for name in header_cells if name])
        records = []
        for record in reader:
            line = reader.line_num + skipped
            if any(cell.strip() for cell in record.get(None) or []):
                raise ValueError(
                    f"{path}, line {line}, has more cells than the header ({len(header_cells)}): put text "
                    f'that holds a {delimiter!r} in quotes, "salt{delimiter} pepper".'
                )
            if any("\n" in (record[column] or "").strip() for column in columns.values()):
                raise ValueError(f"{path}, up to line {line}: a quote is opened there and not closed.")
            records.append((f"line {line}", record))
    except csv.Error as error:
        raise ValueError(f"{path} must be a readable table: {error}.") from None
    split = _split_by_values([record for _, record in records], header_cells, columns)
    halves = [name for name in header_cells if _half_a_split([record.get(name) for _, record in records])]
    notes = (f"The column {split!r} tells the splits.",) if split else _unread(columns, header_cells, halves)
    columns |= {"split": split} if split else {}
    rows = [(place, {name: _cell(record[column]) for name, column in columns.items()}) for place, record in records]
    return rows, columns, notes


def _cell(text: str | None) -> str:
    """A cell without white space around it; nothing where it says that its value is missing."""
    bare = (text or "").strip()
    return "" if bare in MISSING else bare


def _split_by_values(records: Sequence[Mapping[str, str]], present: Sequence[str], columns: Mapping[str, str]) -> str:
    """A column of any name in which each row names a split, where none is called so: "data set", "phase"; or ""."""
    for name in present if "split" not in columns else ():
        values = {(record[name] or "").strip() for record in records} if name not in columns.values() else set()
        if len(values) > 1 and all(map(parse_split, values)):
            return name
    return ""


def _read_parquet(path: Path) -> tuple[Rows, dict[str, str], tuple[str, ...]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError("Parquet manifests need pyarrow: pip install 'selfprompt[data]'.") from None
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} must be a readable parquet file: {' '.join(str(error).split())}") from None
    columns = _find_columns(path, table.column_names)
    if pyarrow.types.is_struct(table.schema.field(columns["path"]).type):
        raise ValueError(
            f"{path} holds the images themselves, not their paths: read it with "
            f"datasets.load_dataset('parquet', data_files=...) and pass that data set."
        )
    values = {name: [_word(value) for value in table[column].to_pylist()] for name, column in columns.items()}
    rows = [(f"row {i}", {name: values[name][i] for name in columns}) for i in range(table.num_rows)]
    return rows, columns, _unread(columns, table.column_names)


def _word(value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError(f"A cell of a Parquet manifest must hold one value, got {value!r}.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    missing = value is None or value != value  # NaN, which pandas writes for a number that is missing
    return "" if missing else _cell(str(value))


def _names(path: Path, rows: Rows, columns: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Names of the labels by a second column, where it gives each label one name and no two the same; and notes.

    Raises:
        ValueError: If labels are numbers and one of them has two names.
    """
    if "name" not in columns:
        return {}, ()
    label, column = columns["label"], columns["name"]
    names: dict[str, str] = {}
    for place, row in rows:
        name = row["name"]
        other = names.setdefault(row["label"], name)
        if tidy(other) != tidy(name) and row["label"].isdecimal():
            raise ValueError(f"{path}, {place}: label {row['label']} has two names, {other!r} and {name!r}.")
        if tidy(other) != tidy(name) or not name:
            return {}, (f"Labels are from the column {label!r}; {column!r} gives them no names of their own.",)
    if len(set(map(tidy, names.values()))) < len(names):
        return {}, (f"Labels are from the column {label!r}; {column!r} gives some of them the same name.",)
    return names, (f"Labels are from the column {label!r}, their names from {column!r}.",)


def _find_columns(path: Path, present: list[str]) -> dict[str, str]:
    """Our name -> the table's name, for the columns that are there; "split" and "name" may be missing."""
    lower = {_plain(column): column for column in reversed(present)}
    columns = {}
    for name, aliases in COLUMNS.items():
        found = next((alias for alias in aliases if alias in lower), None)
        if found is not None:
            if [_plain(column) for column in present].count(found) > 1:
                raise ValueError(
                    f"{path} must have one column {lower[found].strip()!r}, but it has several: rename one."
                )
            columns[name] = lower[found]
        elif name != "split":
            raise ValueError(
                f"{path} needs a column {name!r} (or {', '.join(aliases[1:])}); its columns are: {listing(present)}. "
                + _what_to_do(path, present)
            )
    beside = next((lower[alias] for alias in NAMES if alias in lower), None)
    return columns if beside is None or beside == columns["label"] else {**columns, "name": beside}


def _plain(column: str) -> str:
    return column.strip().lower()


def _what_to_do(path: Path, present: Sequence[str]) -> str:
    """What helps where columns are missing."""
    if any(os.path.isfile(path.parent / column.strip()) for column in present):
        return "That is a row: let the first line name the columns, path,label."
    return f"Rename them, or let `selfprompt data manifest {path.parent}` find the images that it speaks of."


def _half_a_split(cells: Sequence[str | None]) -> bool:
    """Whether some of a few words name splits, and others do not: Training, PublicTest."""
    values = {(cell or "").strip() for cell in cells}
    return 1 < len(values) < 10 and any(map(parse_split, values))


def _unread(columns: Mapping[str, str], present: Sequence[str], halves: Sequence[str] = ()) -> tuple[str, ...]:
    """A note on columns that speak of a split, but are none: is_valid, and those in ``halves``."""
    names = [name for name in present if name in halves or split_and_rest(name)[0] is not None]
    names = [name for name in names if name not in columns.values()]
    if not names or "split" in columns:
        return ()
    return (f"Did not read {listing(names)}: to split the images, write train, val or test into a column split.",)


def _check_files(path: Path, parts: dict[Split, Part]) -> None:
    """Missing files are an error."""
    missing = [
        file for part in parts.values() for file in map(Path, map(str, part.sources)) if not os.path.isfile(file)
    ]
    if missing:
        raise ValueError(
            f"Files in {path} must exist (paths are relative to its folder); "
            f"missing {plural(len(missing), 'file')}: {listing(list(map(str, missing)))}{_meant(path, missing[0])}."
        )


def _meant(path: Path, missing: Path) -> str:
    """What the path of a missing image may have meant, as the rest of a sentence; else nothing."""
    if meant := missing_path_hint(missing):
        return f". {missing.name} does not exist{meant}"
    if ":/" in missing.as_posix():
        return ". Addresses are not fetched: download the images, and write where they lie"
    beside = (folder / missing.name for folder in (path.parent, *path.parent.glob("*")))
    elsewhere = next((place for place in beside if os.path.isfile(place)), None)
    if elsewhere is not None:
        return f". There is {elsewhere.relative_to(path.parent)}: write paths so"
    return ""
