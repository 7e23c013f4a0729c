"""Layouts of folders in downloads and at home: understood, or refused with advice."""

import os
from pathlib import Path

import pytest

from selfprompt.data.dataset import Dataset
from selfprompt.data.readers.label_inference import label_from_name
from selfprompt.data.readers.layout import detect_layout
from selfprompt.data.readers.read import read_dataset
from selfprompt.data.readers.splits import parse_split
from tests.data.images import picture, write_classes


def write(root: Path, *folders: str, count: int = 2) -> Path:
    """Write folders of different images; a path that ends with a file name is a single image."""
    for number, folder in enumerate(folders):
        if Path(folder).suffix in (".jpg", ".png"):
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            picture(1000 + number).save(root / folder)
            continue
        (root / folder).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            picture(100 * number + image).save(root / folder / f"{image}.png")
    return root


def sizes(dataset: Dataset) -> list[int]:
    return [images for _, images, *_ in dataset.summary()]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *[("train", "test"), ("Train", "Test"), ("train", "test1"), ("train_images", "test_images")],
        *[("training_set", "test_set"), ("training set", "test set"), ("TRAIN-DATA", "TEST-DATA")],
        *[("trainset", "testset"), ("TrainImages", "TestImages"), ("trn", "tst"), ("images_train", "images_test")],
        *[("seg_train", "seg_test"), ("dogs_train", "dogs_test"), ("train_resized", "test_resized")],
        *[("seg_train/seg_train", "seg_test/seg_test"), ("train/train", "test/test"), ("train/images", "test/images")],
    ],
)
@pytest.mark.parametrize("wrapping", ["", "photos", "archive (1)/dataset", "data"])
def test_names_of_split_folders(tmp_path: Path, wrapping: str, train: str, test: str) -> None:
    place = tmp_path / "root" / wrapping
    write(place, *(f"{split}/{name}" for split in (train, test) for name in ("cat", "dog")))
    dataset = read_dataset(tmp_path / "root")
    assert dataset.classes == ("cat", "dog")
    assert sizes(dataset) == [4, 0, 4]


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "validation_set", "dev", "eval", "val_images", "valset"])
def test_names_of_validation_folders(tmp_path: Path, val: str) -> None:
    write(tmp_path, *(f"{split}/{name}" for split in ("train", val, "test") for name in ("cat", "dog")))
    assert sizes(read_dataset(tmp_path)) == [4, 4, 4]


@pytest.mark.parametrize("word", ["train station", "test_tube", "bullet_train", "trainer", "contest", "4", ""])
def test_other_words_are_not_splits(word: str) -> None:
    assert parse_split(word) is None


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "bus", "car"),
        ("train/steam", "bus", "car"),
        ("test", "bus", "car"),
        ("Test", "Control"),
        ("valid", "invalid"),
        ("train_station", "test_tube"),
        ("fold", "crease"),
        ("images", "texts"),
        ("with_mask", "without_mask"),
        ("1", "2"),
        ("class 1", "class 2"),
    ],
)
def test_classes_may_be_named_like_splits_and_containers(tmp_path: Path, folders: tuple[str, ...]) -> None:
    dataset = read_dataset(write(tmp_path, *folders, count=4))
    assert set(dataset.classes) == {folder.split("/")[0].replace("_", " ") for folder in folders}
    assert sizes(dataset)[2] == len(folders)


