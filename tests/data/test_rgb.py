"""Pixels of every type and bit depth keep their appearance; none turns black."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading import rgb
from selfprompt.data.loading.check_images import check_images
from selfprompt.data.loading.image_files import open_image
from selfprompt.data.loading.image_remarks import remarks_on
from selfprompt.data.loading.loader import ImageStore
from selfprompt.data.loading.rgb import pixels_to_rgb, to_rgb
from tests.data.images import picture, png_of_16_bits, tiff_of

INTEGERS = ("int16", "int32", "int64", "uint16", "uint32", "uint64")
COLOURS = np.asarray(picture(1))
GRAYS = np.asarray(picture(1).convert("L"))
ALPHA = np.dstack([COLOURS, np.full(COLOURS.shape[:2], 255, np.uint8)])


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("kind", INTEGERS)
def test_values_up_to_255_are_the_same_picture_in_every_integer_type(kind: str) -> None:
    for values in (COLOURS, GRAYS, ALPHA):
        assert np.array_equal(array(pixels_to_rgb(values.astype(kind))), array(pixels_to_rgb(values)))
    if kind in ("int16", "int32", "int64"):
        tensor = torch.from_numpy(COLOURS.astype(kind)).permute(2, 0, 1)
        assert np.array_equal(array(pixels_to_rgb(tensor)), COLOURS)


def test_a_classifier_sees_the_same_in_every_integer_type(linear: Path, photos: Path) -> None:
    from selfprompt import load

    values = np.asarray(Image.open(next((photos / "blue").glob("*.png"))))
    found = load(linear).predict([values, *(values.astype(kind) for kind in INTEGERS)])
    assert len({(prediction.label, prediction.error) for prediction in found}) == 1
    assert found[0].label == "blue"


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    "write",
    [
        *(png_of_16_bits, lambda values: tiff_of(values, "<"), lambda values: tiff_of(values, ">")),
    ],
    ids=["png", "tiff-little", "tiff-big"],
)
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_values_of_any_depth_in_16_bits_are_not_black(
    tmp_path: Path, bits: int, write: Callable[[np.ndarray], bytes], channels: int
) -> None:
    values = {0: GRAYS, 3: COLOURS, 4: ALPHA}[channels].astype(np.uint16) << (bits - 8)
    values[0, 0, ...] = 2**bits - 1
    (tmp_path / "image").write_bytes(write(values))
    found = open_image(tmp_path / "image")
    wanted = (values >> (bits - 8)).astype(np.uint8)
    wanted = np.dstack([wanted] * 3) if channels == 0 else wanted[..., :3]
    assert np.array_equal(array(found), wanted)
    said = () if bits == 16 else (f"read as {bits}-bit values, as none is above {2**bits - 1}",)
    assert remarks_on(found) == said


def test_gray_and_alpha_of_16_bits(tmp_path: Path) -> None:
    values = np.dstack([GRAYS.astype(np.uint16) << 4, np.full(GRAYS.shape, 4095)])
    values[0, 0] = (4095, 0)
    (tmp_path / "a.png").write_bytes(png_of_16_bits(values))
    found = array(open_image(tmp_path / "a.png"))
    assert found[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(found[1:, :, 0], GRAYS[1:])


def test_white_may_be_zero(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_of(np.array([[0, 65535]], np.uint16), tags={262: 0}))
    assert array(open_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [255, 0]


def test_a_depth_stated_in_the_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 100], ">u2").tobytes())
    found = open_image(tmp_path / "a.pgm")
    assert array(found)[0, :, 0].tolist() == [0, 6]  # dark, as it was: 100 of 4095
    assert not found.info.get(rgb.BIT_DEPTH)


def test_floats_slightly_outside_their_range_are_rounding() -> None:
    exact = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    for kind in (np.float16, np.float32, np.float64):
        for factor in (1, 1.0005, 255):
            found = array(pixels_to_rgb((exact * factor).astype(kind)))[..., 0]
            assert np.abs(found - exact * 255.0).max() <= 1.5
    half = torch.rand(3, 8, 8).to(torch.bfloat16)
    assert np.array_equal(array(pixels_to_rgb(half)), array(pixels_to_rgb(half.float())))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.array([[0.0, 1.5]]), "which is meant"),
        (np.array([[-1.0, 1.0]]), "pass the pixels before normalisation"),
        (np.array([[0.0, 4000.0]]), "divide them by the largest"),
        (np.array([[np.nan, 1.0]]), "NaN or infinite"),
        (np.array([[-1, 5]]), r"0\.\.65535, got -1\.\.5"),
        (np.array([[1 + 2j]]), "integers, floats or bool, got complex"),
        (np.array([["a"]]), "integers, floats or bool"),
        (np.zeros((2, 8, 8, 3), np.uint8), "one by one, as a list"),
        (torch.zeros(2, 3, 8, 8), "one by one, as a list"),
        (np.zeros((3, 8, 9), np.uint8), r"array\.transpose\(1, 2, 0\)"),
        (torch.zeros(8, 9, 3), r"shape \(8, 9, 3\).*tensor\.permute\(2, 0, 1\)"),
        (np.zeros((8, 9, 2), np.uint8), "if the second one is alpha"),
        (np.zeros((0, 9, 3), np.uint8), "empty"),
        (Image.new("RGB", (0, 5)), "must have pixels"),
    ],
)
def test_invalid_values_get_a_helpful_message(value: object, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        pixels_to_rgb(value)


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_pil_image_is_oriented_like_its_file(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    picture(4, 8, 4).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(array(pixels_to_rgb(image)), array(open_image(tmp_path / "a.png")))
        assert pixels_to_rgb(image).size == ((8, 4) if turn < 5 else (4, 8))
        assert np.array_equal(array(pixels_to_rgb(image.convert("RGB"))), array(open_image(tmp_path / "a.png")))


RED = (200, 60, 20)


def coloured(mode: str) -> Image.Image:
    image = Image.new("RGB", (9, 9), RED)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        found = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert found is not None
        return found
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    if mode == "P":
        return image.quantize(4)
    return (image.convert(through) if through else image).convert(mode)


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA", "L", "LA", "La"]
)
def test_every_mode_keeps_its_colour(mode: str) -> None:
    wanted = np.array(RED if mode[0] != "L" or mode == "LAB" else [97] * 3)
    near = 20 if mode == "PA" else 3  # PA takes the colours of the web's palette
    assert np.abs(array(to_rgb(coloured(mode)))[4, 4] - wanted).max() <= near


def test_cmyk_files_keep_their_colour(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.tif"):  # Adobe's JPEGs hold inverted values, and so do PIL's
        Image.new("RGB", (16, 16), RED).convert("CMYK").save(tmp_path / name, quality=95)
        assert np.abs(array(open_image(tmp_path / name))[8, 8] - np.array(RED)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "I;16B", "I", "F", "L"])
def test_large_images_are_converted_by_tiles_to_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(3, 37, 23).convert("L")
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(picture(5, 37, 23).convert("L"))
    elif mode == "P":
        image = picture(3, 37, 23).quantize(200)
        image.info["transparency"] = 5
    elif mode.startswith("I"):
        values = np.asarray(image).astype({"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode]) * 200
        image = Image.frombytes(mode, image.size, values.tobytes()) if mode == "I;16B" else Image.fromarray(values)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    whole = to_rgb(image)
    for size in (10, 100):
        monkeypatch.setattr(rgb, "TILE_PIXELS", size)
        assert np.array_equal(array(to_rgb(image)), array(whole))


def test_images_of_one_colour_get_a_remark() -> None:
    flat, spot = Image.new("RGB", (300, 200), RED), Image.new("RGB", (300, 200), RED)
    spot.putpixel((7, 3), (0, 0, 0))
    assert remarks_on(to_rgb(flat)) == ("of one colour throughout",)
    assert remarks_on(to_rgb(spot)) == ()
    values = [flat, spot, GRAYS.astype(np.uint16) * 16, flat]
    table = ImageTable("images", lambda index: values[index])
    items = [Item(IndexedSource(table, index), 0) for index in range(4)]
    store = ImageStore()
    for _ in range(2):  # the second time they come out of the store
        said: list[str] = []
        assert check_images(items, store, say=said.append)[1] == []
        assert said == [
            "2 images are of one colour throughout: images[0], images[3].",
            "1 image is read as 12-bit values, as none is above 4095: images[2].",
        ]


def test_commands_report_images_that_look_wrong(tmp_path: Path, linear: Path, photos: Path, run: Callable) -> None:
    for name in photos.iterdir():
        (tmp_path / name.name).mkdir()
        for number in range(2):
            (tmp_path / name.name / f"{number}.png").write_bytes((name / f"{number}.png").read_bytes())
    black = tmp_path / "blue" / "black.png"
    Image.new("RGB", (8, 8)).save(black)
    told = f"1 image is of one colour throughout: {black}"
    assert told in run("predict", linear, tmp_path).err
    assert '"remarks"' in run("predict", linear, black, "--format", "jsonl").out
    assert told in run("eval", linear, tmp_path).err
    assert told in run("predict", linear, tmp_path, "--out", tmp_path.parent / f"{tmp_path.name}-job").err
