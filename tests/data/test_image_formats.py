"""Images are detected by their bytes, whatever their name; other files are counted."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from selfprompt.data.loading.image_files import BadImageError, open_image
from selfprompt.data.loading.image_formats import file_format, is_image
from selfprompt.data.readers.folders import read_folder
from selfprompt.inference.image_paths import ignored_summary, image_paths
from tests.data.images import picture

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF", "WEBP": "WEBP"}
FORMATS |= {"PPM": "PPM", "JPEG2000": "JPEG2000", "ICO": "ICO"}


@pytest.mark.parametrize("written", FORMATS)
def test_formats_are_detected_by_their_bytes(tmp_path: Path, written: str) -> None:
    picture(1).save(tmp_path / "photo", written)
    assert file_format(tmp_path / "photo") == FORMATS[written]
    assert is_image(tmp_path / "photo")


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (HEIC, "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(40), "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heix" + bytes(40), "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(40), None),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b'<?xml version="1.0"?><annotation>', None),
        (b"<!doctype html>", None),
        (b"BMW and other cars", None),
        (b"P5 is a format", None),
        (b"P5\n# made by hand\n2 2 255\n", "PPM"),
        (b"\0\0\1\0\1\0\x10\x10\0\0\1\0", "ICO"),
        (b"%PDF-1.7", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_ambiguous_first_bytes(tmp_path: Path, head: bytes, found: str | None) -> None:
    (tmp_path / "thing").write_bytes(head)
    assert file_format(tmp_path / "thing") == found
    assert is_image(tmp_path / "thing") == (found is not None)


def test_a_raw_file_is_not_a_tiff(tmp_path: Path) -> None:
    for name, found in (("a.NEF", "camera raw"), ("a.scan", "TIFF")):
        picture(1).save(tmp_path / name, "TIFF")
        assert file_format(tmp_path / name) == found


def fill(folder: Path) -> list[str]:
    """Write images under all sorts of names, among other files; returns the images' names, sorted."""
    folder.mkdir(parents=True)
    for name in ("A.JFIF", "b.jpe", "c", "d.PNG", "e.photo", "f.jpg.bak"):
        picture(2).save(folder / name, "JPEG" if name != "d.PNG" else "PNG")
    for name in ("g.heic", "h.HEIC", "i"):
        (folder / name).write_bytes(HEIC)
    (folder / "j.jpg").write_text("text under an image's name")
    for name in ("notes.txt", "more.TXT", "metadata.csv", "README", ".hidden.png"):
        (folder / name).write_text("no image")
    return ["A.JFIF", "b.jpe", "c", "d.PNG", "e.photo", "f.jpg.bak", "g.heic", "h.HEIC", "i", "j.jpg"]


LEFT_OUT = Counter({".txt": 2, ".csv": 1, "without extension": 1, "hidden": 1})


def test_no_image_is_missed_in_a_folder_to_predict(tmp_path: Path) -> None:
    names = fill(tmp_path / "all")
    (tmp_path / "all" / "link").symlink_to(tmp_path)
    ignored = Counter[str]()
    found = [Path(path).name for path in image_paths([str(tmp_path / "all")], ignored=ignored)]
    assert found == names
    assert ignored == LEFT_OUT + Counter({"link to a folder": 1})


def test_ignored_files_are_summarised_in_a_sentence(tmp_path: Path) -> None:
    assert ignored_summary(Counter({".csv": 1, ".txt": 2})) == "Skipped 3 files that are not images (2 .txt, 1 .csv)."
    assert ignored_summary(Counter({".txt": 1})) == "Skipped 1 file that is not an image (1 .txt)."
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"has no images\. Skipped 1 file that is not an image \(1 \.txt\)\."):
        list(image_paths([str(tmp_path)]))


def test_no_image_is_missed_in_a_class_folder(tmp_path: Path) -> None:
    names = fill(tmp_path / "pets" / "cat")
    fill(tmp_path / "pets" / "dog")
    part = read_folder(tmp_path / "pets")["train"]
    assert [Path(str(source)).name for source in part.sources] == names * 2
    assert "Ignored 10 files in pets that are not images" in part.notes[0]


