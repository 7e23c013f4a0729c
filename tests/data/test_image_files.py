"""Images of every mode become RGB as a person would see them; damaged files give a one-line reason."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfprompt.data.loading.image_files import BadImageError, open_image
from selfprompt.data.loading.rgb import pixels_to_rgb, to_8_bits, to_rgb
from tests.data.images import picture

GRAY = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # 0..65535


def test_rgb_jpeg_and_png_equal_pil(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        picture(1).save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(image.convert("RGB"))
        assert np.array_equal(np.asarray(open_image(tmp_path / name)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture(2).convert("L").convert("LA") if mode == "LA" else picture(2)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    assert (to_rgb(image).mode, to_rgb(image).size) == ("RGB", image.size)


@pytest.mark.parametrize("name", ["rgba.png", "la.png", "palette.png", "palette.gif", "key.png"])
def test_transparent_pixels_become_white(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "rgba.png":
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(file)
    elif name == "la.png":
        Image.new("LA", (4, 4), (0, 0)).save(file)
    elif name == "key.png":
        Image.new("RGB", (4, 4), (1, 2, 3)).save(file, transparency=(1, 2, 3))
    else:
        image = Image.new("P", (4, 4), 0)
        image.putpalette([9, 9, 9, 200, 200, 200])
        image.save(file, transparency=0)
    assert np.asarray(open_image(file)).min() == 255


def test_opaque_alpha_changes_nothing() -> None:
    image = picture(3)
    assert np.array_equal(np.asarray(to_rgb(image.convert("RGBA"))), np.asarray(image))


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert to_rgb(image).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grays_are_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(GRAY).save(tmp_path / name)
    pixels = np.asarray(open_image(tmp_path / name))
    assert np.array_equal(pixels[..., 0], np.arange(256).reshape(16, 16))


def test_32_bit_values_without_a_scale_are_refused() -> None:
    assert to_8_bits(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]
    assert to_8_bits(np.array([[0.0, 128.0, 255.0]])).tolist() == [[0, 128, 255]]
    with pytest.raises(ValueError, match=r"0\.\.65535, got 0\.\.70000"):
        to_8_bits(np.array([0, 70000]))
    with pytest.raises(ValueError, match=r"\[0, 255\], got -1\.\.300"):
        to_8_bits(np.array([-1.0, 300.0]))
    with pytest.raises(ValueError, match="nan"):
        to_8_bits(np.array([np.nan]))


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = picture(4, width=8, height=4)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    upright = open_image(tmp_path / "a.png")
    assert upright.size == (4, 8)
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(image), -1))


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    picture(4).save(tmp_path / "a.jpg", exif=b"Exif\0\0broken")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL tells of the EXIF
        assert open_image(tmp_path / "a.jpg").size == picture(4).size


def broken_files(folder: Path) -> dict[str, str]:
    """Write damaged files; returns file name -> part of the reason."""
    buffer = BytesIO()
    picture(5, 200, 200).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    buffer = BytesIO()
    picture(5, 200, 200).save(buffer, "PNG")
    png = buffer.getvalue()
    contents = {
        "empty.jpg": (b"", "the file is empty"),
        "text.png": (b"hello", "not an image"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "head.jpg": (jpeg[:30], ""),
        "noise.png": (png[:40] + bytes(range(256)) * 20, ""),
        "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: reason for name, (_, reason) in contents.items()}


def test_broken_files_give_one_line(tmp_path: Path) -> None:
    for name, reason in (broken_files(tmp_path) | {"missing.jpg": "does not exist"}).items():
        with pytest.raises(BadImageError) as caught:
            open_image(tmp_path / name)
        assert caught.value.bad.path == str(tmp_path / name)
        assert reason in caught.value.bad.reason
        assert "\n" not in caught.value.bad.reason
        assert caught.value.__cause__ is None


def test_folder_and_bomb_are_bad_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadImageError, match="not a file"):
        open_image(tmp_path)
    picture(6, 100, 100).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadImageError, match="more pixels than can be opened safely"):
        open_image(tmp_path / "bomb.png")


def test_arrays_and_tensors_become_images() -> None:
    pixels = np.asarray(picture(7))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for value in (pixels, tensor, tensor.float() / 255, picture(7)):
        assert np.array_equal(np.asarray(pixels_to_rgb(value)), pixels)
    for value in (pixels[..., 0], tensor[:1], pixels[..., :1]):
        assert np.array_equal(np.asarray(pixels_to_rgb(value))[..., 2], pixels[..., 0])
    with pytest.raises(TypeError, match="got str"):
        pixels_to_rgb("a.png")
    with pytest.raises(ValueError, match="channels"):
        pixels_to_rgb(np.zeros((4, 4, 7), dtype=np.uint8))
