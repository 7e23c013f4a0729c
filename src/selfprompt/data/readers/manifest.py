"""Reads a manifest: a table with the columns path, label and optionally split; opens no image."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfprompt.data.dataset import SPLITS, Split
from selfprompt.data.loading.image_files import missing_path_hint
from selfprompt.data.readers.splits import KNOWN_SPLIT_WORDS, LabelledSplit, parse_split, parse_split_name
from selfprompt.utils.files import read_text
from selfprompt.utils.spelling import normalize_text
from selfprompt.utils.wording import listing, plural

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "filepaths"),
    "label": ("label", "class", "class_name", "classname", "category", "labels"),
    "split": ("split", "subset", "set"),
}
NAMES = ("class_name", "classname", "label_name")  # a column of names in addition to one of labels
MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = frozenset({"nan", "NaN", "<NA>", "NaT"})
"""What programs write for a missing value."""

Rows = list[tuple[str, dict[str, str]]]  # the position of each row ("line 2"), and its values by our column names


def read_manifest(path: Path) -> dict[Split, LabelledSplit]:
    """Read the images of a .csv, .tsv or .parquet manifest.

    Args:
        path: The manifest. Its image paths are absolute or relative to its folder. Without a split column all images
            are for training (`read.read_dataset` then holds out some for testing).

    Raises:
        ValueError: If a column or a value is missing, a split is unknown, or images do not exist.
        ImportError: If a parquet manifest is read without pyarrow.
    """
    rows, columns, column_notes = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not rows:
        raise ValueError(f"{path} must list at least one image, but it has no rows.")
    required = [name for name in columns if name != "name"]
    faults = [f"{position} has no {name}" for position, row in rows for name in required if not row[name]]
    if faults:
        raise ValueError(f"{path} must be filled in completely, without NaN: {listing(faults)}.")
    names, name_notes = _read_names(path, rows, columns)
    splits: dict[Split, LabelledSplit] = {}
    for position, row in rows:
        split = parse_split(row["split"]) if "split" in row else "train"
        if split is None:
            raise ValueError(f"{path}, {position}: unknown split {row['split'][:80]!r}. {KNOWN_SPLIT_WORDS}")
        images = splits.setdefault(split, LabelledSplit([], [], names=names))
        images.sources.append(path.parent / row["path"])
        images.labels.append(row["label"])
    next(iter(splits.values())).notes += (*column_notes, *name_notes)
    _check_files(path, splits)
    return {split: splits[split] for split in SPLITS if split in splits}


def open_table(path: Path) -> tuple[io.StringIO, str]:
    """Return a table's text from the header on, and its delimiter: a comma, ";", "|", a tab, or Excel's "sep=" line."""
    file = io.StringIO(read_text(path), newline="")
    header = file.readline()
    if header.startswith("sep=") and len(header.strip("\r\n")) == 5:
        return file, header[4]
    file.seek(0)
    return file, "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)


def _read_csv(path: Path) -> tuple[Rows, dict[str, str], tuple[str, ...]]:
    """Return the rows, the table's column for each of our names, and notes."""
    file, delimiter = open_table(path)
    skipped_lines = int(file.tell() > 0)
    try:
        reader = csv.DictReader(file, delimiter=delimiter)
        header = list(reader.fieldnames or [])
        columns = _find_columns(path, [name for name in header if name])
        records = []
        for record in reader:
            line = reader.line_num + skipped_lines
            if any(cell.strip() for cell in record.get(None) or []):
                raise ValueError(
                    f"{path}, line {line}, has more cells than the header ({len(header)}): put text "
                    f'that contains a {delimiter!r} in quotes, "salt{delimiter} pepper".'
                )
            if any("\n" in (record[column] or "").strip() for column in columns.values()):
                raise ValueError(f"{path}, up to line {line}: a quote is opened but not closed.")
            records.append((f"line {line}", record))
    except csv.Error as error:
        raise ValueError(f"{path} must be a readable table: {error}.") from None
    split = _find_split_by_values([record for _, record in records], header, columns)
    partial = [name for name in header if _names_some_splits([record.get(name) for _, record in records])]
    notes = (f"The splits are from the column {split!r}.",) if split else _unread_notes(columns, header, partial)
    columns |= {"split": split} if split else {}
    rows = [
        (position, {name: _clean_cell(record[column]) for name, column in columns.items()})
        for position, record in records
    ]
    return rows, columns, notes


def _clean_cell(text: str | None) -> str:
    """Return a cell without surrounding white space; "" for a missing value."""
    cell = (text or "").strip()
    return "" if cell in MISSING else cell


def _find_split_by_values(
    records: Sequence[Mapping[str, str]], header: Sequence[str], columns: Mapping[str, str]
) -> str:
    """Return a column of any name, such as "phase", in which every row names a split; "" without, or if not needed."""
    for name in header if "split" not in columns else ():
        values = {(record[name] or "").strip() for record in records} if name not in columns.values() else set()
        if len(values) > 1 and all(map(parse_split, values)):
            return name
    return ""


