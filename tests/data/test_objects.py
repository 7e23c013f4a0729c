"""Data set objects: torchvision's, Hugging Face's, lists and dicts."""

import io
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder, FakeData, ImageFolder
from torchvision.transforms.functional import to_tensor

from selfprompt.data.dataset import IndexedSource
from selfprompt.data.loading.check_images import check_dataset
from selfprompt.data.readers.read import read_dataset
from tests.data.images import picture, write_classes


class Photos:
    """A data set like torchvision's that records which items it decodes."""

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
def test_items_of_a_user_data_set_are_read(attribute: str, kind: Any) -> None:
    """Its lists may contradict its items; if they agree, its class names are used."""
    photos = Photos(LABELS, classes=[("a_b", "other"), "c"], **{attribute: kind(LABELS)})
    dataset = read_dataset(photos, holdout=0)
    assert (dataset.name, dataset.classes, photos.read) == ("Photos", ("a b", "c"), list(range(6)))
    assert [item.label for item in dataset.train] == LABELS
    assert np.array_equal(np.asarray(dataset.train[2].load()), np.asarray(picture(2)))
    wrong = Photos(LABELS, classes=["a", "b"], **{attribute: kind([1 - label for label in LABELS])})
    dataset = read_dataset(wrong, holdout=0)
    assert ([item.label for item in dataset.train], dataset.classes) == (LABELS, ("class 0", "class 1"))
    assert "The items of Photos have other labels than it lists, so its class names are not used." in dataset.notes


def test_items_are_decoded_if_labels_are_not_listed() -> None:
    photos = Photos(LABELS)
    dataset = read_dataset(photos, holdout=0)
    assert dataset.classes == ("class 0", "class 1")
    assert photos.read == list(range(6))
    assert "Photos does not list its labels: 6 images were read" in dataset.notes[0]


def test_a_tensor_transform_is_undone_and_noted() -> None:
    photos = Photos(LABELS, targets=LABELS, transform=to_tensor)
    dataset = read_dataset(photos, holdout=0)
    assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1)))
    assert "The transform of Photos is applied before ours." in dataset.notes
    normalised = read_dataset(Photos(LABELS, targets=LABELS, transform=lambda image: to_tensor(image) - 5))
    with pytest.raises(ValueError, match=r"none is left of: class 0, class 1\. Unreadable: Photos\[\d\]: pixel values"):
        check_dataset(normalised)


def test_image_folder_gives_its_paths(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"b": 2, "a": 3})
    dataset = read_dataset(ImageFolder(str(root)), holdout=0)
    assert [item.source for item in dataset.train] == [item.source for item in read_dataset(root, holdout=0).train]
    assert (dataset.classes, dataset.notes) == (("a", "b"), ())


def test_subsets_keep_labels_and_names(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 3, "b": 3})
    dataset = read_dataset(Subset(ImageFolder(str(root)), [5, 0]), holdout=0)
    assert [(item.source, item.label) for item in dataset.train] == [
        (root / "b/2.png", 1),
        (root / "a/0.png", 0),
    ]
    assert dataset.classes == ("a", "b")
    photos = Photos(LABELS, targets=LABELS, classes=["a", "b"])
    nested = read_dataset(Subset(Subset(photos, [0, 1, 3]), [2, 0]), holdout=0)
    assert ([item.label for item in nested.train], nested.classes) == ([0, 1], ("a", "b"))
    assert np.array_equal(np.asarray(nested.train[0].load()), np.asarray(picture(3)))