def test_a_split_folder_next_to_its_classes(tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog", "test/cat", "test/dog")
    assert sizes(read_dataset(tmp_path)) == [4, 0, 4]
    os.rename(tmp_path / "test", tmp_path / "train")
    with pytest.raises(ValueError, match="either split folders or class folders, but it contains train and"):
        read_dataset(tmp_path)


def test_classes_that_contain_splits(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{split}" for name in ("bottle", "cable") for split in ("train/good", "test/broken")))
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("bottle", "cable")
    assert sizes(dataset) == [4, 0, 4]


def test_masks_next_to_their_images_are_noted(tmp_path: Path) -> None:
    write(
        tmp_path, *(f"{name}/{image}.png" for name in ("a", "b") for image in ("x (1)", "x (1)_mask", "x (1)_mask_1"))
    )
    write(tmp_path, "a/face_mask.png")
    names = "x (1)_mask.png, x (1)_mask.png, x (1)_mask_1.png and 1 more"
    note = f"4 images of here may be masks, but are used as photos: {names}."
    assert note.replace("here", tmp_path.name) in read_dataset(tmp_path).notes


@pytest.mark.parametrize("names", [("Cat", "Hot dog"), ("0_cat", "1_hot dog"), ("CAT", "hot-dog")])
def test_other_spellings_of_classes_in_a_split_are_suggested(tmp_path: Path, names: tuple[str, str]) -> None:
    write(tmp_path, *(f"train/{name}" for name in names), "test/cat", "test/hot_dog")
    with pytest.raises(ValueError, match=f"only in test: cat, hot_dog. train has {names[0]}, {names[1]}: name a class"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("inner", ["", "images/"])
def test_folders_in_all_classes_are_noted(tmp_path: Path, inner: str) -> None:
    write(tmp_path, *(f"{thing}/{inner}{state}" for thing in ("cable", "screw") for state in ("bad", "good")))
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("cable", "screw")
    assert "Each of the classes cable, screw contains the folders bad, good: they are not classes." in dataset.notes


def test_evaluation_next_to_validation_is_the_test_split(tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/{name}" for split in ("training", "validation", "evaluation") for name in ("a", "b")))
    dataset = read_dataset(tmp_path)
    assert sizes(dataset) == [4, 4, 4]
    assert {Path(str(item.source)).parts[-3] for item in dataset.test} == {"evaluation"}


@pytest.mark.parametrize("more", [(), ("Meta",)])
def test_a_test_folder_without_labels_is_left_out(tmp_path: Path, more: tuple[str, ...]) -> None:
    write(tmp_path, "train/cat", "train/dog", count=4)
    write(tmp_path, "test/1.png", "test/2.png", *more)
    dataset = read_dataset(tmp_path)
    assert sizes(dataset) == [6, 0, 2]
    assert "Left out test: it has 2 images outside class folders, so their labels are unknown." in dataset.notes


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("fold0/cat", "fold0/dog", "fold1/cat", "fold1/dog"),
            "fold0, fold1 look like the folds of a cross-validation",
        ),
        (("fold_1", "fold_2", "fold_10"), "folds of a cross-validation"),
        (("split1", "split2"), "folds of a cross-validation"),
        (("images", "masks"), "images, masks look like parts of a collection"),
        (("images_001/images", "images_002/images"), "images_001, images_002 look like parts of a collection"),
        (("train", "test1"), "train, test1 must contain a folder for each class and no images next to them"),
        (("train/train", "test1/test1"), "must contain a folder for each class and no images next to them"),
        (("train_images", "test_images"), "must contain a folder for each class and no images next to them"),
        (("training_set", "test_set", "masks"), "must contain a folder for each class and no images next to them"),
        (("rose", "lily", "flowers/rose", "flowers/lily"), "flowers contains lily, rose, which are also next to it"),
        (("Scans_part_1", "Scans_part_2"), "Scans_part_1, Scans_part_2 look like parts of a collection"),
        (("labeled/cat", "labeled/dog", "unlabeled"), r"Class folders seem to be in \S*labeled: give one of these"),
        (("Original Images/a", "Augmented Images/a"), "Augmented Images, Original Images look like parts"),
        (("train/a", "train/b", "dev/a", "dev/b", "held/a", "held/b"), "held also contains the classes of dev, train:"),
        (("train", "test", "Meta"), "train, test must contain a folder for each class"),
        (("train/a", "train/b", "train_2/a", "test/a"), "one folder for each split, got train, train_2"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_dataset(write(tmp_path, *folders))


JUNK = (
    *("@eaDir", "lost+found", "__pycache__", "$RECYCLE.BIN", "System Volume Information", ".ipynb_checkpoints"),
    *(".git", "__MACOSX", ".thumbnails", "#recycle", "Thumbs"),
)


def test_system_folders_are_left_out_at_every_level_and_counted(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", "cat", "dog", *JUNK, *(f"cat/{junk}" for junk in JUNK), "dog/@eaDir/x")
    dataset = read_dataset(root, holdout=0)
    assert dataset.classes == ("cat", "dog")
    assert sizes(dataset) == [4, 0, 0]
    (note,) = [note for note in dataset.notes if note.startswith(f"Left out {2 * len(JUNK) + 1} system folders")]
    assert "@eaDir (3)" in note


def test_system_folders_are_not_wrappers_or_splits(tmp_path: Path) -> None:
    write(tmp_path, "__MACOSX/train/cat", "data/train/cat", "data/train/dog", "data/train/@eaDir", "data/.x/test/cat")
    assert detect_layout(tmp_path).splits == {
        "train": {"cat": tmp_path / "data/train/cat", "dog": tmp_path / "data/train/dog"}
    }


def test_a_folder_of_a_known_class_is_not_a_wrapper(tmp_path: Path) -> None:
    write(tmp_path, "great_dane/indoor", "great_dane/outdoor")
    assert read_dataset(tmp_path, holdout=0).classes == ("indoor", "outdoor")
    assert read_dataset(tmp_path, holdout=0, known=["cat", "great dane"]).classes == ("great dane",)


# --- links ---


def test_a_link_to_itself_is_not_a_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", "cat", "dog")
    for folder in (root, root / "cat"):
        os.symlink("itself", folder / "itself")
        os.symlink("there", folder / "here")
        os.symlink("here", folder / "there")
        os.symlink("nowhere", folder / "broken")
        os.symlink(folder / "back.png", folder / "back.png")
    os.mkfifo(root / "cat" / "pipe")
    os.mkfifo(root / "cat" / "pipe.png")
    dataset = read_dataset(root, holdout=0)
    assert dataset.classes == ("cat", "dog")
    assert sum("pipe" not in str(item.source) and "back" not in str(item.source) for item in dataset.train) == 4


@pytest.mark.parametrize("target", [".", "dog", "dog/deep", "/"])
def test_a_class_that_reaches_other_classes_through_a_link_is_refused(tmp_path: Path, target: str) -> None:
    root = write(tmp_path / "pets", "cat", "dog", "dog/deep")
    os.symlink(root / target, root / "cat" / "more")
    with pytest.raises(ValueError, match=r"must belong to one class, but .* links to .*remove the link"):
        read_dataset(root)


def test_two_classes_in_one_folder_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", "cat")
    os.symlink(root / "cat", root / "dog")
    with pytest.raises(ValueError, match=r"must belong to one class.*which belongs to class 'cat'"):
        read_dataset(root)


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "a", "b")
    (tmp_path / "pets").mkdir()
    os.symlink(tmp_path / "elsewhere/a", tmp_path / "pets/cat")
    os.symlink(tmp_path / "elsewhere/b", tmp_path / "pets/dog")
    os.symlink(tmp_path / "pets", tmp_path / "link")
    assert sizes(read_dataset(tmp_path / "link", holdout=0)) == [4, 0, 0]


# --- inferred labels ---


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *[
            ("cat.0.jpg", "cat"),
            ("dog_12.png", "dog"),
            ("great_dane_12.jpg", "great_dane"),
            ("cat (3).jpg", "cat"),
        ],
        *[("0001-cat.jpg", "cat"), ("IMG_1234.JPG", ""), ("12.jpg", ""), ("cat.jpg", ""), ("DSC00012.jpg", "")],
    ],
)
def test_labels_from_names(name: str, label: str) -> None:
    assert label_from_name(name) == label


def labels_in_file_names(root: Path) -> Path:
    write(root, *(f"train/{name}.{number}.jpg" for name in ("cat", "dog") for number in range(4)))
    return write(root, *(f"test1/{number}.jpg" for number in range(3)))


def labels_in_table(root: Path) -> Path:
    write(root, *(f"train/{number:04x}.jpg" for number in range(8)), *(f"test/{number:04x}.jpg" for number in range(3)))
    rows = [f"{number:04x},{9 * number},{'boxer' if number % 2 else 'pug'}" for number in range(8)]
    (root / "labels.csv").write_text("\n".join(["id,size,breed", *rows]))
    (root / "sample_submission.csv").write_text("id,boxer,pug\n0000,0.5,0.5\n0001,0.5,0.5\n")
    return root


def images_and_masks(root: Path) -> Path:
    names = [f"{name}_{number}.png" for name in ("cat", "dog") for number in range(4)]
    return write(root, *(f"{place}/{name}" for place in ("images", "annotations/trimaps") for name in names))


def labels_next_to_one_folder(root: Path) -> Path:
    write(root, *(f"images/{number}.png" for number in range(8)))
    rows = [f"images\\{number}.png\t{'healthy' if number < 4 else 'sick'}" for number in range(8)]
    (root / "meta.tsv").write_text("\n".join(["image\tdiagnosis", *rows]), encoding="utf-16")
    return root


def images_in_one_folder(root: Path) -> Path:
    return write(root, *(f"all of them/{name}_{number}.jpg" for name in ("cat", "dog") for number in range(4)))


def images_without_folder(root: Path) -> Path:
    return write(root, *(f"{name}_{number}.jpg" for name in ("cat", "dog") for number in range(4)))


def one_hot_table(root: Path) -> Path:
    write(root, *(f"{number}.jpg" for number in range(8)))
    rows = [f"{number}, {int(number < 4)}, {int(number >= 4)}" for number in range(8)]
    (root / "_classes.csv").write_text("\n".join(["filename, cat, dog", *rows]))
    return root


@pytest.mark.parametrize(
    ("make", "place", "classes"),
    [
        (labels_in_file_names, "The file names", "cat (4), dog (4)"),
        (labels_in_table, "The columns id and breed of labels.csv", "boxer (4), pug (4)"),
        (labels_next_to_one_folder, "The columns image and diagnosis of meta.tsv", "healthy (4), sick (4)"),
        (images_and_masks, "The file names", "cat (4), dog (4)"),
        (images_in_one_folder, "The file names", "cat (4), dog (4)"),
        (images_without_folder, "The file names", "cat (4), dog (4)"),
        (one_hot_table, "The columns filename and cat, dog of _classes.csv", "cat (4), dog (4)"),
    ],
)
def test_inferred_labels_are_suggested_and_written(tmp_path: Path, run, make, place: str, classes: str) -> None:
    root = make(tmp_path / "pets")
    with pytest.raises(ValueError, match="data manifest") as caught:
        read_dataset(root)
    assert f"{place} seem to contain the classes: {classes}." in str(caught.value)
    done = run("data", "manifest", root)
    assert done.status == 0
    assert classes in done.out
    dataset = read_dataset(root / "manifest.csv")
    assert sizes(dataset) == [6, 0, 2]
    assert not any("/test" in str(item.source.relative_to(root)) for item in dataset.train + dataset.test)
    for item in dataset.train:
        item.load()
    assert run("data", "manifest", root).status == 1, "never written over"
    assert run("data", "manifest", root, "--out", tmp_path / "other.csv").status == 0
    assert sizes(read_dataset(tmp_path / "other.csv")) == [6, 0, 2]


def test_a_manifest_needs_labels(tmp_path: Path, run) -> None:
    done = run("data", "manifest", write_classes(tmp_path, {"IMG": 3}))
    assert done.status == 1
    assert "neither the file names nor a table give labels" in done.err


def test_tables_of_one_form_are_joined(tmp_path: Path, run) -> None:
    for split in ("train", "valid", "test"):
        write(tmp_path, *(f"{split}/{number}.jpg" for number in range(4)))
        boxes = [f"{number}.jpg,{'cat' if number < 2 else 'dog'},1,2" for number in range(4)]
        (tmp_path / split / "_annotations.csv").write_text("\n".join(["filename,class,xmin,ymin", *boxes, *boxes]))
    done = run("data", "manifest", tmp_path)
    assert "of test/_annotations.csv, train/_annotations.csv, valid/_annotations.csv contain the classes" in done.out
    dataset = read_dataset(tmp_path / "manifest.csv")
    assert sizes(dataset) == [4, 4, 4]
    assert dataset.classes == ("cat", "dog")


def test_one_attribute_of_many_is_not_a_label(tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.jpg" for number in range(8)))
    rows = [f"{number}.jpg,{number % 2},1,{int(number > 2)}" for number in range(8)]
    (tmp_path / "attributes.csv").write_text("\n".join(["file,hat,smile,beard", *rows]))
    with pytest.raises(ValueError, match="Sort them into folders"):
        read_dataset(tmp_path)
