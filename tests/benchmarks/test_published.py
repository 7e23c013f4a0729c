"""A root of the published layout that the library has not seen, from ``data check`` to the tables, by hand."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfprompt.benchmarks.cells import Cell
from selfprompt.benchmarks.protocols import build_grid, cell_recipe, texts_for_dataset
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import RunCache, run_grid
from selfprompt.data.suites import load_task
from selfprompt.data.suites.task import SuiteTask
from tests.data.roots import draw_split, write_aircraft, write_class_folders, write_coop, write_imagenet

WNIDS = {"n01": "tench", "n02": "dog", "n03": "missile", "n04": "missile", "n05": "goldfish"}
"""The class list repeats a name, as the published one does."""
PETS = ("abyssinian", "american_bulldog", "beagle", "bengal", "birman")
FIXED = "tests.benchmarks.journal_methods:Fixed[backbone=embedded/mae]"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Pets whose split file lists its classes from the last to the first, aircraft, and ImageNet with shifted sets."""
    root = tmp_path_factory.mktemp("root")
    split = draw_split(PETS, (5, 3, 4))
    write_coop(root, "oxford_pets", {part: rows[::-1] for part, rows in split.items()})
    rows = [(f"{number:03d}", f"A{number % 3}-b c") for number in range(21)]
    lists = {"train": rows[:9], "val": rows[9:12], "test": rows[12:]}
    write_aircraft(root, ["A0-b c", "A1-b c", "A2-b c"], lists)
    write_imagenet(root, WNIDS)
    v2 = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    write_class_folders(v2, {str(number): 2 for number in range(len(WNIDS))})
    write_class_folders(root / "imagenet-adversarial" / "imagenet-a", {"n02": 1, "n04": 2})
    for number, file in enumerate(sorted(root.rglob("*.jp*g")) + sorted(root.rglob("*.JPEG"))):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 24)).save(file)
    return root


def half(split: dict[str, list], part: str) -> list[int]:
    """The labels of the base or new classes, from a split file."""
    labels = sorted({label for _, label, _ in split["train"]})
    count = math.ceil(len(labels) / 2)
    return labels[:count] if part == "base" else labels[count:]


def drawn(rows: list, shots: int, rng: random.Random) -> list:
    """The published draw: classes in the order of their first image, so many images of each."""
    order = list(dict.fromkeys(label for _, label, _ in rows))
    return [row for label in order for row in rng.sample([row for row in rows if row[1] == label], shots)]


def right(root: Path, split: dict[str, list], part: str) -> tuple[int, int]:
    """Right answers of zero-shot CLIP on a half, an image at a time."""
    from selfprompt.inference.classifier import Classifier
    from selfprompt.methods.registry import build_method
    from selfprompt.models.loading.by_name import load_backbone

    labels, backbone = half(split, part), load_backbone("embedded/clip")
    names = [PETS[label].replace("_", " ") for label in labels]
    method = build_method("zero-shot", backbone, names, template="a photo of a {}, a type of pet.")
    classifier = Classifier(method, backbone.preprocess)
    rows = [row for row in split["test"] if row[1] in labels]
    predicted = [classifier.predict(root / "oxford_pets" / "images" / path)[0].label for path, _, _ in rows]
    return sum(label == name.replace("_", " ") for label, (_, _, name) in zip(predicted, rows, strict=True)), len(rows)


def test_from_a_root_to_the_table_in_one_go(root, tmp_path, run):
    done = run("data", "check", root, "--suite", "coop")
    assert done.status == 0
    assert "5 data sets can be used, but not compared with published results" in done.out
    arguments = ("--suite", "coop", "--root", root, "--backbone", "embedded/clip", "--out", tmp_path)
    done = run(
        "bench", "base-to-new", *arguments, "--methods", "zero-shot,coop", "--shots", 2, "--seeds", 7, "--epochs", 1
    )
    assert done.status == 0, done.out
    assert "6/6" in done.out
    split = json.loads((root / "oxford_pets" / "split_zhou_OxfordPets.json").read_text())
    (file,) = tmp_path.glob("base-to-new/coop-oxford_pets/coop/*/split.json")
    rng = random.Random(7)
    for part in ("train", "val"):
        images = drawn(split[part], 2, rng)
        base = [[f"oxford_pets/images/{path}", label] for path, label, _ in images if label in half(split, "base")]
        assert json.loads(file.read_text())[part] == base
    (file,) = tmp_path.glob("base-to-new/coop-oxford_pets/zero-shot/*/result.json")
    measured = json.loads(file.read_text())["evaluations"]
    shares = []
    for part in ("base", "new"):
        correct, total = right(root, split, part)
        assert (measured[part]["correct"], measured[part]["total"]) == (correct, total)
        shares.append(100 * correct / total)
    h = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
    for file in tmp_path.glob("base-to-new/coop-fgvc_aircraft/*/*/result.json"):
        assert json.loads(file.read_text())["evaluations"]["new"]["accuracy"] == 100, "the third of three classes"
    table = run("report", tmp_path).out.partition(": oxford_pets")[2].splitlines()
    (line, *_) = [line for line in table if "zero-shot" in line]
    assert [f"{number:.2f}" for number in (*shares, h)] == [cell.strip() for cell in line.split("│")[2:5]]


