"""Manifests: tables of paths, labels and splits."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from selfprompt.data.readers.read import read_dataset
from tests.data.images import picture

ROWS = [
    ("images/0.png", "cat"),
    ("images/1.png", "sea_lion"),
    ("images/2.png", "cat"),
    ("images/3.png", "sea_lion"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for index in range(4):
        picture(index).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def write(file: Path, header: str, rows: list[tuple[str, ...]], separator: str = ",") -> Path:
    lines = [header.replace(",", separator), *(separator.join(row) for row in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return file


@pytest.mark.parametrize(
    ("name", "separator"), [("pets.csv", ","), ("pets.csv", ";"), ("pets.tsv", "\t"), ("P.CSV", ",")]
)
def test_text_manifests(folder: Path, name: str, separator: str) -> None:
    dataset = read_dataset(write(folder / name, "Path,Label,note", [(*row, "") for row in ROWS], separator), holdout=0)
    assert dataset.name == name[:-4]
    assert dataset.classes == ("cat", "sea lion")
    assert [item.label for item in dataset.train] == [0, 1, 0, 1]
    assert dataset.train[0].source == folder / "images/0.png"
    assert dataset.train[0].load().size == picture(0).size


@pytest.mark.parametrize("head", ["path|label", "sep=;\npath;label", " Path ; Label "])
def test_other_dialects(folder: Path, head: str) -> None:
    rows = [("images/0.png", "cat"), ("images/1.png", "dog")]
    separator = "|" if "|" in head else ";"
    (folder / "a.csv").write_text("\n".join([head, *map(separator.join, rows)]))
    assert read_dataset(folder / "a.csv", holdout=0).classes == ("cat", "dog")


def test_a_split_column_with_another_name(folder: Path) -> None:
    rows = [(*row, split) for row, split in zip(ROWS, ("train", "train", "valid", "test"), strict=True)]
    dataset = read_dataset(write(folder / "a.csv", "filepaths,labels,data set", rows))
    assert [images for _, images, *_ in dataset.summary()] == [2, 1, 1]
    assert dataset.notes[0] == "The splits are from the column 'data set'."


def test_an_unread_column_that_mentions_a_split_is_noted(folder: Path) -> None:
    file = write(folder / "a.csv", "path,label,is_valid", [(*row, "True") for row in ROWS])
    assert "Did not read is_valid" in read_dataset(file).notes[0]
    rows = [
        (*row, usage) for row, usage in zip(ROWS, ("Training", "Training", "PublicTest", "PublicTest"), strict=True)
    ]
    assert "Did not read Usage" in read_dataset(write(folder / "b.csv", "path,label,Usage", rows)).notes[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label,Label ", "images/0.png,cat,dog"], "one column 'label', but it has several"),
        (["path,label", "images/0.png,nan", "images/1.png,dog"], "line 2 has no label"),
        (["images/0.png,cat", "images/1.png,dog"], "The first line must name the columns"),
        (["id,label", "0,cat", "1,dog"], "let `selfprompt data manifest .*` find the images"),
        (["path,label", "images\\0.png,cat", "images/1.png,dog"], "write paths with /"),
        (["path,label", "images/0,cat", "images/1,dog"], r"\. 0 does not exist, but 0\.png does: give the whole name"),
        (["path,label", "/kaggle/input/0.png,cat", "1.png,dog"], r"There is images/0\.png: write the paths like that"),
        (["path,label", "0.png,cat", "1.png,dog"], r"There is images/0\.png: write the paths like that"),
        (["path,label", "/elsewhere/a.csv,cat", "1.png,dog"], r"There is a\.csv: write the paths like that"),
        (["path,label", "https://example.org/0.png,cat", "images/1.png,dog"], "URLs are not fetched"),
    ],
)
def test_errors_give_advice(folder: Path, lines: list[str], message: str) -> None:
    (folder / "a.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_dataset(folder / "a.csv")


def test_splits_and_absolute_paths(folder: Path) -> None:
    rows = [("images/0.png", "cat", "train"), (str(folder / "images/1.png"), "dog", "TRAIN")]
    rows += [("images/2.png", "cat", "validation"), ("images/3.png", "dog", "test")]
    dataset = read_dataset(write(folder / "a.csv", "filename,class,split", rows))
    assert [row[1] for row in dataset.summary()] == [2, 1, 1]
    assert dataset.notes == ()


def test_quoted_values(folder: Path) -> None:
    (folder / "images/0.png").rename(folder / "images/a,b.png")
    file = folder / "a.csv"
    file.write_text('path,label\n"images/a,b.png","cat, ""big"""\nimages/1.png,dog\n')
    assert read_dataset(file, holdout=0).classes == ('cat, "big"', "dog")


def test_number_labels_index_the_given_names(folder: Path) -> None:
    file = write(folder / "a.csv", "path,label", [(path, str(i % 2)) for i, (path, _) in enumerate(ROWS)])
    assert read_dataset(file).classes == ("0", "1")
    assert read_dataset(file, classes=["cat", "dog", "eel"]).classes == ("cat", "dog", "eel")
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert read_dataset(file).classes == ("cat", "dog")