def test_files_with_known_extensions_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(1).save(tmp_path / "a.jpg")
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr(Image, "open", None)
    assert list(image_paths([str(tmp_path)])) == [str(tmp_path / "a.jpg")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jfif", "JPEG"),
        ("A.JPG", "JPEG"),
        ("none", "JPEG"),
        ("phone.jpg", "MPO"),
        ("b.jp2", "JPEG2000"),
        ("c.txt", "PNG"),
        pytest.param(
            "d.avif",
            "AVIF",
            marks=pytest.mark.skipif("avif" not in features.get_supported_modules(), reason="an older Pillow"),
        ),
    ],
)
def test_whatever_the_name_an_image_is_opened(tmp_path: Path, name: str, kind: str) -> None:
    more = {"save_all": True, "append_images": [picture(2)]} if kind == "MPO" else {}
    Image.new("RGB", (32, 16), (200, 60, 20)).save(tmp_path / name, kind, **more)
    found = open_image(tmp_path / name)
    assert found.size == (32, 16)
    assert np.abs(np.asarray(found)[8, 16] - np.array([200, 60, 20])).max() <= 6


def test_a_heic_photo_is_opened_with_the_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.new("RGB", (64, 32), (200, 60, 20))
    heif.from_pillow(photo).save(tmp_path / "a.heic", exif=exif.tobytes())
    for name in ("a.heic", "b"):
        (tmp_path / name).write_bytes((tmp_path / "a.heic").read_bytes())
        found = open_image(tmp_path / name)
        assert found.size == (32, 64)
        assert np.abs(np.asarray(found)[32, 16] - np.array([200, 60, 20])).max() <= 6


def test_a_heic_photo_without_the_package_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.jpg").write_bytes(HEIC)  # phones' apps rename them
    with pytest.raises(BadImageError, match=r"a HEIC image, .*: pip install 'selfprompt\[heif\]' \(the package"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\x0a" + bytes(40), "a JPEG XL image.*pillow-jxl-plugin"),
        (b"8BPS\0\1" + bytes(40), "a PSD image.*psd-tools"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG image.*resvg-py"),
        (b"\0\0\1\0\1\0\x10\x10\0\0\1\0" + bytes(40), "an ICO image.*convert it to PNG"),
        (b"\n<!DOCTYPE html><html>", "an HTML page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull"),
        (b"II*\0" + bytes(100), "a kind of TIFF that cannot be decoded"),
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG|truncated|broken"),
    ],
)
def test_undecodable_files_are_named_with_a_remedy(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=told):
        open_image(tmp_path / "a.jpg")


def test_the_thumbnail_of_a_raw_file_is_not_used(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.dng", "TIFF")
    with pytest.raises(BadImageError, match=r"a camera raw image.*rawpy"):
        open_image(tmp_path / "a.dng")


def test_a_path_that_does_not_exist_gets_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    picture(1).save(tmp_path / "cats" / "7.JPG")
    told = {
        "cats\\7.JPG": r"does not exist, but cats/7\.JPG does: write paths with /",
        "cats/7": r"does not exist, but 7\.JPG does: give the whole name",
        "cats/7.JPG,cat": "looks like a row of a table",
        "file_name,label": "looks like a row of a table",
        "9.png,dog": "looks like a row of a table",
        "cats/8.jpg": "does not exist$",
    }
    for path, hint in told.items():
        with pytest.raises(BadImageError, match=hint):
            open_image(Path(path))
    with pytest.raises(ValueError, match=r"no such file or folder, but 7\.JPG does"):
        list(image_paths(["cats/7"]))


def test_predicting_a_folder_reports_ignored_files(tmp_path: Path, linear: Path, run: Callable) -> None:
    fill(tmp_path / "mixed")
    found = run("predict", linear, tmp_path / "mixed", "--format", "jsonl")
    assert found.status == 0
    assert len(found.out.splitlines()) == 10
    assert "Skipped 5 files that are not images (2 .txt, 1 " in found.err
    parts = run("predict", linear, tmp_path / "mixed", "--out", tmp_path / "job")
    assert "Skipped 5 files that are not images" in parts.err
    assert "6 of 10 images classified" in parts.err
