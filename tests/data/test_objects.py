"""Data set objects: torchvision's, Hugging Face's, lists and dicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms.functional import to_tensor

from selfprompt.data.items import IndexedSource
from selfprompt.data.sources import read_dataset
from selfprompt.data.store import check_dataset
from tests.data.images import picture, write_classes


class Photos:
    """A data set in torchvision's manner that counts what it decodes."""

    def __init__(self, given: list[int], **attributes: Any) -> None:
        self.read: list[int] = []
        self.given = given
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.read.append(index)
        image = picture(index)
        return getattr(self, "transform", lambda image: image)(image), self.given[index]


LABELS = [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("attribute", ["targets", "_labels", "labels", "y"])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_are_read_without_decoding(attribute: str, kind: Any) -> None:
    photos = Photos(LABELS, classes=[("a_b", "other"), "c"], **{attribute: kind(LABELS)})
    dataset = read_dataset(photos, holdout=0)
    assert (dataset.name, dataset.classes, photos.read) == ("Photos", ("a b", "c"), [])
    assert [item.label for item in dataset.train] == LABELS
    assert np.array_equal(np.asarray(dataset.train[2].load()), np.asarray(picture(2)))
    assert photos.read == [2]


def test_labels_are_decoded_where_nothing_else_helps() -> None:
    photos = Photos(LABELS)
    dataset = read_dataset(photos, holdout=0)
    assert dataset.classes == ("class 0", "class 1")
    assert photos.read == list(range(6))
    assert "Photos does not tell its labels: 6 images were read" in dataset.notes[0]


def test_a_tensor_transform_is_undone_and_told() -> None:
    photos = Photos(LABELS, targets=LABELS, transform=to_tensor)
    dataset = read_dataset(photos, holdout=0)
    assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1)))
    assert dataset.notes == ("The transform of Photos is applied before ours, once.",)
    normalised = read_dataset(Photos(LABELS, targets=LABELS, transform=lambda image: to_tensor(image) - 5))
    with pytest.raises(ValueError, match=r"none is left of: class 0, class 1\. Unreadable: Photos\[\d\]: pixel values"):
        check_dataset(normalised)


def test_image_folder_gives_its_paths(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"b": 2, "a": 3})
    dataset = read_dataset(ImageFolder(str(root), transform=to_tensor), holdout=0)
    assert [item.source for item in dataset.train] == [item.source for item in read_dataset(root, holdout=0).train]
    assert dataset.classes == ("a", "b")
    assert dataset.notes == ("The transform of ImageFolder is not used.",)


def test_subsets_keep_labels_and_names(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 3, "b": 3})
    dataset = read_dataset(Subset(ImageFolder(str(root)), [5, 0]), holdout=0)
    assert [(item.source, item.label) for item in dataset.train] == [
        (root / "b/2.png", 1),
        (root / "a/0.png", 0),
    ]
    nested = read_dataset(Subset(Subset(Photos(LABELS, targets=LABELS), [0, 1, 3]), [2, 0]), holdout=0)
    assert [item.label for item in nested.train] == [0, 1]
    assert np.array_equal(np.asarray(nested.train[0].load()), np.asarray(picture(3)))


