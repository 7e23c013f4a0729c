"""The five fine-grained data sets: VPT's JSON splits and SPT's lists."""

from pathlib import Path

import pytest

from selfprompt.data.suites import list_tasks, load_task
from tests.data.roots import write_image, write_text, write_vpt

BIRDS = {
    "train": {"001.Black_footed_Albatross/a.jpg": 1, "200.Common_Yellowthroat/b.jpg": 200, "013.Bobolink/c.jpg": 13},
    "val": {"001.Black_footed_Albatross/d.jpg": 1},
    "test": {"013.Bobolink/e.jpg": 13, "200.Common_Yellowthroat/f.jpg": 200},
}


def test_vpt_splits_share_one_numbering_of_classes(tmp_path: Path) -> None:
    target = write_vpt(tmp_path / "fgvc/CUB_200_2011", "images", BIRDS)
    dataset = load_task("fgvc/cub", tmp_path).dataset
    assert dataset.classes == ("Black footed Albatross", "Bobolink", "Common Yellowthroat")
    assert [item.label for item in dataset.train] == [0, 2, 1]
    assert [item.label for item in dataset.val] == [0]
    assert [item.label for item in dataset.test] == [1, 2]  # numbered by its own classes they would be 0 and 1
    assert dataset.test[0].source == target / "images/013.Bobolink/e.jpg"
    assert dataset.notes[0].startswith("Splits are VPT's")
    assert dataset.notes[1] == ("Not every class has images in val, test; labels are those of all splits together.")
    assert len(list_tasks("fgvc")) == 5


def test_class_ids_may_be_words(tmp_path: Path) -> None:
    rows = {"images/0295/a.jpg": "295", "images/0817/b.jpg": "817", "images/0817/c.jpg": "817"}
    splits = dict.fromkeys(("train", "val", "test"), rows)
    write_vpt(tmp_path / "NABirds", "", splits)
    dataset = load_task("fgvc/nabirds", tmp_path).dataset
    assert dataset.classes == ("class 295", "class 817")  # folders that are numbers name nothing
    assert [item.label for item in dataset.test] == [0, 1, 1]


def test_spt_lists(tmp_path: Path) -> None:
    for path in ("n02085620-Chihuahua/a.jpg", "n02085782-Japanese_spaniel/b c.jpg"):
        write_image(tmp_path / "Dogs/images" / path)
    write_text(tmp_path / "Dogs/Dogs_train.txt", "n02085620-Chihuahua/a.jpg 0\nn02085782-Japanese_spaniel/b c.jpg 1\n")
    write_text(tmp_path / "Dogs/Dogs_test.txt", "n02085620-Chihuahua/z.jpg 0\n")
    dataset = load_task("fgvc/stanford_dogs", tmp_path).dataset
    assert [row[1] for row in dataset.summary()] == [2, 0, 1]
    assert dataset.classes == ("Chihuahua", "Japanese spaniel")
    assert dataset.train[1].source == tmp_path / "Dogs/images/n02085782-Japanese_spaniel/b c.jpg"
    assert "no validation images" in dataset.notes[0]


def test_lists_next_to_the_folder_and_a_choice_if_both_exist(tmp_path: Path) -> None:
    write_vpt(tmp_path / "CUB_200_2011", "images", BIRDS)
    with pytest.raises(ValueError, match=r"has no cub200_train\.txt and cub200_test\.txt, in it or next to it"):
        load_task("fgvc/cub", tmp_path, splits="spt")
    write_text(tmp_path / "cub200_train.txt", "013.Bobolink/c.jpg 0\n200.Common_Yellowthroat/b.jpg 1\n")
    write_text(tmp_path / "cub200_test.txt", "013.Bobolink/e.jpg 0\n")
    assert len(load_task("fgvc/cub", tmp_path).dataset.train) == 3
    assert len(load_task("fgvc/cub", tmp_path, splits="spt").dataset.train) == 2


def test_the_coop_lines_flowers_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "oxford_flowers/jpg").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has no fgvc/OxfordFlowers/jpg. `selfprompt data get fgvc/oxford_flowers`"):
        load_task("fgvc/oxford_flowers", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"must be JSON: .*Delete it and get it again"),
        ("[]", "must be an object of image path: class id"),
        ("{}", "must be an object of image path: class id"),
        ('{"a.jpg": 1.5}', "must be all numbers or all words, got float"),
        ('{"a.jpg": 1, "b.jpg": "2"}', "must be all numbers or all words, got int, str"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    target = write_vpt(tmp_path / "fgvc/CUB_200_2011", "images", BIRDS)
    (target / "val.json").write_text(content)
    with pytest.raises(ValueError, match=rf"val\.json.*{message}"):
        load_task("fgvc/cub", tmp_path)


def test_splits_must_agree_and_images_must_exist(tmp_path: Path) -> None:
    target = write_vpt(tmp_path / "fgvc/CUB_200_2011", "images", BIRDS)
    write_text(target / "val.json", '{"013.Bobolink/c.jpg": "13"}')
    with pytest.raises(ValueError, match="all numbers or all words in all splits"):
        load_task("fgvc/cub", tmp_path)
    write_text(target / "val.json", '{"013.Bobolink/c.jpg": 13}')
    (target / "images/001.Black_footed_Albatross/a.jpg").unlink()
    with pytest.raises(ValueError, match=r"the image 001.Black_footed_Albatross/a\.jpg of its lists is in none of"):
        load_task("fgvc/cub", tmp_path)
    (target / "train.json").unlink()
    with pytest.raises(ValueError, match=r"train\.json is missing"):
        load_task("fgvc/cub", tmp_path)