class Items:
    """A user data set with these items; an item that is an exception is raised."""

    def __init__(self, *items: Any, **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Flipped(ImageFolder):
    """A subclass with other labels and images than its lists say."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return image.rotate(180), 1 - label


class Wrapper:
    """The same, as a wrapper that looks like a subset."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[self.indices[index]]
        return image.rotate(180), 1 - label


@pytest.mark.parametrize(
    "changed",
    [
        lambda root: Flipped(root),
        lambda root: Subset(Flipped(root), [0, 1, 2, 3]),
        lambda root: Wrapper(ImageFolder(root), [0, 1, 2, 3]),
        lambda root: ImageFolder(
            root, transform=lambda image: image.rotate(180), target_transform=lambda label: 1 - label
        ),
    ],
    ids=["subclass", "subset of one", "wrapper", "transforms"],
)
def test_objects_that_change_images_and_labels_are_read_item_by_item(tmp_path: Path, changed: Any) -> None:
    root = write_classes(tmp_path, {"a": 2, "b": 2})
    dataset = read_dataset(changed(str(root)), holdout=0)
    assert [item.label for item in dataset.train] == [1, 1, 0, 0]
    assert dataset.classes == ("class 0", "class 1"), "the names belong to the listed labels"
    assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1).rotate(180)))


def test_missing_indices_of_subsets_are_refused_or_noted(tmp_path: Path) -> None:
    photos = ImageFolder(str(write_classes(tmp_path, {"a": 2, "b": 2})))
    with pytest.raises(ValueError, match=r"Subset\[1\]"):
        read_dataset(Subset(photos, [0, 99, 2]), holdout=0, on_bad="fail")
    dataset = read_dataset(Subset(photos, [0, 99, 2]), holdout=0)
    assert [item.label for item in dataset.train] == [0, 1]
    assert any("Subset[1]" in note for note in dataset.notes)


def test_custom_loaders_are_used(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 2, "b": 2})
    red = ImageFolder(str(root), loader=lambda path: Image.new("RGB", (5, 5), "red"))
    dataset = read_dataset(red, holdout=0)
    assert dataset.classes == ("a", "b")
    assert dataset.train[0].load().getpixel((0, 0)) == (255, 0, 0)
    for index, path in enumerate(sorted(root.rglob("*.png"))):
        np.save(path.with_suffix(".npy"), np.asarray(picture(index)))
    dataset = read_dataset(DatasetFolder(str(root), np.load, (".npy",)), holdout=0)
    assert [item.label for item in dataset.train] == [0, 0, 1, 1]
    assert np.array_equal(np.asarray(dataset.train[3].load()), np.asarray(picture(3)))


@pytest.mark.parametrize(
    ("given", "labels", "classes"),
    [
        ([torch.tensor(1), torch.tensor(0)], [1, 0], ("class 0", "class 1")),
        ([np.int64(1), np.uint8(0)], [1, 0], ("class 0", "class 1")),
        ([np.array([1]), torch.tensor([0])], [1, 0], ("class 0", "class 1")),
        ([1.0, np.float32(0)], [1, 0], ("class 0", "class 1")),
        ([True, False], [1, 0], ("False", "True")),
        ([np.bool_(True), np.bool_(False)], [1, 0], ("False", "True")),
        (["b", np.str_("a")], [1, 0], ("a", "b")),
        ([b"b", b"a"], [1, 0], ("a", "b")),
    ],
)
def test_labels_of_every_kind(given: list[Any], labels: list[int], classes: tuple[str, ...]) -> None:
    pairs = [(picture(index), label) for index, label in enumerate(given)]
    for source in (pairs, Items(*pairs)):
        dataset = read_dataset(source, holdout=0)
        assert ([item.label for item in dataset.train], dataset.classes) == (labels, classes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.eye(2)[0], np.eye(2)[1]], r"\[0\] must have one class number, got 2 values \(one-hot"),
        ([0, None], r"\[1\] has no label \(it is None\)"),
        ([0, float("nan")], r"\[1\] has no label \(it is nan\)"),
        ([0, 1.5], r"all class names, got float 1\.5 at \w+\[1\]"),
        ([0, 1, "a"], r"got int, str: 0 \(\w+\[0\]\) and 'a' \(\w+\[2\]\)"),
        ([{"a": 1}, 1], r"\[0\] must have one class number, got \{'a': 1\}"),
    ],
)
def test_invalid_labels_are_refused(given: list[Any], message: str) -> None:
    pairs = [(picture(index), label) for index, label in enumerate(given)]
    for source in (pairs, Items(*pairs)):
        with pytest.raises((TypeError, ValueError), match=message):
            read_dataset(source)


