"""What may be said about a class, in Python and in a classes.yaml."""

import re
from pathlib import Path
from typing import Any

import pytest

from selfprompt.data.class_description import (
    MAX_ALL_TEXTS,
    ClassDescription,
    check_total,
    describe,
    describe_all,
    description_record,
)
from selfprompt.data.class_names import name_classes, other_classes
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.relabel import align_classes, keep_classes
from tests.conftest import write_photos

FILE = """
golden_retriever:
  names: [golden retriever, retriever]
  descriptions: ["a large dog  with long golden hair"]
  templates: "a photo of a {}, a dog."
beagle: small beagle
"no":
  descriptions: a tree from Norway.
"""
LABELS = ["beagle", "golden_retriever", "no"]
RETRIEVER = ClassDescription(
    ("golden retriever", "retriever"), ("a large dog with long golden hair",), ("a photo of a {}, a dog.",)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_file_describes_the_labels(file: Path) -> None:
    mapping = name_classes(LABELS, {}, file)
    assert mapping.index == {"beagle": 0, "golden_retriever": 1, "no": 2}
    assert mapping.names == ("small beagle", "golden retriever", "no")
    assert mapping.descriptions == (
        ClassDescription(("small beagle",)),
        RETRIEVER,
        ClassDescription(("no",), ("a tree from Norway.",)),
    )
    assert mapping.notes == ("More than one name is given for golden retriever, no.",)


def test_names_alone_are_no_descriptions(file: Path) -> None:
    file.write_text("no: yes\n001: 1e3\nb: {names: [null]}\n", encoding="utf-8")
    mapping = name_classes(["001", "b", "no"], {}, file)
    assert (mapping.names, mapping.descriptions) == (("1e3", "null", "yes"), ())


def test_a_list_describes_the_classes_in_order(file: Path) -> None:
    file.write_text("- names: [cat, kitten]\n- sea_lion\n", encoding="utf-8")
    mapping = name_classes(["sea_lion", "cat"], {}, file)
    assert mapping.index == {"sea_lion": 1, "cat": 0}
    assert mapping.descriptions == (ClassDescription(("cat", "kitten")), ClassDescription(("sea lion",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beagle: {name: x}", "class 'beagle': Unknown key 'name'. Did you mean 'names'? Known: names, descriptions"),
        ("beagle: {names: []}", "class 'beagle': names must hold at least one text, got none"),
        ("beagle: {names: [a, ' ']}", "class 'beagle': names must not hold an empty text"),
        ("beagle: {names: [a, a]}", "class 'beagle': names must differ, got 'a' twice"),
        (
            "beagle: {templates: [a dog]}",
            "class 'beagle': template must contain {} once, for the class name; got 'a dog'",
        ),
        ("beagle: {descriptions: {a: b}}", "class 'beagle': descriptions must be a text or a list of texts, got {'a'"),
        ("beagle: [a, b]", "class 'beagle': A class is a name, or a mapping with names, descriptions, templates; got"),
        (
            f"beagle: {{descriptions: {'x' * 2001}}}",
            "class 'beagle': descriptions must be texts of up to 2,000 letters",
        ),
        (f"beagle: {{descriptions: [{', '.join(map(str, range(1000)))}]}}", "may have 1,000 texts (names times"),
        ("beagle: a\nbeagle: b", "the key 'beagle' occurs twice"),
        ("beagle: &x a\nno: *x", "aliases (*name) are not taken"),
        ("just text", "must map each folder to its class, or list the classes; got 'just text'"),
        ("", "must map each folder to its class"),
        ("x: " + "y" * (1 << 20), "at most 1,048,576 characters"),
        ("poodle: {names: x}", "Class names must be for the labels of the data"),
    ],
)
def test_wrong_files_are_refused_with_file_and_class(file: Path, text: str, message: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        name_classes(LABELS, {}, file)
    assert str(file) in str(raised.value)
    assert len(str(raised.value)) < 600


def test_values_of_other_kinds_are_refused() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="A class is a name, or a mapping"):
        describe(wrong)
    with pytest.raises(TypeError, match="class 2: names must be a text or a list of texts, got 3"):
        describe_all(["a", {"names": 3}])
    with pytest.raises(ValueError, match="names must hold at least one name"):
        ClassDescription(())


def test_all_classes_together_are_bounded() -> None:
    many = ClassDescription(("a",), tuple(map(str, range(999))))
    check_total([many] * 100)
    with pytest.raises(ValueError, match=f"may have {MAX_ALL_TEXTS:,} texts, got 101,000"):
        check_total([many] * 101)


def test_the_record_gives_the_descriptions_back() -> None:
    classes = (RETRIEVER, ClassDescription(("beagle",)))
    (rows,) = description_record(classes).values()
    assert rows[1] == {"names": ["beagle"]}
    assert describe_all(rows) == classes
    assert description_record(classes[1:]) == {}


def test_descriptions_stay_with_their_classes(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", dict.fromkeys(LABELS, 2))
    (photos / "classes.yaml").write_text(FILE, encoding="utf-8")
    (photos / "classes.txt").write_text("beagle,x", encoding="utf-8")
    dataset = read_dataset(photos)
    assert dataset.notes[0] == "Class names are from classes.yaml; classes.txt is not read."
    assert dataset.described_classes[1] == RETRIEVER
    assert keep_classes(dataset, [2, 1]).descriptions == (dataset.descriptions[2], RETRIEVER)
    assert align_classes(dataset, dataset.classes[::-1]).descriptions == ()
    assert read_dataset(photos, classes={"beagle": "dog"}).described_classes == ("dog", "golden retriever", "no")


PRESENT = [ClassDescription(("cat", "kitten")), ClassDescription(("dog",))]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["fox", {"names": ["hen"]}], ["fox", "hen"]),
        ({"dog": {"names": ["hound", "dog"]}}, ["cat", "hound"]),
        ({"dog": "hound", "cat": "lion", "fox": "fox"}, ["lion", "hound"]),
        ({"dog": "cat", "cat": "dog"}, ["dog", "cat"]),
        ({"n01": {"names": ["dog", "hound"]}}, ["cat", "dog"]),
        ({"fox": {"descriptions": "red."}, "dog": "dog"}, ["fox", "dog"]),
    ],
)
def test_other_classes(given: Any, names: list[str]) -> None:
    described = describe_all(other_classes(given, PRESENT))
    assert [one.name for one in described] == names


def test_classes_that_are_not_mentioned_stay_as_they_are(file: Path) -> None:
    file.write_text("dog: {descriptions: barks.}", encoding="utf-8")
    assert other_classes(file, PRESENT) == [PRESENT[0], ClassDescription(("dog",), ("barks.",))]
    file.write_text("dog: {descripions: barks.}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes\.yaml, class 'dog': Unknown key 'descripions'\. Did you mean"):
        other_classes(file, PRESENT)
