"""Labels that look the same are one class, and numbers sort as numbers."""

from pathlib import Path

import pytest

from selfprompt.data.fewshot import select_base_new
from selfprompt.data.label_spelling import normalize_text, sort_labels
from selfprompt.data.readers.read import read_dataset
from tests.data.images import picture, write_classes

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (" Cat\u00a0", "Cat"),
        ("\ufeffcat\u200b", "cat"),
        ("\u200e cat \u202c", "cat"),
        ("c\u200bat\u00ad", "cat"),
        (DECOMPOSED, COMPOSED),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),  # inside a word a non-joiner has a meaning
    ],
)
def test_invisible_characters_are_removed(written: str, meant: str) -> None:
    assert normalize_text(written) == meant


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (["10", "9", "1", "2"], ["1", "2", "9", "10"]),
        (["02", "10", "01"], ["01", "02", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["b", "B", "a"], ["B", "a", "b"]),
        (["1" + 5000 * "0", "2"], ["2", "1" + 5000 * "0"]),
    ],
)
def test_numbers_sort_as_numbers_if_all_are(labels: list[str], order: list[str]) -> None:
    assert sort_labels(labels) == order


@pytest.mark.parametrize("labels", [["Cat", "Cat ", "dog"], ["Cat", "Cat\u200b", "dog"], [DECOMPOSED, COMPOSED, "dog"]])
def test_labels_that_look_the_same_are_one_class(labels: list[str]) -> None:
    pairs = [(picture(index), label) for index, label in enumerate(labels)]
    dataset = read_dataset(pairs, holdout=0)
    assert [item.label for item in dataset.train] in ([0, 0, 1], [1, 1, 0])
    assert len(dataset.classes) == 2
    (note,) = (note for note in dataset.notes if "look the same" in note)
    assert all(ascii(label) in note for label in labels[:2])


def test_a_folder_matches_its_name_in_another_normal_form(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {DECOMPOSED: 1, "tea": 1})
    (root / "classes.txt").write_text(f"{COMPOSED},coffee\ntea,tea\n", encoding="utf-8")
    assert read_dataset(root, holdout=0).classes == ("coffee", "tea")


def test_an_invisible_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images: a label must have a visible letter .*got '\\u200b'"):
        read_dataset([(picture(0), "\u200b"), (picture(1), "a")])


def test_numbers_must_be_written_in_one_way() -> None:
    with pytest.raises(ValueError, match=r"numbers must be written in one way, got '01' and '1' and '1\.0'"):
        read_dataset([(picture(index), label) for index, label in enumerate(["1", "1.0", "01", "2"])])
    with pytest.raises(ValueError, match=r"got '1' and '1\.0'; '2' and '2\.0'"):  # as pandas writes them
        read_dataset(
            {"train": [(picture(0), "1"), (picture(1), "2")], "test": [(picture(2), "1.0"), (picture(3), "2.0")]}
        )
    dataset = read_dataset([(picture(index), label) for index, label in enumerate(["10.0", "9.0", "1.0"])], holdout=0)
    assert (dataset.classes, [item.label for item in dataset.train]) == (("1", "9", "10"), [2, 1, 0])
    assert "Labels are whole numbers: 1.0 is read as 1." in dataset.notes
    dataset = read_dataset([(picture(index), label) for index, label in enumerate(["1", "01", "cat"])], holdout=0)
    assert "Labels that are the same number stay separate classes: '01' and '1'." in dataset.notes


def test_numbered_folders_are_named_in_order(tmp_path: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    root = write_classes(tmp_path, {str(number): 1 for number in range(1, 13)})
    plain = read_dataset(root, holdout=0)
    assert plain.classes == tuple(map(str, range(1, 13)))
    assert select_base_new(plain, "base").classes == tuple(map(str, range(1, 7)))
    (root / "classes.txt").write_text("\n".join(words))
    dataset = read_dataset(root, holdout=0)
    assert {item.source.parent.name: dataset.classes[item.label] for item in dataset.train} == {
        str(number): word for number, word in enumerate(words, start=1)
    }


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["Cat", "cat", "dog"], "Class names that differ only in case: 'Cat' and 'cat'."),
        (["1", "2"], "The class names are numbers, not words (1, 2)"),
        ([0, 1], "The class names are numbers, not words (class 0, class 1)"),
        (["n01440764", "n01443537"], "The class names are WordNet ids, not words (n01440764, n01443537)"),
    ],
)
def test_names_that_a_model_cannot_use_are_noted(labels: list[str], note: str) -> None:
    dataset = read_dataset([(picture(index), label) for index, label in enumerate(labels)], holdout=0)
    assert any(other.startswith(note) for other in dataset.notes)
    named = read_dataset([(picture(0), labels[0]), (picture(1), labels[1])], classes=["a hen", "a fox"], holdout=0)
    assert not any(other.startswith(note[:20]) for other in named.notes)