@dataclass
class Sample:
    """An item with attributes."""

    label: int
    image: Any


@pytest.mark.parametrize(
    "item",
    [
        lambda image, label: {"image": image, "label": label},
        lambda image, label: {"pixel_values": to_tensor(image), "labels": torch.tensor(label), "id": 3},
        lambda image, label: namedtuple("Row", "id target img")(3, label, image),
        lambda image, label: namedtuple("Row", "pixels_of_it number")(image, label),
        lambda image, label: Sample(label, image),
        lambda image, label: [np.asarray(image), label],
    ],
)
def test_items_of_every_form(item: Any) -> None:
    items = [item(picture(index), index) for index in range(2)]
    for source in (Items(*items), items):
        dataset = read_dataset(source, holdout=0)
        assert [item.label for item in dataset.train] == [0, 1]
        assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1)))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((picture(0), 0, "a"), r"must be a pair \(image, label\), got 3 values"),
        ((0, picture(0)), "Its label comes first"),
        (picture(0), "got Image without a label"),
        ({"photo_of_it": picture(0), "label": 0}, "needs an image under .*; its keys are: photo_of_it, label"),
        ({"image": picture(0)}, "needs a label under one of the keys label, .*; its keys are: image"),
    ],
)
def test_items_of_other_forms_are_refused(item: Any, message: str) -> None:
    for source in (Items(item), [item]):
        with pytest.raises(TypeError, match=message):
            read_dataset(source)


def test_unreadable_items_are_noted() -> None:
    items = Items((picture(0), 0), KeyError("b"), (picture(1), 1), OSError("the disk is gone"), None)
    dataset = read_dataset(items, holdout=0)
    assert [item.label for item in dataset.train] == [0, 1]
    assert (
        "Left out 3 items that cannot be read, so that their labels are unknown: "
        "Items[1]: KeyError: 'b'; Items[3]: the disk is gone; Items[4]: it is None."
    ) in dataset.notes
    with pytest.raises(ValueError, match=r"3 items of Items cannot be read: Items\[1\]: KeyError: 'b'; "):
        read_dataset(items, on_bad="fail")
    with pytest.raises(ValueError, match=r"Items has no item that can be read: Items\[0\]: KeyError: 'b'\."):
        read_dataset(Items(KeyError("b")))


def test_an_item_whose_label_is_known_is_a_bad_image() -> None:
    items = Items((picture(0), 0), KeyError("b"), (picture(1), 1), targets=[0, 1, 1])
    dataset = read_dataset(items, holdout=0)
    assert [item.label for item in dataset.train] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"1 image cannot be read: Items\[1\]: KeyError: 'b'"):
        check_dataset(dataset, on_bad="fail")


def test_a_length_that_is_too_large() -> None:
    items = Items((picture(0), 0), (picture(1), 1), IndexError("end"), IndexError("end"))
    dataset = read_dataset(items, holdout=0)
    assert len(dataset.train) == 2
    assert "Items has 2 items, though its length is 4." in dataset.notes


def test_class_names_of_user_data_sets() -> None:
    pairs = [(picture(0), 3), (picture(1), 7)]
    assert read_dataset(Items(*pairs, class_to_idx={"cat": 3, "dog": 7}), holdout=0).classes == ("cat", "dog")
    with pytest.raises(ValueError, match=r"Labels must be among 3, 5, got 7 \(1 image\)"):
        read_dataset(Items(*pairs, class_to_idx={"cat": 3, "dog": 5}))
    words = [(picture(0), "dog"), (picture(1), "cat")]
    assert read_dataset(Items(*words, classes=["dog", "cat"]), holdout=0).classes == ("dog", "cat")
    some = read_dataset(Items((picture(0), 0), (picture(1), 2), classes=["a", "b", "c"]), holdout=0)
    assert (some.classes, some.notes[-1]) == (("a", "b", "c"), "Items has no image of b.")


