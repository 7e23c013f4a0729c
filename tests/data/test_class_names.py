"""Class names and their order."""

from pathlib import Path

import pytest

from selfprompt.data.class_names import clean_name, name_classes, read_class_file

PETS = ["Faces", "Leopards", "accordion", "airplanes"]  # Caltech101's kind of order


def test_cleaning() -> None:
    assert clean_name(" great__white_shark\t ") == "great white shark"
    assert clean_name("Cafe\u0301") == "Caf\u00e9"


def test_names_default_to_the_labels() -> None:
    mapping = name_classes(["a_b", "1"], {"1": "one"}, None)
    assert (mapping.index, mapping.names, mapping.notes) == ({"a_b": 0, "1": 1}, ("a b", "one"), ())


def test_mapping_renames() -> None:
    mapping = name_classes(PETS, {}, {"Faces": "face", "airplanes": "airplane", "zebra": "zebra"})
    assert mapping.names == ("face", "Leopards", "accordion", "airplane")
    assert "Leopards, accordion" in mapping.notes[0]
    assert "Ignored 1 class name without images" in mapping.notes[1]
    with pytest.raises(ValueError, match="for the labels of the data"):
        name_classes(PETS, {}, {"zebra": "zebra"})


def test_list_of_the_labels_gives_the_order() -> None:
    mapping = name_classes(["cat", "sea_lion"], {}, ["sea lion", "dog", "cat"])
    assert mapping.index == {"sea_lion": 0, "cat": 2}
    assert mapping.names == ("sea lion", "dog", "cat")
    assert "Classes without an image: dog" in mapping.notes[0]


def test_list_of_other_names_follows_the_order() -> None:
    mapping = name_classes(PETS, {}, ["face", "leopard", "accordion", "airplane"])
    assert mapping.names == ("face", "leopard", "accordion", "airplane")
    assert "Faces is 'face'" in mapping.notes[0]


def test_numbers_index_the_names() -> None:
    mapping = name_classes(["0", "2"], {}, ["a", "b", "c"])
    assert mapping.index == {"0": 0, "2": 2}
    assert any("they index the names from 0; 2 is 'c'" in note for note in mapping.notes)
    assert name_classes(["1", "2", "3"], {}, ["a", "b", "c"]).index == {"1": 0, "2": 1, "3": 2}
    assert name_classes(["1", "3"], {}, ["a", "b", "c"]).index == {"1": 0, "3": 2}
    assert name_classes(["5", "7"], {}, ["a", "b"]).index == {"5": 0, "7": 1}
    with pytest.raises(ValueError, match=r"Labels are numbers \(1, 2\) without 0 and without 3: .*from 0 or from 1"):
        name_classes(["1", "2"], {}, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["face", "leopard", "airplane"], "3 class names cannot name 4 labels"),
        (["leopard", "accordion", "face", "airplane"], "Every label must be among the classes; .*Faces"),
        (["Faces", "accordion"], "not among them: Leopards, airplanes"),
    ],
)
def test_inconsistent_lists_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        name_classes(PETS, {}, names)


def test_empty_and_equal_names() -> None:
    with pytest.raises(ValueError, match="nothing is left of '__'"):
        name_classes(["__", "a"], {}, None)
    (note,) = (note for note in name_classes(["a", "b"], {}, ["crane"] * 2).notes if "share a name" in note)
    assert "cannot be told apart by text: crane (a, b)" in note


