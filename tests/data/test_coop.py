"""The CoOp line's data sets: split files, class names, ImageNet's shifted test sets."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfprompt.data.fewshot import draw_few_shot, select_base_new
from selfprompt.data.suites import coop, list_tasks, load_task
from selfprompt.methods.class_texts import TEMPLATES
from tests.data.roots import (
    draw_split,
    write_aircraft,
    write_class_folders,
    write_coop,
    write_imagenet,
    write_text,
)

PETS = ("abyssinian", "american_bulldog", "beagle")


def files(root: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in root.rglob("*")}


def test_tasks_are_the_eleven_of_the_published_tables() -> None:
    assert len(list_tasks("coop")) == 11
    assert set(TEMPLATES) < set(list_tasks("coop"))


def test_a_split_file_is_read_in_its_order_and_nothing_is_written(tmp_path: Path) -> None:
    split = draw_split(PETS, (4, 2, 3))
    split["train"].reverse()  # few-shot draws walk the classes in this order
    target = write_coop(tmp_path, "oxford_pets", split)
    before = files(tmp_path)
    task = load_task("coop/oxford_pets", tmp_path)
    assert files(tmp_path) == before
    assert (task.suite, task.name, task.dataset.name) == ("coop", "oxford_pets", "coop/oxford_pets")
    assert task.template == "a photo of a {}, a type of pet."
    assert "robots.ox.ac.uk" in task.source
    dataset = task.dataset
    assert dataset.classes == ("abyssinian", "american bulldog", "beagle")
    assert [row[1] for row in dataset.summary()] == [12, 6, 9]
    assert [item.source for item in dataset.train] == [target / "images" / path for path, _, _ in split["train"]]
    assert [item.label for item in dataset.train[:5]] == [2, 2, 2, 2, 1]
    assert dataset.train[0].load().size == (8, 8)
    assert "not the published file" in dataset.notes[0]


def test_base_classes_and_shots_equal_a_computation_by_hand(tmp_path: Path) -> None:
    write_coop(tmp_path, "oxford_pets", draw_split(PETS, (4, 2, 3)))
    dataset = load_task("coop/oxford_pets", tmp_path).dataset
    train, _ = draw_few_shot(dataset.train, dataset.val, 2, seed=1)
    rng = random.Random(1)
    by_hand = [start + number for start in (0, 4, 8) for number in rng.sample(range(4), 2)]
    assert [dataset.train.index(item) for item in train] == by_hand
    assert select_base_new(dataset, "base").classes == ("abyssinian", "american bulldog")


@pytest.mark.parametrize("folder", ["oxford_pets", "OxfordPets"])
def test_folder_names_of_other_published_code_are_accepted(tmp_path: Path, folder: str) -> None:
    write_coop(tmp_path, "oxford_pets", draw_split(PETS, (1, 1, 1)), folder=folder)
    assert len(load_task("coop/oxford_pets", tmp_path).dataset.train) == 3


def test_paths_of_stanford_cars_start_at_its_folder(tmp_path: Path) -> None:
    target = write_coop(tmp_path, "stanford_cars", draw_split(["2000 AM General Hummer SUV"], (1, 1, 1), "cars_train/"))
    item = load_task("coop/stanford_cars", tmp_path).dataset.train[0]
    assert item.source == target / "cars_train/0/train-0.jpg"


def test_aircraft_labels_are_lines_of_variants(tmp_path: Path) -> None:
    rows = {"train": [("1", "Yak-42"), ("2", "747-100")], "val": [("3", "747-100")], "test": [("4", "A b c")]}
    write_aircraft(tmp_path, ["747-100", "A b c", "Yak-42"], rows)
    dataset = load_task("coop/fgvc_aircraft", tmp_path).dataset
    assert dataset.classes == ("747-100", "A b c", "Yak-42")
    assert [[item.label for item in part] for part in (dataset.train, dataset.val, dataset.test)] == [[2, 0], [0], [1]]
    write_text(tmp_path / "fgvc_aircraft/images_variant_val.txt", "3 747-100\n4 Tu-154\n")
    with pytest.raises(ValueError, match=r"images_variant_val\.txt, line 2 must be an image id and a variant"):
        load_task("coop/fgvc_aircraft", tmp_path)


NAMES = {"n01": "tench", "n02": "great white shark", "n03": "tree frog"}


def test_imagenet_and_its_shifted_test_sets(tmp_path: Path) -> None:
    write_imagenet(tmp_path, NAMES)
    write_text(tmp_path / "imagenet/images/train/README.txt", "no class")
    write_class_folders(tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val", {"2": 1, "0": 1, "1": 2})
    write_class_folders(tmp_path / "imagenet-adversarial/imagenet-a", {"n03": 2, "n01": 1})
    write_text(tmp_path / "imagenet-adversarial/imagenet-a/README.txt", "skipped")
    task = load_task("coop/imagenet", tmp_path)
    dataset = task.dataset
    assert dataset.classes == ("tench", "great white shark", "tree frog")
    assert [row[1] for row in dataset.summary()] == [9, 0, 6]  # its validation images are the test images
    assert [path.name for path in (Path(str(item.source)) for item in dataset.train[:2])] == [
        "n01_0.JPEG",
        "n01_1.JPEG",
    ]
    assert "Without the shifted test sets imagenet_sketch, imagenet_r." in dataset.notes
    assert set(task.domains) == {"imagenetv2", "imagenet_a"}
    same, fewer = task.domains["imagenetv2"], task.domains["imagenet_a"]
    assert same.classes == dataset.classes
    assert [item.label for item in same.test] == [0, 1, 1, 2]
    assert fewer.classes == ("tench", "tree frog")  # a classifier of these two only
    assert [item.label for item in fewer.test] == [0, 1, 1]


def test_imagenetv2_folders_are_numbers_not_words(tmp_path: Path) -> None:
    names = {f"n{number:02d}": f"thing {number}" for number in range(12)}
    write_imagenet(tmp_path, names, 1, 1)
    target = tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val"
    write_class_folders(target, {str(number): 1 for number in range(12)})
    domain = load_task("coop/imagenet", tmp_path).domains["imagenetv2"]
    assert [Path(str(item.source)).parent.name for item in domain.test] == [str(item.label) for item in domain.test]
    write_class_folders(target, {"12": 1})
    with pytest.raises(ValueError, match="must hold folders 0 to 11, but it holds 12"):
        load_task("coop/imagenet", tmp_path)


def test_imagenet_without_images_folder_is_accepted(tmp_path: Path) -> None:
    target = write_imagenet(tmp_path, NAMES)
    os.rename(target / "images/train", target / "train")
    os.rename(target / "images/val", target / "val")
    assert len(load_task("coop/imagenet", tmp_path).dataset.test) == 6


def test_imagenet_reports_what_is_missing(tmp_path: Path) -> None:
    target = write_imagenet(tmp_path, NAMES)
    write_class_folders(target / "images/val", {"n99": 1})
    with pytest.raises(ValueError, match=r"val must hold a folder of images for each class.*n99"):
        load_task("coop/imagenet", tmp_path)
    write_class_folders(target / "images/train", {"n99": 1})
    with pytest.raises(ValueError, match=r"named in classnames\.txt; not in it: n99"):
        load_task("coop/imagenet", tmp_path)
    (target / "classnames.txt").unlink()
    with pytest.raises(ValueError, match=r"classnames\.txt is missing.*selfprompt data get coop/imagenet"):
        load_task("coop/imagenet", tmp_path)


# --- wrong layouts ---


def test_a_root_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not ship with the package: give the folder"):
        load_task("coop/dtd")
    with pytest.raises(ValueError, match="is not a folder: give the one that holds dtd"):
        load_task("coop/dtd", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no dtd/images.*selfprompt data get coop/dtd"):
        load_task("coop/dtd", tmp_path)


def test_a_folder_of_another_layout_is_recognised(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "caltech101/101_ObjectCategories", {"accordion": 1})
    with pytest.raises(ValueError, match=r"found caltech101/, .*read from caltech-101/101_ObjectCategories: rename it"):
        load_task("coop/caltech101", tmp_path)
    write_class_folders(tmp_path / "oxford-iiit-pet/images", {"a": 1})
    with pytest.raises(ValueError, match=r"found oxford-iiit-pet/, .*ln -s oxford-iiit-pet "):
        load_task("coop/oxford_pets", tmp_path)
    write_class_folders(tmp_path / "dtd/dtd/images", {"banded": 1})
    with pytest.raises(ValueError, match=r"dtd/dtd is too deep: move its contents up"):
        load_task("coop/dtd", tmp_path)
    (tmp_path / "eurosat").mkdir()
    with pytest.raises(ValueError, match=r"eurosat must hold 2750 or split_zhou_EuroSAT\.json, but it holds nothing"):
        load_task("coop/eurosat", tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    target = write_coop(tmp_path, "dtd", draw_split(["banded", "dotted"], (1, 1, 1)))
    file = target / "split_zhou_DescribableTextures.json"
    content = file.read_text()
    file.unlink()
    with pytest.raises(ValueError, match=r"Textures\.json is missing. `selfprompt data get") as caught:
        load_task("coop/dtd", tmp_path)
    assert "must be JSON" not in str(caught.value)
    assert "Delete" not in str(caught.value)
    file.write_text(content)
    os.rename(target / "images", target / "pictures")
    with pytest.raises(ValueError, match="must hold the images in images, but it holds pictures, split_zhou"):
        load_task("coop/dtd", tmp_path)


@pytest.mark.parametrize("content", ["", "{", '{"train": [', "\x00", "[1] 2"])
def test_broken_json_names_file_and_remedy(tmp_path: Path, content: str) -> None:
    target = write_coop(tmp_path, "dtd", draw_split(["banded"], (1, 1, 1)))
    (target / "split_zhou_DescribableTextures.json").write_text(content)
    with pytest.raises(ValueError, match=r"split_zhou_DescribableTextures\.json must be JSON: .*Delete it and get"):
        load_task("coop/dtd", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "X must hold the splits train, val and test, but it holds list"),
        ({"train": [], "val": []}, "but it holds train, val"),
        ({"train": {}, "val": [], "test": []}, "X, train must be a list"),
        ({"train": [["a.jpg", "0", "cat"]], "val": [], "test": []}, "X, train, entry 0 must be"),
        ({"train": [["a.jpg", True, "cat"]], "val": [], "test": []}, "X, train, entry 0 must be"),
        ({"train": [], "val": [], "test": [["a.jpg", 0]]}, "X, test, entry 0 must be"),
        ({"train": [["a.jpg", 0, " "]], "val": [], "test": []}, "X, train, entry 0 must be"),
        ({"train": [["a.jpg", 1, "cat"]], "val": [], "test": []}, "labels must count from 0 without a gap, got 1"),
        ({"train": [], "val": [], "test": []}, "labels must count from 0"),
        ({"train": [["a", 0, "cat"]], "val": [["b", 0, "dog"]], "test": []}, "label 0 has two names, 'cat' and 'dog'"),
        ({"train": [["a", 0, "cat"]], "val": [["b", 1, "cat"]], "test": []}, "class name must occur once, but 'cat'"),
        ({"train": [["a", 0, "cat"]], "val": [["a", 0, "cat"]], "test": []}, "image must occur once, but 'a'"),
    ],
)
def test_an_invalid_split_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coop.parse_split(content, "X")


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/passwd", "a/../../b.jpg", ""])
def test_paths_stay_in_the_folder(tmp_path: Path, path: str) -> None:
    target = write_coop(tmp_path, "dtd", draw_split(["banded"], (1, 1, 1)))
    split = {"train": [[path, 0, "banded"]], "val": [], "test": []}
    (target / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    with pytest.raises(ValueError, match="an image's path must lie below"):
        load_task("coop/dtd", tmp_path)


SPLIT = st.sampled_from(["train", "val", "test"])
PLACED = st.lists(st.tuples(st.integers(0, 4), SPLIT), min_size=1, max_size=12)


@given(PLACED)
@settings(max_examples=30, deadline=None)
def test_valid_splits_keep_their_entries(placed: list[tuple[int, Any]]) -> None:
    ranks = {label: rank for rank, label in enumerate(sorted({label for label, _ in placed}))}
    content: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    for number, (label, split) in enumerate(placed):
        content[split].append([f"{number}.jpg", ranks[label], f"class_{label}"])
    parsed = coop.parse_split(content, "X")
    assert {split: [list(entry) for entry in entries] for split, entries in parsed.items()} == content


WORD = st.sampled_from([None, True, 0, 1, -1, 0.5, "", "a", "b", []])
ROWS = st.lists(st.lists(WORD, min_size=2, max_size=4) | WORD, max_size=3)


@given(st.dictionaries(SPLIT, ROWS | WORD))
@settings(max_examples=50, deadline=None)
def test_any_other_json_is_refused_in_one_sentence(content: Any) -> None:
    outcome = parsed_or_refusal(content)
    if isinstance(outcome, str):
        assert outcome.startswith("the file")
    else:
        assert {label for entries in outcome.values() for _, label, _ in entries} in ({0}, {0, 1})


def parsed_or_refusal(content: Any) -> Any:
    try:
        return coop.parse_split(content, "the file")
    except ValueError as error:
        return str(error)