def test_concatenated_data_sets_must_agree(tmp_path: Path) -> None:
    one, two = (write_classes(tmp_path / name, {"a": 1, name: 1}) for name in ("one", "two"))
    dataset = read_dataset(ConcatDataset([ImageFolder(str(one)), ImageFolder(str(one))]), holdout=0)
    assert (dataset.classes, len(dataset.train)) == (("a", "one"), 4)
    with pytest.raises(ValueError, match="number their classes alike; 1 is 'one' and 'two'"):
        read_dataset(ConcatDataset([ImageFolder(str(one)), ImageFolder(str(two))]))


def test_images_by_path_bytes_and_open_file(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 1, "b": 1})
    path = root / "a" / "0.png"
    with path.open("rb") as file:
        images = [str(path), path, path.read_bytes(), file, io.BytesIO(path.read_bytes())]
        images += [{"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}]
        dataset = read_dataset([(image, index) for index, image in enumerate(images)], holdout=0)
        for item in (*dataset.train, *dataset.train):
            assert np.array_equal(np.asarray(item.load()), np.asarray(picture(0)))
        assert not file.closed
    with pytest.raises(ValueError, match=r"images\[0\]: 'https://a.org/b.png' cannot be an image: it is a URL"):
        read_dataset([("https://a.org/b.png", 0), (path, 1)])


class Stream(IterableDataset):
    """A data set that cannot be indexed."""

    def __iter__(self) -> Any:
        yield picture(0), 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataLoader(Items((picture(0), 0))), r"got DataLoader: give the loader's data set, loader\.dataset"),
        (((picture(0), 0) for _ in range(2)), r"got generator: .* give a list of its pairs, list\(\.\.\.\)"),
        (zip([picture(0)], [0], strict=True), "got zip: .* give a list of its pairs"),
        (Stream(), "got Stream: .* cannot be indexed"),
        (np.zeros((4, 8, 8, 3), np.uint8), r"got ndarray: .* list\(zip\(images, labels\)\)"),
        ((np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)), r"Give list\(zip\(images, labels\)\)"),
        (TensorDataset(torch.rand(4, 3, 8, 8)), r"must be a pair \(image, label\), got 1 value"),
    ],
)
def test_other_objects_are_refused_with_advice(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_dataset(source)


def test_torchvisions_own_fake_data() -> None:
    dataset = read_dataset(FakeData(size=12, image_size=(3, 8, 8), num_classes=3))
    assert sum(row[1] for row in dataset.summary()) == 12
    assert dataset.select("all")[0].load().size == (8, 8)


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (Photos([-1, 0], targets=[-1, 0]), r"Labels must lie in 0\.\.0, got -1 \(1 image\)"),
        (Photos([0, 2], targets=[0, 2], classes=["a", "b"]), r"Labels must lie in 0\.\.1, got 2"),
        (Photos([(0, 1), (1, 1)]), r"Photos\[0\] must have one class number, got \(0, 1\)"),
        (Photos([0, 0], targets=[0, 0]), "at least 2 classes, got class 0 in Photos"),
    ],
)
def test_unusable_labels_are_refused(photos: Photos, message: str) -> None:
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
        ([(7, "a")], r"images\[0\] must have an image or its path, got int"),
        (7, "A data source must be a folder, .*got int"),
        (iter([]), "got list_iterator"),
    ],
)
def test_unknown_types_are_refused(source: Any, message: str) -> None:
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