@pytest.mark.parametrize("separator", ["\t", ",", "=", "=>", " => ", ", ", " "])
def test_class_file_maps(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(f"n01{separator}great white shark\n\nn02{separator}tench\n")
    assert read_class_file(file, ["n01", "n02"]) == {"n01": "great white shark", "n02": "tench"}


def test_class_file_lists(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufefftench, Tinca tinca\r\ngoldfish, Carassius\r\n".encode())
    assert read_class_file(file, ["n01", "n02"]) == ["tench, Tinca tinca", "goldfish, Carassius"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_class_files(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("n01=café\r\nn02=猫\r\n".encode(encoding))
    assert read_class_file(file, ["n01", "n02"]) == {"n01": "café", "n02": "猫"}


def test_unreadable_class_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    with pytest.raises(ValueError, match="readable UTF-8"):
        read_class_file(file, [])
    file.write_bytes(b"cat\ncaf\xe9")
    with pytest.raises(ValueError, match="readable UTF-8 text file, but line 2 is not"):
        read_class_file(file, [])
    file.write_bytes("cat".encode("utf-16-le"))
    with pytest.raises(ValueError, match="readable UTF-8 text file, but it contains zero bytes"):
        read_class_file(file, [])
    file.write_text("\n")
    with pytest.raises(ValueError, match="at least one class, but it is empty"):
        read_class_file(file, [])
    file.write_text("a,b\na,c\n")
    with pytest.raises(ValueError, match="name each folder once, got 'a' in lines 1 and 2"):
        read_class_file(file, ["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tx\nb y\n", r"classes\.txt, line 2: must be like 'a\\tx', got 'b y'"),
        ("a\tx\n\nb\t\n", r"classes\.txt, line 3: must be like 'a\\tx', got 'b'"),
        ("q\tx\nr\ty\n", r"classes\.txt must name the labels of the data \(a, b\), but its lines are for q, r"),
        ("x\ny\nx\n", r"classes\.txt must name each class once, got 'x' in lines 1 and 3"),
        ("a,x\nb,y\n\na,z\n", r"classes\.txt must name each folder once, got 'a' in lines 1 and 4"),
        ("x\n", r"classes\.txt: 1 class name cannot name 2 labels \(a, b\)"),
        ("x\ny\nz\n", r"classes\.txt: 3 class names cannot name 2 labels \(a, b\)"),
        (
            "x,a\ny,b\n",
            r"classes\.txt must contain folder,name, but its lines end with the folders \(x,a\): swap the two columns",
        ),
        ("names:\n  0: a\n  1: b\n", r"classes\.txt must be plain text, but it looks like YAML"),
        ('{"a": "x", "b": "y"}', r"classes\.txt must be plain text, but it looks like JSON"),
    ],
)
def test_inconsistent_class_files_are_refused_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        name_classes(["a", "b"], {}, file)


@pytest.mark.parametrize(
    ("labels", "content", "names"),
    [
        (["cat", "dog"], "0 cat\n1 dog\n", ("cat", "dog")),
        (["cat", "dog"], "1,dog\n2,cat\n", ("dog", "cat")),
        (["n1", "n2"], "1. dog\n2. cat\n", ("dog", "cat")),
        (["0", "1"], "0: dog\n1: cat\n", ("dog", "cat")),
        (["cat", "dog"], "tabby cat\nbig dog\n", ("tabby cat", "big dog")),
    ],
)
def test_line_numbers_are_not_part_of_names(tmp_path: Path, labels, content: str, names: tuple[str, ...]) -> None:
    (tmp_path / "classes.txt").write_text(content)
    assert name_classes(labels, {}, tmp_path / "classes.txt").names == names


@pytest.mark.parametrize("content", ["1 dog\n2 cat\n", "1,dog\n2,cat\n", "1\tdog\n2\tcat\n"])
def test_lines_with_other_numbers_than_the_labels_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(ValueError, match="none of its numbered lines is for 0"):
        name_classes(["0", "1"], {}, tmp_path / "classes.txt")


@pytest.mark.parametrize("names", [["001.Albatross", "002.Auklet"], ["n02085620-Chihuahua", "n02085782-Spaniel"]])
def test_names_after_numbers_are_noted(names: list[str]) -> None:
    (note,) = name_classes(names, {}, None).notes
    assert f"begin with numbers ({names[0]}, {names[1]})" in note
    assert name_classes(["2 cats", "dog"], {}, None).notes == ()