def test_torchvisions_own_fake_data() -> None:
    dataset = read_dataset(FakeData(size=12, image_size=(3, 8, 8), num_classes=3))
    assert sum(row[1] for row in dataset.summary()) == 12
    assert dataset.select("all")[0].load().size == (8, 8)


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (Photos([-1, 0], targets=[-1, 0]), r"Labels must lie in 0\.\.0, got -1 \(1 image\)"),
        (Photos([0, 2], targets=[0, 2], classes=["a", "b"]), r"Labels must lie in 0\.\.1, got 2"),
        (Photos([0, 1], targets=[(0, 1), (1, 1)]), r"one class number, got \(0, 1\)"),
        (Photos([0, 1], targets=[0, 1], target_transform=abs), "has a target_transform"),
        (Photos([0, 0], targets=[0, 0]), "at least 2 classes, got class 0 in Photos"),
    ],
)
def test_labels_that_cannot_be_used_are_named(photos: Photos, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_dataset(photos)


def test_pairs_of_images_and_class_names(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    pairs = [(picture(0), "sea_lion"), (tmp_path / "1.png", "cat"), (str(tmp_path / "1.png"), "cat")]
    dataset = read_dataset(pairs, holdout=0)
    assert (dataset.name, dataset.classes) == ("images", ("cat", "sea lion"))
    assert isinstance(dataset.train[0].source, IndexedSource)
    assert [item.label for item in dataset.train] == [1, 0, 0]
    assert all(item.load().size == picture(0).size for item in dataset.train)


def test_pairs_of_images_and_numbers() -> None:
    pairs = [(np.asarray(picture(index)), np.int64(index % 2)) for index in range(4)]
    dataset = read_dataset(pairs, holdout=0)
    assert dataset.classes == ("class 0", "class 1")
    assert read_dataset(pairs, classes=["a", "b"], holdout=0).classes == ("a", "b")
    assert str(dataset.train[3].source) == "images[3]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([picture(0)], "must hold pairs"),
        ([(picture(0), 1.5)], "all ints or all class names, got float"),
        ([(picture(0), 1), (picture(0), "a")], "got int, str"),
        ([(7, "a")], "Pair 0 must hold an image or its path, got int"),
        (7, "A data source must be a folder, .*got int"),
        (iter([]), "got list_iterator"),
    ],
)
def test_unknown_kinds_are_refused(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_dataset(source)


def test_dicts_of_splits(tmp_path: Path) -> None:
    photos = Photos(LABELS, targets=LABELS, classes=["a", "b"])
    few = Photos(LABELS[:2], targets=LABELS[:2], classes=["a", "b"])
    dataset = read_dataset({"test": few, "training": photos})
    assert [row[1] for row in dataset.summary()] == [6, 0, 2]
    folders = {split: write_classes(tmp_path / split, {"a": 2, "b": 2}) for split in ("one", "two")}
    dataset = read_dataset({"train": folders["one"], "val": str(folders["two"])}, holdout=0)
    assert [row[1] for row in dataset.summary()] == [4, 4, 0]


def test_dicts_that_do_not_fit_are_refused() -> None:
    photos = Photos(LABELS, targets=LABELS, classes=["a", "b"])
    with pytest.raises(ValueError, match="Unknown split 'extra' among train, extra"):
        read_dataset({"train": photos, "extra": photos})
    with pytest.raises(ValueError, match="Repeated split 'training'"):
        read_dataset({"train": photos, "training": photos})
    with pytest.raises(ValueError, match="name classes alike; 1 is 'b' and 'c'"):
        read_dataset({"train": photos, "test": Photos(LABELS, targets=LABELS, classes=["a", "c"])})
    with pytest.raises(ValueError, match="must have the same classes; test, train differ"):
        read_dataset({"train": photos, "test": Photos(LABELS, targets=LABELS, classes=["a", "b", "c"])})


@pytest.mark.slow  # importing datasets takes seconds
def test_hugging_face_data_sets() -> None:
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea_lion", "cat"])})
    rows = {"image": [picture(index) for index in range(4)], "label": [1, 0, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=kinds)
    dataset = read_dataset(table, holdout=0)
    assert dataset.classes == ("sea lion", "cat")
    assert [item.label for item in dataset.train] == [1, 0, 1, 0]
    assert np.array_equal(np.asarray(dataset.train[3].load()), np.asarray(picture(3)))

    splits = datasets.DatasetDict(train=table, validation=table.select([0, 1]))
    assert [row[1] for row in read_dataset(splits.with_format("torch")).summary()] == [2, 2, 2]

    words = datasets.Dataset.from_dict({"img": rows["image"], "label": ["b", "a", "b", "a"]}).cast_column(
        "img", datasets.Image()
    )
    assert read_dataset(words).classes == ("a", "b")
    broken = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": None}] * 2, "label": [0, 1]}, features=kinds
    )
    with pytest.raises(ValueError, match=r"Unreadable: data set\[0\]: "):
        check_dataset(read_dataset(broken, holdout=0))
    unlabelled = datasets.Dataset.from_dict({"image": rows["image"], "label": [-1] * 4}, features=kinds)
    with pytest.raises(ValueError, match="Labels below 0 mean unlabelled: leave that split out"):
        read_dataset({"train": table, "test": unlabelled})
    with pytest.raises(ValueError, match="needs a ClassLabel"):
        read_dataset(table.remove_columns("label"))
    with pytest.raises(ValueError, match="streaming"):
        read_dataset(table.to_iterable_dataset())
