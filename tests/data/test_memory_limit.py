"""Images take bounded memory, whatever their content and however many threads read them; none stops a run."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
import torch
from PIL import Image

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading import image_views, rgb, transforms
from selfprompt.data.loading.check_images import check_images
from selfprompt.data.loading.image_files import BadImageError, open_image
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.memory_limit import DecodingLimit
from selfprompt.data.loading.prefetch import prefetch
from selfprompt.data.loading.transforms import eval_transform, train_transform
from tests.data.images import Preprocess, picture, tiff_of

STATUS = Path("/proc/self/status")
PEAK = """
import sys
from pathlib import Path
from selfprompt.data.dataset import Item
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform
from tests.data.images import Preprocess

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1000

items = [Item(Path(name), 0) for name in sys.argv[1:]]
before = peak()
batches = Batches(items, ImageStore(0), eval_transform(Preprocess(224)), 16, shuffle=False, workers=6)
assert [len(batch.labels) for batch in batches.epoch(0)] == [len(items)]
print(peak() - before)
"""


def megabytes(*files: Path) -> int:
    """Return the peak memory that loading these images, six at a time, adds to a process."""
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the peak is read from /proc")
def test_a_strip_is_not_scaled_up_before_it_is_cropped(tmp_path: Path) -> None:
    names = [tmp_path / "wide.png", tmp_path / "tall.png", tmp_path / "long.png"]
    for name, size in zip(names, [(500_000, 1), (1, 500_000), (10_000_000, 1)], strict=True):
        Image.new("L", size, 90).save(name)
    assert megabytes(*names) < 400  # 10,200 and more, before


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the peak is read from /proc")
def test_six_readers_share_a_limit(tmp_path: Path) -> None:
    names = [tmp_path / f"{number}.png" for number in range(6)]
    Image.new("RGBA", (3000, 3000), (9, 9, 9, 99)).save(names[0], compress_level=1)
    for name in names[1:]:
        name.write_bytes(names[0].read_bytes())
    assert megabytes(*names) < 500  # 72 MB each, three at a time; six took 1,080


@pytest.mark.parametrize("size", [(700, 2), (2, 700), (400, 3), (90, 60), (300, 1)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_a_crop_is_the_same_whether_the_whole_image_was_resized(
    size: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = np.add.outer(np.arange(size[1]) * 7 / size[1], np.arange(size[0]) * 250 / size[0])
    image = Image.fromarray(np.dstack([smooth] * 3).clip(0, 255).astype(np.uint8))
    transform = eval_transform(Preprocess(interpolation=interpolation))
    whole = transform.pixels(image).int()
    monkeypatch.setattr(image_views, "MAX_RESIZED_PIXELS", 0)
    assert (transform.pixels(image).int() - whole).abs().max() <= 2  # PIL rounds a box's sides


def test_ordinary_images_are_resized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    resize = Image.Image.resize

    def noting(self: Image.Image, size: tuple[int, int], resample: int, box: object = None) -> Image.Image:
        given.append(box)
        return resize(self, size, resample, box)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", noting)
    eval_transform(Preprocess(224)).pixels(picture(1, 3000, 10))
    eval_transform(Preprocess(224)).pixels(picture(1, 10, 4000))
    assert [box is None for box in given] == [True, False]


def test_images_in_decoding_stay_within_the_limit() -> None:
    limit = DecodingLimit(100)
    most = 0

    def decode(size: int) -> int:
        nonlocal most
        with limit.image() as reserve:
            reserve(size)
            most = max(most, limit.used)
            assert limit.used <= 100
        return size

    sizes = [40, 70, 1000, 10, 100, 30, 55] * 30  # one of 1,000 has all of it to itself
    assert [size for batch in prefetch(decode, [sizes], 8) for size in batch] == sizes
    assert limit.used == 0
    assert most == 100


def test_memory_is_released_after_an_error() -> None:
    limit = DecodingLimit(10)

    def fail() -> None:
        with limit.image() as reserve:
            reserve(10)
            raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            fail()
    with limit.image():  # what is never reserved is not given back
        pass
    assert limit.used == 0


def test_images_wait_for_one_another_until_they_are_cropped() -> None:
    store = ImageStore(0)
    store.decoding = DecodingLimit(24 * 20 * 8)  # room for one picture
    table = ImageTable("table", picture)
    items = [Item(IndexedSource(table, index), 0) for index in range(6)]
    used: list[int] = []
    together = Barrier(6)

    def read(item: Item) -> None:
        together.wait()
        store.apply(lambda image: used.append(store.decoding.used), item)

    threads = [Thread(target=read, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert used == [24 * 20 * 8] * 6


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"a.png": "PNG", "a.gif": "GIF", "a.bmp": "BMP", "a.webp": "WEBP", "a.tif": "TIFF", "a.jpg": "JPEG"}
    monkeypatch.setattr(rgb, "MAX_PIXELS", 1000)
    for name, kind in kinds.items():
        picture(1, 50, 40).save(tmp_path / name, kind)
        asked: list[int] = []
        with pytest.raises(BadImageError, match=r"50 x 40 pixels are more than 1,000; make it smaller"):
            open_image(tmp_path / name, asked.append)
        assert not asked


def test_a_tile_that_is_larger_than_its_image_is_refused(tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_of(values, tags={259: 5, 322: 40_000, 323: 50_000, 324: 8, 325: 60}))
    with pytest.raises(BadImageError, match="tile of 40,000 x 50,000 pixels"):
        open_image(tmp_path / "a.tif")


def test_a_compressed_text_chunk_does_not_fill_the_memory(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    data = b"comment\0\0" + zlib.compress(bytes(80_000_000))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    plain = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(plain[:33] + chunk + plain[33:])
    with pytest.raises(BadImageError, match="too large"):
        open_image(tmp_path / "a.png")


def test_a_transform_that_fails_makes_one_image_unreadable(linear: Path, photos: Path, monkeypatch) -> None:
    from selfprompt import load

    files = sorted((photos / "blue").glob("*.png"))[:3]
    pixels_of = transforms.Transform.pixels
    calls = 0

    def failing(self, image, generator=None):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return pixels_of(self, image, generator)

    monkeypatch.setattr(transforms.Transform, "pixels", failing)
    found = load(linear).predict(files)
    assert [prediction.error for prediction in found] == ["", "MemoryError: no details", ""]
    calls = 0
    batches = Batches([Item(file, 0) for file in files], ImageStore(), eval_transform(Preprocess()), 3, shuffle=False)
    with pytest.raises(BadImageError, match=r"1\.png: MemoryError"):
        list(batches.epoch(0))


def test_views_of_strips_are_cropped(tmp_path: Path) -> None:
    for size in ((5000, 1), (1, 5000)):
        image = Image.new("RGB", size, (10, 20, 30))
        for made in (eval_transform(Preprocess()), train_transform(Preprocess())):
            found = made.pixels(image, torch.Generator().manual_seed(0))
            assert found.flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]


def test_a_check_of_six_large_images_ends(tmp_path: Path) -> None:
    table = ImageTable("table", lambda index: Image.new("RGB", (64, 64), (index, 9, 9)))
    store = ImageStore(0)
    store.decoding = DecodingLimit(1)  # each is larger than that
    good, bad = check_images([Item(IndexedSource(table, index), 0) for index in range(6)], store)
    assert (len(good), bad) == (6, [])
