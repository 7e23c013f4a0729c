"""Folders of images: classes, splits, other files, and held-out test images."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.holdout import hold_out
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.relabel import align_classes
from tests.data.images import fake_dataset, picture, write_classes


def names(items: tuple[Item, ...], root: Path) -> list[str]:
    return [Path(str(item.source)).relative_to(root).as_posix() for item in items]


def test_class_folders(tmp_path: Path) -> None:
    dataset = read_dataset(write_classes(tmp_path / "pets", {"great_dane": 3, "cat": 12, "Ape": 1}), holdout=0)
    assert dataset.name == "pets"
    assert dataset.classes == ("Ape", "cat", "great dane")
    assert names(dataset.train, tmp_path / "pets")[:4] == ["Ape/0.png", "cat/0.png", "cat/1.png", "cat/10.png"]
    assert dataset.summary() == [("train", 16, 3, 1, 12), ("val", 0, 0, 0, 0), ("test", 0, 0, 0, 0)]
    assert dataset.notes == ()


def test_a_test_split_is_held_out(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 8, "b": 2, "c": 1})
    dataset = read_dataset(root)
    assert dataset.summary() == [("train", 8, 3, 1, 6), ("val", 0, 0, 0, 0), ("test", 3, 2, 1, 2)]
    assert "held out 3 images of 11 for testing (25% of each class, seed 1)" in dataset.notes[0]
    assert "Classes with a single image, which is kept for training: c" in dataset.notes[1]
    assert dataset.test == read_dataset(str(root)).test != read_dataset(root, seed=2).test
    renamed = read_dataset(root, classes={"a": "zebra"})
    assert [item.source for item in renamed.test] == [item.source for item in dataset.test]


def test_other_files_are_ignored_and_counted(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "pets", {"a": 1, "b": 1})
    for clutter in (".DS_Store", "._0.png", "Thumbs.db", "notes.txt", "more.TXT", "README"):
        (root / "a" / clutter).touch()
    picture(0).save(root / "a" / "UPPER.JPG")
    picture(0).save(root / "a" / "x.gif")
    picture(0).save(root / "loose.png")
    for folder in (".git", "__MACOSX"):
        (root / folder).mkdir()
    dataset = read_dataset(root, holdout=0)
    assert names(dataset.train, root) == ["a/0.png", "a/UPPER.JPG", "a/x.gif", "b/0.png"]
    assert dataset.notes[0] == "Ignored 6 files in pets that are not images (2 .txt, 3 hidden, 1 no extension)."
    assert dataset.notes[1] == "Ignored 1 image in pets outside its class folders."


def test_nested_folders_and_links_are_followed_once(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data", {"a": 1, "b": 1, "b/deep/er": 2})
    os.symlink(root / "b", root / "b" / "loop")
    os.symlink(root / "b" / "0.png", root / "a" / "link.png")
    dataset = read_dataset(root, holdout=0)
    assert names(dataset.train, root) == [
        "a/0.png",
        "a/link.png",
        "b/0.png",
        "b/deep/er/0.png",
        "b/deep/er/1.png",
    ]
    assert dataset.classes == ("a", "b")


@pytest.mark.parametrize(("val", "test"), [("val", "test"), ("valid", "testing"), ("Validation", "TEST"), ("dev", "")])
def test_split_folders(tmp_path: Path, val: str, test: str) -> None:
    for folder, count in (("Training", 4), (val, 2), (test, 3)):
        if folder:
            write_classes(tmp_path / folder, {"a": count, "b": count})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "testing").mkdir(exist_ok=True)  # an empty split folder is none
    dataset = read_dataset(tmp_path)
    assert [row[1] for row in dataset.summary()] == ([8, 4, 6] if test else [6, 4, 2])
    assert "Ignored the folders next to" in dataset.notes[0]
    assert "annotations" in dataset.notes[0]
    assert any("held out" in note for note in dataset.notes) == (not test)


def test_without_val_folder_val_stays_empty(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / split, {"a": 2, "b": 2})
    assert [row[1] for row in read_dataset(tmp_path).summary()] == [4, 0, 4]


def test_only_a_test_folder_is_read_for_evaluation(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    assert [row[1] for row in read_dataset(tmp_path).summary()] == [0, 0, 4]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"bus": 2, "train": 2, "car": 2})
    assert read_dataset(root).classes == ("bus", "car", "train")
    write_classes(root / "train", {"steam": 1})
    assert read_dataset(root).classes == ("bus", "car", "train")


def test_empty_classes_are_named_and_left_out_or_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "test", {"a": 2, "b": 0})
    assert "Left out class folders of test without images: b." in read_dataset(tmp_path).notes
    (tmp_path / "train" / "d").mkdir()
    (tmp_path / "train" / "d" / "notes.txt").touch()
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("a", "b")
    assert "Left out class folders of train without images: d." in dataset.notes
    with pytest.raises(ValueError, match=r"train has empty class folders: d: add images or remove the folder"):
        read_dataset(tmp_path, on_empty="fail")


def test_a_class_file_is_used_automatically(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"n01": 2, "n02": 2})
    (root / "classes.txt").write_text("n02=tench\nn01=goldfish\n")
    dataset = read_dataset(root)
    assert dataset.classes == ("goldfish", "tench")
    assert dataset.notes[0] == "Class names are from classes.txt."
    assert read_dataset(root, classes=["x", "y"]).classes == ("x", "y")


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist: give a folder of images or a manifest"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="it contains neither images nor folders"):
        read_dataset(tmp_path)
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"it contains 1 image but no folder\. Sort them into folders"):
        read_dataset(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.npy").touch()
    with pytest.raises(ValueError, match=r"has empty class folders: a \(only files that are not images: 1 \.npy\)"):
        read_dataset(tmp_path)
    picture(0).save(tmp_path / "a" / "a.png")
    with pytest.raises(ValueError, match=r"at least 2 classes, got a in .*If its class folders lie deeper"):
        read_dataset(tmp_path)
    (tmp_path / "a.zip").touch()
    with pytest.raises(ValueError, match=r"a\.zip must be a folder or a manifest"):
        read_dataset(tmp_path / "a.zip")


def test_inconsistent_split_folders_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "test", {"a": 2, "c_d": 2})
    with pytest.raises(ValueError, match="needs training images; only in test: c_d"):
        read_dataset(tmp_path)
    write_classes(tmp_path / "val", {"a": 2})
    write_classes(tmp_path / "valid", {"a": 2})
    with pytest.raises(ValueError, match="one folder for each split, got val, valid"):
        read_dataset(tmp_path)
    picture(0).save(tmp_path / "train" / "loose.png")
    (tmp_path / "valid").rename(tmp_path / "other")
    with pytest.raises(ValueError, match="train must contain a folder for each class and no images next to them"):
        read_dataset(write_flat(tmp_path / "flat"))


def write_flat(root: Path) -> Path:
    """Write a train folder without class folders."""
    (root / "train").mkdir(parents=True)
    picture(0).save(root / "train" / "cat.1.png")
    return root


@pytest.mark.parametrize("holdout", [-0.1, 1, 2])
def test_invalid_holdouts_are_refused(tmp_path: Path, holdout: float) -> None:
    with pytest.raises(ValueError, match=r"holdout must lie in \[0, 1\)"):
        read_dataset(tmp_path, holdout=holdout)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_held_out_images_partition_each_class(labels: list[int], part: float, seed: int) -> None:
    dataset = fake_dataset(labels)
    split = hold_out(dataset, part, seed)
    assert set(split.train).isdisjoint(split.test)
    assert set(split.train) | set(split.test) == set(dataset.train)
    for label in set(labels):
        count, held = labels.count(label), sum(item.label == label for item in split.test)
        assert held == (0 if count == 1 else min(max(1, round(part * count)), count - 1))
    assert split == hold_out(dataset, part, seed)


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_classes(tmp_path, {"a": 9, "b": 9, "c": 9})
    expected = read_dataset(root)
    scan = os.scandir

    class Shuffled:
        def __init__(self, path: Path) -> None:
            self.entries = list(scan(path))
            random.Random(4).shuffle(self.entries)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert read_dataset(root) == expected


def test_classes_are_aligned_with_a_model() -> None:
    dataset = Dataset("d", ("cat", "dog"), test=(Item(Path("x"), 0), Item(Path("y"), 1)))
    aligned = align_classes(dataset, ["dog", "fox", "cat"])
    assert [item.label for item in aligned.test] == [2, 0]
    assert aligned.classes == ("dog", "fox", "cat")
    assert align_classes(dataset, ["cat", "dog"]) is dataset
    with pytest.raises(ValueError, match="among the 2 known ones; not among them: dog"):
        align_classes(dataset, ["fox", "cat"])


def test_unknown_splits_are_refused() -> None:
    dataset = fake_dataset([0, 1], test=[1])
    assert dataset.select("all") == dataset.train + dataset.test
    with pytest.raises(ValueError, match=r"Unknown split 'training'\. Known: train, val, test, all"):
        dataset.select("training")  # type: ignore[arg-type]