def _read_parquet(path: Path) -> tuple[Rows, dict[str, str], tuple[str, ...]]:
    """Return the rows, the table's column for each of our names, and notes."""
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
            f"{path} contains the images themselves, not their paths: load it with "
            f"datasets.load_dataset('parquet', data_files=...) and pass that data set."
        )
    values = {name: [_to_text(value) for value in table[column].to_pylist()] for name, column in columns.items()}
    rows = [(f"row {i}", {name: values[name][i] for name in columns}) for i in range(table.num_rows)]
    return rows, columns, _unread_notes(columns, table.column_names)


def _to_text(value: Any) -> str:
    if isinstance(value, (list, dict)):
        raise ValueError(f"A cell of a Parquet manifest must contain one value, got {value!r}.")
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    missing = value is None or value != value  # NaN, which pandas writes for a missing number
    return "" if missing else _clean_cell(str(value))


def _read_names(path: Path, rows: Rows, columns: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the names of the labels, and notes; no names unless each label has one and all differ.

    Raises:
        ValueError: If labels are numbers and one of them has two names.
    """
    if "name" not in columns:
        return {}, ()
    label, column = columns["label"], columns["name"]
    names: dict[str, str] = {}
    for position, row in rows:
        name = row["name"]
        first = names.setdefault(row["label"], name)
        differs = normalize_text(first) != normalize_text(name)
        if differs and row["label"].isdecimal():
            raise ValueError(f"{path}, {position}: label {row['label']} has two names, {first!r} and {name!r}.")
        if differs or not name:
            return {}, (f"Labels are from the column {label!r}; {column!r} does not give each of them one name.",)
    if len(set(map(normalize_text, names.values()))) < len(names):
        return {}, (f"Labels are from the column {label!r}; {column!r} gives some of them the same name.",)
    return names, (f"Labels are from the column {label!r}, their names from {column!r}.",)


def _find_columns(path: Path, present: list[str]) -> dict[str, str]:
    """Return the table's column for each of our names; "split" and "name" may be missing."""
    lower = {_normalize_column(column): column for column in reversed(present)}
    columns = {}
    for name, aliases in COLUMNS.items():
        match = next((alias for alias in aliases if alias in lower), None)
        if match is not None:
            if [_normalize_column(column) for column in present].count(match) > 1:
                raise ValueError(
                    f"{path} must have one column {lower[match].strip()!r}, but it has several: rename one."
                )
            columns[name] = lower[match]
        elif name != "split":
            raise ValueError(
                f"{path} needs a column {name!r} (or {', '.join(aliases[1:])}); its columns are: {listing(present)}. "
                + _advise_on_columns(path, present)
            )
    names = next((lower[alias] for alias in NAMES if alias in lower), None)
    return columns if names is None or names == columns["label"] else {**columns, "name": names}


def _normalize_column(column: str) -> str:
    return column.strip().lower()


def _advise_on_columns(path: Path, present: Sequence[str]) -> str:
    if any(os.path.isfile(path.parent / column.strip()) for column in present):
        return "The first line must name the columns (path,label), but it is a row with an image."
    return f"Rename them, or let `selfprompt data manifest {path.parent}` find the images that it lists."


def _names_some_splits(cells: Sequence[str | None]) -> bool:
    """Return whether a column has few values of which some, but not all, name splits: Training, PublicTest."""
    values = {(cell or "").strip() for cell in cells}
    return 1 < len(values) < 10 and any(map(parse_split, values))


def _unread_notes(columns: Mapping[str, str], present: Sequence[str], partial: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a note on columns that are not read although they mention a split, such as is_valid and ``partial``."""
    names = [name for name in present if name in partial or parse_split_name(name)[0] is not None]
    names = [name for name in names if name not in columns.values()]
    if not names or "split" in columns:
        return ()
    return (f"Did not read {listing(names)}: to split the images, add a column split with train, val or test.",)


def _check_files(path: Path, splits: dict[Split, LabelledSplit]) -> None:
    """Raise ValueError if files are missing."""
    files = (Path(str(source)) for images in splits.values() for source in images.sources)
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"Files in {path} must exist (paths are relative to its folder); "
            f"missing {plural(len(missing), 'file')}: {listing(list(map(str, missing)))}{_suggest(path, missing[0])}."
        )


def _suggest(path: Path, missing: Path) -> str:
    """Return what the path of a missing image may mean, as the rest of a sentence; "" without an idea."""
    if suggestion := missing_path_hint(missing):
        return f". {missing.name} does not exist{suggestion}"
    if ":/" in missing.as_posix():
        return ". URLs are not fetched: download the images, and give their paths"
    candidates = (folder / missing.name for folder in (path.parent, *path.parent.glob("*")))
    existing = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if existing is not None:
        return f". There is {existing.relative_to(path.parent)}: write the paths like that"
    return ""
