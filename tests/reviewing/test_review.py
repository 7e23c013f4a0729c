"""The review end to end: planted errors are found, the page and the tables are written, odd folders are no obstacle."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selfprompt
from experiments.planted_errors import plant, read
from selfprompt.reviewing.review import CLASS_COLUMNS, IMAGE_COLUMNS
from tests.conftest import photo, write_photos

CLIP = ("--backbone", "embedded/clip", "--quiet")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_planted_errors_are_found():
    planted = plant(read("icons", 12, 0), 0)
    found = selfprompt.review(planted.dataset, backbone="embedded/clip")
    listed = {wrong.image for wrong in found.wrong_labels}
    assert len(planted.wrong) >= 8
    assert len(listed & planted.wrong) >= 0.6 * len(planted.wrong)
    assert len(listed & planted.wrong) >= 0.6 * len(listed)
    pairs = {(copy.original, copy.image) for copy in found.copies}
    assert len(pairs & planted.copies) >= 9
    assert len(pairs - planted.copies) <= 1
    assert all(copy.kind == "copy in another split" for copy in found.copies)
    assert found.curve[0].accuracy < found.curve[-1].accuracy
    clean = read("icons", 12, 0)
    right = [
        clean.train[wrong.image].label == wrong.suggested
        for wrong in found.wrong_labels
        if wrong.image in planted.wrong
    ]
    assert np.mean(right) > 0.7, "the former label is suggested"


def test_the_page_and_the_tables_are_written(run, tmp_path):
    photos = write_photos(tmp_path / "photos", {"=1+1": 8, "green apple": 8, "<b>blue": 8})
    photo((250, 250, 20), 99).save(photos / "green apple" / "stray.png")
    (photos / "=1+1" / "copy.png").write_bytes((photos / "=1+1" / "0.png").read_bytes())
    (photos / "green apple" / "also.png").write_bytes((photos / "<b>blue" / "0.png").read_bytes())
    (photos / "=1+1" / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    done = run("review", photos, "--out", out, *CLIP, "--csv-guard")
    assert done.status == 0, done.err
    assert "index.html" in done.out
    assert sorted(path.name for path in out.iterdir()) == ["classes.csv", "images.csv", "index.html"]
    rows, classes = table(out / "images.csv"), table(out / "classes.csv")
    assert list(rows[0]) == list(IMAGE_COLUMNS)
    assert list(classes[0]) == list(CLASS_COLUMNS)
    problems = {(Path(row["image"]).name, row["problem"]) for row in rows}
    assert {("copy.png", "copy"), ("broken.jpg", "unreadable")} <= problems
    assert any(problem == "copy with another label" for _, problem in problems)
    assert [row["class"] for row in classes] == ["<b>blue", "'=1+1", "green apple"]
    assert [row["images"] for row in classes] == ["8", "9", "10"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;blue" in page
    assert "<b>blue" not in page
    assert "What more photos would bring" in page
    again = run("review", photos, "--out", out, *CLIP, "--csv-guard")
    assert again.status == 0
    assert table(out / "images.csv") == rows


@pytest.mark.parametrize("counts", [{"cat": 1, "dog": 1}, {"cat": 1, "dog": 2}, {"cat": 3, "dog": 3}, {"a": 1, "b": 9}])
def test_few_photos_are_reviewed(run, tmp_path, counts):
    photos = write_photos(tmp_path / "photos", counts)
    done = run("review", photos, "--out", tmp_path / "out", *CLIP)
    assert done.status == 0, done.err
    judged = [int(row["pictures judged"]) for row in table(tmp_path / "out" / "classes.csv")]
    assert judged == [count if count > 1 else 0 for count in counts.values()]
    if max(counts.values()) == 1:
        assert "no label could be judged" in done.out


def test_equal_pictures_in_two_classes(run, tmp_path):
    photos = write_photos(tmp_path / "photos", {"cat": 1, "dog": 1})
    for name in ("cat", "dog"):
        for number in range(3):
            Image.new("RGB", (20, 20), (9, 9, 9)).save(photos / name / f"{number}.png")
    done = run("review", photos, "--out", tmp_path / "out", *CLIP)
    assert done.status == 0, done.err
    rows = table(tmp_path / "out" / "images.csv")
    assert {row["problem"] for row in rows} == {"copy with another label", "copy"}


def test_the_page_stays_small_with_many_classes(run, tmp_path):
    generator = np.random.default_rng(0)
    for number in range(120):
        (tmp_path / "photos" / f"{number:03}").mkdir(parents=True)
        for shot in range(2):
            pixels = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:03}" / f"{shot}.png")
    done = run("review", tmp_path / "photos", "--out", tmp_path / "out", *CLIP)
    assert done.status == 0, done.err
    assert len(table(tmp_path / "out" / "classes.csv")) == 120
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("<tr>") < 50
    assert page.count("<img") < 80
    assert "`" not in page.partition("<main>")[2]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--out is needed"),
        (["--out", "out", "--seed", "-1"], 2, "--seed must be at least 0, got -1"),
        (["--out", "out", "--device", "tpu"], 2, "--device must be auto, cpu"),
        (["--out", "out"], 1, "none does not exist"),
    ],
)
def test_wrong_usage(run, tmp_path, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    done = run("review", "none", *arguments, *CLIP)
    assert done.status == status
    assert message in " ".join(done.err.split())
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(run, photos, tmp_path, monkeypatch):
    assert importlib.util.find_spec("cleanlab")
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    done = run("review", photos, "--out", tmp_path / "out", *CLIP)
    assert done.status == 1
    assert "pip install 'selfprompt[review]'" in done.err
    assert not (tmp_path / "out").exists()


def test_an_output_file_is_not_overwritten(run, photos, tmp_path):
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    done = run("review", photos, "--out", tmp_path / "out", *CLIP)
    assert done.status == 1
    assert "is a file; choose another name" in done.err
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"