def test_too_few_classes_of_objects_do_not_mention_folders() -> None:
    with pytest.raises(ValueError, match=r"at least 2 classes, got none in images\.$"):
        read_dataset([])
    with pytest.raises(ValueError, match=r"at least 2 classes, got a in images\.$"):
        read_dataset([(picture(0), "a")])


def test_inconsistent_dicts_are_refused() -> None:
    photos = Photos(LABELS, targets=LABELS, classes=["a", "b"])
    with pytest.raises(ValueError, match="Unknown split 'extra' among train, extra"):
        read_dataset({"train": photos, "extra": photos})
    with pytest.raises(ValueError, match="Repeated split 'training'"):
        read_dataset({"train": photos, "training": photos})
    with pytest.raises(ValueError, match="name classes alike; 1 is 'b' and 'c'"):
        read_dataset({"train": photos, "test": Photos(LABELS, targets=LABELS, classes=["a", "c"])})
    with pytest.raises(ValueError, match=r"must have the same classes, numbered alike, but train has .*; test has "):
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


def png(seed: int) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow  # importing datasets takes seconds
def test_hugging_face_columns_of_every_type(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for index in range(2):
        picture(index).save(tmp_path / f"{index}.png")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    whole = datasets.Dataset.from_dict({"image": [picture(0), picture(1)], "label": [0, 1]}, features=kinds)
    files = {"bytes": [png(0), png(1)], "path": [str(tmp_path / "0.png"), str(tmp_path / "1.png")]}
    tables = [
        whole,
        whole.cast_column("image", datasets.Image(decode=False)),
        datasets.Dataset.from_dict({"image": files["bytes"], "label": [0.0, 1.0]}),
        datasets.Dataset.from_dict({"image": [{"bytes": data, "path": None} for data in files["bytes"]], "y": [0, 1]}),
        datasets.Dataset.from_dict({"Image_Path": files["path"], "Category": ["cat", "dog"]}),
        datasets.Dataset.from_dict({"img": files["path"], "label": [False, True]}),
    ]
    for table in tables:
        dataset = read_dataset(table, holdout=0)
        assert [item.label for item in dataset.train] == [0, 1]
        assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1)))
    for columns, message in [
        ({"image": files["path"], "breed": ["a", "b"]}, r"image \(string\), breed \(string\)\. Rename the"),
        ({"text": ["a", "b"], "label": [0, 1]}, r"needs an Image column; .*rename_column\(\.\.\., 'image'\)"),
        ({"image": ["http://a.org/b.png"] * 2, "label": [0, 1]}, "column 'image' must hold paths .* a URL"),
        ({"image": files["path"], "label": [None, 1]}, r"data set\[0\] has no label"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_dataset(datasets.Dataset.from_dict(columns))


@pytest.mark.slow  # importing datasets takes seconds
def test_items_of_hugging_face_transforms_and_subclasses_are_read() -> None:
    datasets = pytest.importorskip("datasets")

    class Flipped(datasets.Dataset):  # type: ignore[name-defined, misc]
        def __getitem__(self, index: Any) -> Any:
            row = super().__getitem__(index)
            return row if not isinstance(index, int) else {**row, "label": 1 - row["label"]}

    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict({"image": [picture(0), picture(1)], "label": [0, 1]}, features=kinds)

    def turned(rows: Any) -> Any:
        images = [image.rotate(180) for image in rows["image"]]
        return {"pixel_values": images, "labels": [1 - label for label in rows["label"]]}

    for changed in (table.with_transform(turned), Flipped(table.data, info=table.info)):
        dataset = read_dataset(changed, holdout=0)
        assert ([item.label for item in dataset.train], dataset.classes) == ([1, 0], ("class 0", "class 1"))
    bright = table.with_transform(lambda rows: {**rows, "image": [image.rotate(180) for image in rows["image"]]})
    dataset = read_dataset(bright, holdout=0)
    assert dataset.classes == ("cat", "dog")
    assert np.array_equal(np.asarray(dataset.train[1].load()), np.asarray(picture(1).rotate(180)))
