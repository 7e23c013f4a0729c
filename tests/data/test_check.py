"""`selfprompt data check` reports what is there, missing or wrong."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from selfprompt.cli import data_check
from selfprompt.data.suites import check as published_check
from selfprompt.data.suites.check import check_published
from selfprompt.data.suites.sources import SOURCES
from selfprompt.data.suites.specs import COOP, FGVC, SPECS, VTAB
from tests.data.images import picture, write_classes
from tests.data.roots import draw_split, write_class_folders, write_coop, write_imagenet, write_vpt, write_vtab

PETS = SPECS["coop/oxford_pets"]


def check(root: Path, *arguments: str) -> int:
    parser = ArgumentParser(exit_on_error=False)
    given = [str(root), *arguments]
    data_check.add_arguments(parser, given)
    return data_check.check(parser.parse_args(given))


def publish(target: Path) -> dict[str, str]:
    """Return checksums as if the split files of a folder were the published ones."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in target.glob("split_zhou_*")}


def test_the_table_is_the_published_one() -> None:
    assert [len(table) for table in (COOP, VTAB, FGVC)] == [15, 19, 5]
    assert len(SPECS) == 39
    assert {key for key in SPECS if not key.startswith("vtab/")} == set(SOURCES)
    assert all(len(digest) == 64 for spec in COOP for digest in spec.checksums.values())
    for key, source in SOURCES.items():  # downloads are checked against the same digests
        for item in source.downloads:
            known = SPECS[key].checksums.get(item.keep[0])
            assert known is None or item.checksum == f"sha256:{known}"


def test_a_data_set_as_published_is_ok(tmp_path: Path) -> None:
    target = write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    spec = replace(PETS, classes=2, counts=(6, 2, 4), checksums=publish(target))
    result = check_published(spec, tmp_path)
    assert (result.state, result.counts, result.classes, result.remarks) == ("ok", (6, 2, 4), 2, ())
    assert result.folder == target


def test_a_miniature_differs_but_can_be_used(tmp_path: Path) -> None:
    write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    result = check_published(PETS, tmp_path)
    assert result.state == "differs"
    assert "not the published file" in result.remarks[0]
    assert result.remarks[1:] == (
        "Not the published size: train 6 instead of 2,944, val 2 instead of 736, test 4 instead of 3,669 images.",
        "Not the published classes: 2 instead of 37.",
    )


def test_a_regenerated_split_of_the_published_size_is_wrong(tmp_path: Path) -> None:
    target = write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    spec = replace(PETS, classes=2, counts=(6, 2, 4), checksums=publish(target))
    file = target / PETS.lists[0]
    content = json.loads(file.read_text())
    content["train"].reverse()
    file.write_text(json.dumps(content))
    result = check_published(spec, tmp_path)
    assert result.state == "wrong"
    assert "was regenerated or changed, so results are not comparable" in result.remarks[0]


def test_absent_images_are_counted(tmp_path: Path) -> None:
    target = write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    (target / "images/1/train-2.jpg").unlink()
    for path in (target / "images/0").iterdir():
        path.unlink()
    (target / "images/0").rmdir()
    result = check_published(PETS, tmp_path)
    assert result.state == "wrong"
    assert "Missing 7 images of 12 in its lists" in result.remarks[0]
    assert "train-0.jpg: unpack its archive again" in result.remarks[0]


def test_spt_lists_have_another_published_size(tmp_path: Path) -> None:
    splits = {"train": {"a.x/1.jpg": 1, "b.x/2.jpg": 2}, "val": {"a.x/3.jpg": 1}, "test": {"b.x/4.jpg": 2}}
    target = write_vpt(tmp_path / "fgvc/CUB_200_2011", "images", splits)
    spec = replace(SPECS["fgvc/cub"], classes=2, counts=(2, 1, 1))
    assert check_published(spec, tmp_path).state == "ok"
    for split in splits:
        (target / f"{split}.json").unlink()
    (target / "cub200_train.txt").write_text("a.x/1.jpg 0\nb.x/2.jpg 1\na.x/3.jpg 0\n")
    (target / "cub200_test.txt").write_text("b.x/4.jpg 1\n")
    assert check_published(spec, tmp_path).counts == (3, 0, 1)
    assert check_published(spec, tmp_path).state == "ok"


