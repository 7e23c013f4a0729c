"""Copies of an image: never on both sides of a drawn split, and noted in splits of the user."""

import io
import os
import random
import shutil
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.duplicates import find_duplicates
from selfprompt.data.holdout import hold_out
from selfprompt.data.loading.check_images import check_dataset
from selfprompt.data.readers.read import read_dataset
from tests.data.images import fake_dataset, picture, write_classes


def content(item: Item) -> bytes:
    return item.load().tobytes()


def on_both_sides(dataset: Dataset) -> set[bytes]:
    return set(map(content, dataset.train)) & set(map(content, dataset.test))


def as_manifest(root: Path, *, twice: bool) -> Path:
    rows = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.png"))]
    other = [row.replace("/", "/./", 1) if number % 2 else row for number, row in enumerate(rows)]
    (root / "list.csv").write_text("\n".join(["path,label", *rows, *(other if twice else ())]))
    return root / "list.csv"


def copied(root: Path, how: str) -> object:
    """Write two classes of eight images, each of them twice."""
    files = sorted(write_classes(root, {"a": 8, "b": 8}).rglob("*.png"))
    if how == "manifest":
        return as_manifest(root, twice=True)
    if how == "list of paths":
        return [(str(path), path.parent.name) for path in files for _ in range(2)]
    if how == "list of images":
        return [(image, path.parent.name) for path in files for image in (Image.open(path), Image.open(path))]
    for path in files:
        other = path.with_name(f"{path.stem} (copy).png")
        {"copy": shutil.copyfile, "link": os.symlink, "hard link": os.link}[how](path, other)
    return root


KINDS = ["manifest", "list of paths", "list of images", "copy", "link", "hard link"]


@pytest.mark.parametrize("how", KINDS)
def test_copies_never_cross_a_drawn_split(how: str, tmp_path: Path) -> None:
    dataset = read_dataset(copied(tmp_path / "data", how))
    assert dataset.held_out
    assert (len(dataset.train), len(dataset.test)) == (24, 8)
    assert not on_both_sides(dataset)
    assert any("16 training images are copies of others" in note for note in dataset.notes)


@pytest.mark.parametrize("suffix", ["bmp", "webp"])
def test_equal_pixels_in_another_file_are_removed_from_test(tmp_path: Path, suffix: str) -> None:
    root = write_classes(tmp_path / "data", {"a": 8, "b": 8})
    for path in sorted(root.rglob("*.png")):
        Image.open(path).save(path.with_suffix(f".{suffix}"), lossless=True)
    dataset = read_dataset(root)
    assert on_both_sides(dataset), "their bytes differ"
    checked, _ = check_dataset(dataset)
    assert not on_both_sides(checked)
    assert checked.train == dataset.train
    gone = len(dataset.test) - len(checked.test)
    assert gone > 0
    assert any(f"Left out {gone} test image" in note and "a/" in note for note in checked.notes)


def test_equal_pixels_of_objects_are_detected_when_they_are_read(tmp_path: Path) -> None:
    class Photos:
        targets = [0, 1] * 8

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return picture(index // 4 * 2 + index % 2), self.targets[index]

    checked, _ = check_dataset(read_dataset(Photos()))
    assert not on_both_sides(checked)
    assert len(checked.train) == 12


def test_copies_in_the_users_splits_are_noted_and_kept(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    shutil.copyfile(root / "train/a/1.png", root / "test/a/copy.png")
    dataset = read_dataset(root)
    assert len(dataset.test) == 5
    (note,) = [note for note in dataset.notes if "also" in note]
    assert note.startswith("1 of 5 test images is also a training image, so accuracy on them says nothing")
    assert note.endswith(": test/a/copy.png = train/a/1.png.")
    Image.open(root / "train/b/1.png").save(root / "test/b/again.bmp")
    checked, _ = check_dataset(read_dataset(root))
    assert len(checked.test) == 6
    assert [note for note in checked.notes if note.startswith("By their pixels: 1 of 6 test images is also a training")]


def test_a_test_folder_that_is_a_copy_of_train_is_noted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 3})
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    for source in (tmp_path, {"train": tmp_path / "train", "test": tmp_path / "test"}):
        (note,) = read_dataset(source).notes
        assert note.startswith("Every test image (6) is also a training image, so accuracy on them says nothing")


def test_a_picture_with_two_labels_is_noted_and_never_held_out(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"cat": 6, "dog": 6})
    for number in range(3):
        shutil.copyfile(root / f"cat/{number}.png", root / f"dog/cat {number}.png")
    dataset = read_dataset(root, holdout=0.6)
    assert not on_both_sides(dataset)
    (note,) = [note for note in dataset.notes if "label" in note]
    assert note.startswith("3 pictures with conflicting labels: cat/0.png (cat) = dog/cat 0.png")
    Image.open(root / "cat/5.png").save(root / "dog/x.bmp")
    checked, _ = check_dataset(read_dataset(root, holdout=0))
    assert any("By their pixels: 1 picture with conflicting labels" in note for note in checked.notes)


def test_a_single_picture_is_kept_for_training(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 4, "b": 1})
    for number in range(3):
        shutil.copyfile(root / "b/0.png", root / f"b/copy {number}.png")
    dataset = read_dataset(root)
    assert [item.label for item in dataset.test] == [0]
    assert any("which is kept for training: b" in note for note in dataset.notes)


def test_only_files_of_the_same_size_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in ("a", "b", "c", "d", "empty", "empty too")]
    for file, text in zip(files, ("same", "same", "else", "longer", "", ""), strict=True):
        file.write_text(text)
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    opened = []

    def record(file: str, mode: str) -> IO[bytes]:
        opened.append(Path(file).name)
        return io.open(file, mode)  # noqa: UP020 (the other one is replaced, and its caller closes it)

    monkeypatch.setattr("builtins.open", record)
    assert find_duplicates([*files, tmp_path / "pipe", tmp_path / "loop", tmp_path / "gone"]) == {
        tmp_path / "a": tmp_path / "a",
        tmp_path / "b": tmp_path / "a",
    }
    assert set(opened) == {"a", "b", "c"}


def published_rule(labels: list[int], part: float, seed: int) -> set[int]:
    """Return the indices held out by the rule that ignores copies."""
    chosen: set[int] = set()
    for label in set(labels):
        members = [index for index, other in enumerate(labels) if other == label]
        if len(members) > 1:
            count = min(max(1, round(part * len(members))), len(members) - 1)
            chosen.update(random.Random(f"{seed}:{len(members)}").sample(members, count))
    return chosen


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 99))
def test_without_copies_the_draw_is_unchanged(labels: list[int], part: float, seed: int) -> None:
    dataset = fake_dataset(labels)
    held = {dataset.train.index(item) for item in hold_out(dataset, part, seed).test}
    assert held == published_rule(labels, part, seed)