def results(root: Path, out: Path, protocol: str, rows: str, **targets: tuple[str, ...]) -> dict[str, dict]:
    """The results of a grid on ImageNet, by row."""
    cells = build_grid(protocol, "coop", parse_rows(rows), ["imagenet"], (1,), (2,), {"epochs": 1}, targets)
    assert [outcome.state for outcome in run_grid(cells, out, RunCache(root))] == ["done"] * len(cells)
    return {cell.row: json.loads((out / cell.folder / "result.json").read_text()) for cell in cells}


def test_two_classes_of_one_name_are_two_classes(root, tmp_path):
    rows = f"zero-shot[backbone=embedded/clip],kgcoop[backbone=embedded/clip],{FIXED}"
    by_row = results(root, tmp_path, "domain-generalization", rows, imagenet=("imagenetv2", "imagenet_a"))
    for row, result in by_row.items():
        assert result["classes"] == list(WNIDS.values())
        source, even, small = (result["evaluations"][name] for name in ("source", "imagenetv2", "imagenet_a"))
        assert list(source["per_class"]) == ["tench", "dog", "missile (#2)", "missile (#3)", "goldfish"]
        assert (source["total"], even["total"], small["total"]) == (10, 10, 3)
        assert list(small["per_class"]) == ["dog", "missile"]
        assert result["restricted"] == (["imagenet_a"] if row == FIXED else [])
    fixed = by_row[FIXED]["evaluations"]
    assert fixed["source"]["per_class"] == dict.fromkeys(fixed["source"]["per_class"], 0.0) | {"goldfish": 100.0}
    assert fixed["imagenet_a"]["per_class"] == {"dog": 0.0, "missile": 100.0}, "of its two classes it takes the last"
    (only,) = results(
        root, tmp_path, "cross-dataset", "coop[backbone=embedded/clip]", imagenet=("oxford_pets",)
    ).values()
    assert only["evaluations"]["oxford_pets"]["total"] == 20


def test_an_artifact_of_classes_with_one_name(root, tmp_path):
    from selfprompt import load, tune

    task = load_task("coop/imagenet", root)
    settings = {"method": "coop", "backbone": "embedded/clip", "epochs": 1, "shots": 1, "workers": 0, "classes": "new"}
    tuned = tune(task.dataset, out=tmp_path / "new", **settings)
    assert tuned.classes == ("missile", "goldfish"), "base has one of the two, new the other one"
    tuned = tune(task.dataset, out=tmp_path / "all", **settings | {"classes": "all"})
    again, file = load(tmp_path / "all"), next(root.glob("imagenet/images/val/n03/*"))
    assert again.classes == tuple(WNIDS.values())
    assert again.predict(file, top=5) == tuned.predict(file, top=5)
    with pytest.raises(ValueError, match="Class names must differ, got missile twice"):
        again.with_classes(task.dataset.classes)
    assert again.with_classes(task.dataset.classes, check=False).predict(file, top=5) == tuned.predict(file, top=5)


def cell(row: str, dataset: str, protocol: str = "base-to-new", shots: int = 16, **overrides: int) -> Cell:
    """The only cell of a grid."""
    (only,) = build_grid(protocol, "coop", parse_rows(row), [dataset], (1,), (shots,), overrides)
    return only


@pytest.mark.parametrize(
    ("row", "dataset", "texts"),
    [
        ("zero-shot", "dtd", {"template": "{} texture."}),
        ("kgcoop", "dtd", {"template": "a photo of a {}, a type of texture."}),
        ("sep", "fgvc_aircraft", {"template": "a photo of an aircraft {}."}),
        ("sep", "oxford_pets", {"template": "the task's {}"}),
        ("prograd", "food101", {"template": "a type of food, a photo of {}."}),
        ("clip-lora", "dtd", {"template": "a photo of a {}."}),
        ("tcp", "eurosat", {"template": "the task's {}", "text": "{}."}),
        ("tcp[options.template='{}']", "eurosat", {}),
        ("coop", "dtd", {}),
    ],
)
def test_class_texts_are_those_of_the_published_runs(row, dataset, texts):
    template = "{} texture." if row == "zero-shot" else "the task's {}"
    assert texts_for_dataset(cell(row, "imagenet", "cross-dataset"), dataset, template) == texts


@pytest.mark.parametrize(
    ("images", "shots", "epochs"),
    [
        (16_000, 16, 16),  # 8000 steps, 500 an epoch
        (16 * 19, 16, 800),  # 10 an epoch, the last one of 16 images
        (100, 1, 125),  # 500 steps, 4 an epoch
        (5, 16, 8000),
    ],
)
def test_published_steps_whatever_the_number_of_images(images, shots, epochs):
    task = SuiteTask("coop", "dtd", None)  # type: ignore[arg-type]  # only its template is read
    assert cell_recipe(cell("clip-lora", "dtd", shots=shots), task, images).train.epochs == epochs
    assert cell_recipe(cell("clip-lora", "dtd", epochs=3), task, images).train.epochs == 3
    assert cell_recipe(cell("clip-lora[epochs=4]", "dtd"), task, images).train.epochs == 4