def test_the_command_reports_everything_and_fails_if_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    write_imagenet(tmp_path, {"n01": "tench", "n02": "shark"})
    write_vtab(tmp_path, "kitti", (8, 4, 5))
    before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert check(tmp_path) == 0
    said = capsys.readouterr().out
    assert "6 / 2 / 4" in said
    assert "vtab/kitti" in said
    assert "Missing of coop (13 of 15): caltech101, stanford_cars" in said
    assert f"selfprompt data get NAME --root {tmp_path}" in said
    assert "fgvc-aircraft" in said
    assert f"selfprompt data get vtab --root {tmp_path}" in said
    assert "Manual steps: Register at the Cornell Lab" in said
    assert check(tmp_path, "--strict") == 1
    capsys.readouterr()

    write_class_folders(tmp_path / "caltech101/101_ObjectCategories", {"accordion": 1})
    assert check(tmp_path, "--suite", "coop") == 1
    said = capsys.readouterr().out
    assert "found caltech101/, but the data set is read from caltech-101/101_ObjectCategories" in said
    assert "vtab" not in said.replace(str(tmp_path), "")
    (tmp_path / "caltech101/101_ObjectCategories/accordion/accordion_0.JPEG").unlink()
    after = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if "caltech" not in str(path))
    assert after == before


def test_the_table_fits_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write_coop(tmp_path, "oxford_flowers", draw_split(["a"], (1, 1, 1)))
    check(tmp_path, "--suite", "coop")
    table = [line for line in capsys.readouterr().out.splitlines() if line[:1] in "┏┃┡│└"]
    assert table
    assert max(map(len, table)) <= 80


def test_everything_is_missing_from_an_empty_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path) == 0
    assert "Missing of vtab (19 of 19)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="is not a folder"):
        check(tmp_path / "nowhere")


def test_the_reader_of_every_data_set_reports_what_is_missing(tmp_path: Path) -> None:
    for spec in SPECS.values():
        with pytest.raises(ValueError, match=r"has no .*selfprompt data get"):
            published_check.READERS[spec.suite](spec, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [((), 0, "not an error without --strict"), (("--strict",), 1, "an error with --strict")],
)
def test_the_last_line_reports_whether_another_size_is_an_error(arguments, status, said, tmp_path, capsys) -> None:
    write_coop(tmp_path, "oxford_pets", draw_split(["a", "b"], (3, 1, 2)))
    assert check(tmp_path, "--suite", "coop", *arguments) == status
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("1 data set can be used, but not compared with published results: ")
    assert said in last


# --- photos ---


def faulty_photos(root: Path) -> Path:
    """Write photos with one fault of each kind."""
    write_classes(root, {"cat": 6, "dog": 6, "eel": 1, "owl": 0})
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "0.png").read_bytes())
    (root / "dog" / "a cat.png").write_bytes((root / "cat" / "1.png").read_bytes())
    Image.open(root / "dog" / "2.png").save(root / "dog" / "again.bmp")
    (root / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    Image.new("RGB", (300, 200), "black").save(root / "cat" / "black.png")
    (root / "@eaDir").mkdir()
    return root


def test_photos_are_checked(tmp_path: Path, run) -> None:
    root = faulty_photos(tmp_path / "pets")
    done = run("data", "check", root)
    assert done.status == 0
    for told in (
        "pets: 3 classes, 17 images",
        "Left out class folders of pets without images: owl.",
        "1 picture with conflicting labels: cat/1.png (cat) = dog/a cat.png (dog).",
        "1 training image is a copy of another: cat/copy.png.",
        "By their pixels: 1 training image is a copy of another: dog/again.bmp.",
        "Left out 1 image that cannot be read",
        "broken.jpg",
        "1 image is of one colour throughout: ",
        "16 images with a side of less than 64 pixels",
        "Sizes in pixels: smallest 24 x 20, median 24 x 20, largest 300 x 200.",
        "There is no test split",
        "Fewer than 4 training images: eel",
        "Left out 1 system folder in pets: @eaDir.",
    ):
        assert told in done.out, told
    assert "Missing of" not in done.out
    assert run("data", "check", root, "--strict").status == 1
    assert "Missing of coop" in run("data", "check", root, "--suite", "coop").out


def test_photos_without_faults_are_reported_as_such(tmp_path: Path, run) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for image in range(4):
                noise = picture(1000 * (split == "test") + 10 * number + image, 80, 70)
                noise.save(tmp_path / split / name / f"{image}.png")
    done = run("data", "check", tmp_path, "--strict")
    assert done.status == 0
    assert "2 classes, 16 images" in done.out
    assert "No problems found." in done.out


def test_a_manifest_is_checked(tmp_path: Path, run) -> None:
    write_classes(tmp_path, {"cat": 2, "dog": 2})
    rows = [f"{name}/{image}.png,{name}" for name in ("cat", "dog") for image in (0, 1, 1)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    done = run("data", "check", tmp_path / "list.csv")
    assert "2 training images are copies of others: cat/1.png, dog/1.png." in done.out


def test_help_lists_what_can_be_checked(run) -> None:
    assert "your images" in run("data", "check", "--help").out