def test_duplicates_are_noted(folder: Path) -> None:
    rows = [
        ("images/0.png", "cat", "train"),
        ("images/1.png", "dog", "train"),
        ("images/1.png", "dog", "train"),
    ]
    dataset = read_dataset(write(folder / "a.csv", "path,label,split", [*rows, ("images/0.png", "cat", "test")]))
    assert "Every test image (1) is also a training image" in dataset.notes[0]
    assert "1 training image is a copy of another: 1.png." in dataset.notes


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "image_name,label",
            [("a", "b")],
            r"needs a column 'path' \(or file.*its columns are: image_name, label",
        ),
        ("path,species", [("a", "b")], "needs a column 'label'"),
        ("path,label", [], "has no rows"),
        ("path,label", [("images/0.png", "")], "line 2 has no label"),
        ("path,label", [("images/0.png",)], "line 2 has no label"),
        ("path,label,split", [("images/0.png", "cat", "")], "line 2 has no split"),
        (
            "path,label,split",
            [("images/0.png", "cat", "tset")],
            "line 2: unknown split 'tset'. Known: .*train",
        ),
        ("path,label", [("images/0.png", "cat"), ("x.png", "dog")], r"missing 1 file: .*x\.png"),
        ("path,label", [("images", "cat")], "missing 1 file"),
        ("path,label", [("x" * 1000, "cat")], "missing 1 file"),
        (
            "path,label,split",
            [("images/0.png", "cat", "train"), ("images/1.png", "dog", "test")],
            r"Every class of .*a\.csv needs training images; only in test: dog",
        ),
        ("path,label", [("images/0.png", "cat")], r"at least 2 classes, got cat in .*a\.csv"),
    ],
)
def test_faults_are_refused_with_the_line(folder: Path, header: str, rows: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_dataset(write(folder / "a.csv", header, rows))


def test_labels_outside_the_classes_are_refused(folder: Path) -> None:
    file = write(folder / "a.csv", "path,label", ROWS)
    with pytest.raises(ValueError, match="among the classes; not among them: sea_lion"):
        read_dataset(file, classes=["cat", "dog", "eel"])
    with pytest.raises(ValueError, match="among the classes; not among them: sea_lion"):
        read_dataset(file, classes=["dog", "cat"])


def test_other_files_are_refused(folder: Path) -> None:
    (folder / "a.csv").write_bytes(b"path,label\n\xff\xfe,\x80\n")
    with pytest.raises(ValueError, match=r"a\.csv must be a readable UTF-8 text file"):
        read_dataset(folder / "a.csv")
    (folder / "b.csv").touch()
    with pytest.raises(ValueError, match="needs a column 'path'"):
        read_dataset(folder / "b.csv")


def test_parquet_manifests(folder: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = folder / "a.parquet"
    parquet.write_table(arrow.table({"path": [path for path, _ in ROWS], "label": [0, 1, 0, 1]}), file)
    assert [item.label for item in read_dataset(file, holdout=0).train] == [0, 1, 0, 1]
    parquet.write_table(arrow.table({"path": [path for path, _ in ROWS], "label": [b"cat", b"dog"] * 2}), file)
    assert read_dataset(file, holdout=0).classes == ("cat", "dog")
    parquet.write_table(arrow.table({"path": ["images/0.png", None], "label": [0, 1]}), file)
    with pytest.raises(ValueError, match="row 1 has no path"):
        read_dataset(file)
    parquet.write_table(arrow.table({"image": [{"bytes": b"", "path": "a"}], "label": [0]}), file)
    with pytest.raises(ValueError, match="contains the images themselves"):
        read_dataset(file)
    file.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="readable parquet file"):
        read_dataset(file)


def test_parquet_needs_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    (folder / "a.parquet").touch()
    with pytest.raises(ImportError, match=r"need pyarrow: pip install 'selfprompt\[data\]'"):
        read_dataset(folder / "a.parquet")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["path,label", "images/0.png,salt, pepper"],
            r'line 2, has more cells than the header \(2\): .*"salt, pepper"',
        ),
        (["path;label", "images/0.png;a;b"], "line 2, has more cells than the header"),
        (["path,label", 'images/0.png,"a', "images/1.png,b"], "up to line 3: a quote is opened but not closed"),
        (["path,label", "images/0.png, "], "line 2 has no label"),
        (["path,label,class_name", "images/0.png,1,cat", "images/1.png,1,dog"], "line 3: label 1 has two names"),
        (["path,label", "images/0.png,1", "images/1.png,1.0"], "written in one way, got '1' and '1.0'"),
    ],
)
def test_ambiguous_rows_are_refused(folder: Path, lines: list[str], message: str) -> None:
    (folder / "a.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        read_dataset(folder / "a.csv")


def test_empty_cells_at_the_end_are_ignored(folder: Path) -> None:
    (folder / "a.csv").write_text("path,label\nimages/0.png,cat,\nimages/1.png,dog,,\n")
    assert read_dataset(folder / "a.csv", holdout=0).classes == ("cat", "dog")


def test_a_column_of_class_names_names_the_labels(folder: Path) -> None:
    rows = [("images/0.png", "1.0", "sea_lion"), ("images/1.png", "0.0", "cat"), ("images/2.png", "1.0", "sea_lion")]
    dataset = read_dataset(write(folder / "a.csv", "path,label,class_name", rows), holdout=0)
    assert (dataset.classes, [item.label for item in dataset.train]) == (("cat", "sea lion"), [1, 0, 1])
    assert "Labels are from the column 'label', their names from 'class_name'." in dataset.notes
    rows = [("images/0.png", "cat", "animal"), ("images/1.png", "dog", "animal")]
    dataset = read_dataset(write(folder / "a.csv", "path,label,class_name", rows), holdout=0)
    assert dataset.classes == ("cat", "dog")
    assert "'class_name' gives some of them the same name" in dataset.notes[0]


def test_an_invisible_label_is_refused_with_the_path(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text("path,label\na.png,\u202e\nb.png,cat\n", encoding="utf-8")
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="a label must have a visible letter or digit") as refused:
        read_dataset(file)
    assert str(refused.value).startswith(f"{file}: ")
