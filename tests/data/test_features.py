"""Features of a set of images are computed once, in memory and on disk, and are those that the encoder gave."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from PIL import Image
from torch import Tensor

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.feature_cache import Encoder, FeatureFolder, FeatureStore, checksum
from selfprompt.data.loading.loader import Batches, ImageStore
from selfprompt.data.loading.transforms import eval_transform, train_transform
from tests.data.images import Preprocess, picture, write_classes

COUNT, WIDTH = 11, 5
ALL = COUNT * WIDTH * 4  # bytes
FIXED, RANDOM = eval_transform(Preprocess()), train_transform(Preprocess())


class Counting:
    """A linear encoder that notes how many images it has seen."""

    def __init__(self, key: str = "one") -> None:
        weight = torch.randn(3 * 16 * 16, WIDTH, generator=torch.Generator().manual_seed(0))
        self.seen = 0

        def encode(images: Tensor) -> Tensor:
            self.seen += len(images)
            return images.flatten(1) @ weight

        self.encoder = Encoder(key, encode)


def items(read: list[int] | None = None) -> list[Item]:
    """Images that live in an object, which notes whom it has read."""

    def fetch(index: int) -> Image.Image:
        if read is not None:
            read.append(index)
        return picture(index)

    table = ImageTable("noise", fetch)
    return [Item(IndexedSource(table, index), index % 3) for index in range(COUNT)]


def make(found: list[Item], features: FeatureStore | None, **changes: object) -> Batches:
    settings = {"transform": FIXED, "batch_size": 4, "shuffle": True, "seed": 1, **changes}
    return Batches(found, ImageStore(0), features=features, **settings)  # type: ignore[arg-type]


def rows(batches: Batches, number: int, encoder: Encoder, pixels: bool = False) -> Tensor:
    """The features of an epoch, by image."""
    found = torch.full((batches.size, WIDTH), torch.nan)
    for views in batches.epoch(number, encoder=encoder, pixels=pixels):
        assert views.features is not None
        found[views.indices] = views.features
    return found


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_image_is_read_and_encoded_once_over_all_epochs(shuffle: bool) -> None:
    counting, read = Counting(), []
    batches = make(items(read), FeatureStore(), shuffle=shuffle)
    first = rows(batches, 0, counting.encoder)
    assert torch.equal(rows(batches, 1, counting.encoder), first)
    assert torch.equal(rows(make(items(), FeatureStore(), shuffle=shuffle), 5, Counting().encoder), first), "any epoch"
    assert counting.seen == COUNT
    assert sorted(read) == list(range(COUNT))
    plain = make(items(), None, shuffle=False).epoch(0)
    assert torch.equal(torch.cat([counting.encoder.encode(batch.pixels) for batch in plain]), first), "bit for bit"


def test_batches_are_the_same_with_and_without_features() -> None:
    for pixels in (True, False):
        store = FeatureStore()
        for number in (0, 3):
            plain, kept = make(items(), None), make(items(), store)
            seen = list(kept.epoch(number, encoder=Counting().encoder, pixels=pixels))
            for batch, views in zip(plain.epoch(number), seen, strict=True):
                assert torch.equal(batch.labels, views.labels)
                assert torch.equal(batch.indices, views.indices)
                if pixels:
                    assert torch.equal(batch.pixels, views.pixels)
                else:
                    with pytest.raises(RuntimeError, match="no pixels"):
                        _ = views.pixels


def test_whatever_changes_the_features_changes_the_key() -> None:
    store, found = FeatureStore(), items()
    larger = eval_transform(Preprocess(mode="squash"))
    sets = [make(found, store), make(found, store, transform=larger), make(found[::-1], store)]
    sets += [make(found, store, batch_size=3), make(items(), store)]
    for done, batches in enumerate(sets):
        counting = Counting()
        rows(batches, 0, counting.encoder)
        assert (counting.seen, len(store)) == (COUNT, COUNT * (done + 1))
    again, other = Counting(), Counting("two")
    rows(sets[0], 0, again.encoder)
    rows(sets[0], 0, other.encoder)
    assert (again.seen, other.seen) == (0, COUNT)


def test_two_fixed_views_are_each_encoded_once() -> None:
    counting, read = Counting(), []
    batches = make(items(read), FeatureStore(), transform=RANDOM, views=2)
    epochs = [rows(batches, number, counting.encoder) for number in range(5)]
    assert counting.seen == len(read) == 2 * COUNT
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert not torch.isclose(epochs[0], epochs[1]).all(dim=1).any(), "no image has its first view again"
    assert make(items(), None, transform=RANDOM, views=2).order(0) != batches.order(2), "the order is new"
    free = make(items(), None, transform=RANDOM)
    for number, draw in ((0, 0), (1, 1), (4, 0)):
        assert torch.equal(batches.batch([3], draw=number), free.batch([3], draw=draw))
    with pytest.raises(ValueError, match=r"views must be 0 .* got -1"):
        make(items(), None, views=-1)


def test_views_that_never_come_back_are_not_kept() -> None:
    counting, store = Counting(), FeatureStore()
    for views in make(items(), store, transform=RANDOM).epoch(0, encoder=counting.encoder, pixels=False):
        assert views.features is None
        assert views.pixels.ndim == 4
    assert (counting.seen, len(store)) == (0, 0)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_budget_holds(shuffle: bool) -> None:
    store, counting = FeatureStore(2 * ALL - 1), Counting()
    first, second = (make(items(), store, shuffle=shuffle) for _ in range(2))
    rows(first, 0, counting.encoder)
    for _ in range(2):
        for views in second.epoch(0, encoder=counting.encoder, pixels=False):
            assert views.pixels.ndim == 4, "pixels are there, for the method may need them"
            assert views.features is None or not shuffle
    assert (len(store), store.used) == (COUNT, ALL)
    rows(first, 0, Counting().encoder)
    with pytest.raises(ValueError, match="must be like '2GB'"):
        FeatureStore("much")


def test_an_epoch_that_is_broken_off_leaves_nothing_half_done() -> None:
    store, counting = FeatureStore(), Counting()
    batches = make(items(), store, shuffle=False)
    next(batches.epoch(0, encoder=counting.encoder))
    assert len(store) == 0
    assert not rows(batches, 0, counting.encoder).isnan().any()


# On disk


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[], list[Item]]:
    """Items of a folder of images, as a new process would list them."""
    root = write_classes(tmp_path / "photos", {"a": COUNT - 4, "b": 4}, ".bmp")  # all of one size
    return lambda: [Item(path, int(path.parent.name == "b")) for path in sorted(root.rglob("*.bmp"))]


def encoded(found: list[Item], folder: Path, key: str = "one", **changes: object) -> tuple[int, Tensor]:
    """Return the number of images that a new store had to encode, and the features."""
    counting = Counting(key)
    features = rows(make(found, FeatureStore(folder=folder), **changes), 0, counting.encoder)
    return counting.seen, features


def test_another_process_finds_the_features_on_disk(photos: Callable[[], list[Item]], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    seen, first = encoded(photos(), folder)
    again, second = encoded(photos(), folder)
    assert (seen, again) == (COUNT, 0)
    assert torch.equal(first, second)
    (file,) = folder.iterdir()
    assert file.suffix == ".safetensors"
    assert encoded(items(), folder)[0] == COUNT
    assert encoded(items(), folder)[0] == 0, "pixels tell what images in an object hold"


def test_whatever_changes_the_features_makes_another_file(photos: Callable[[], list[Item]], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    encoded(photos(), folder)
    squashed = eval_transform(Preprocess(mode="squash"))
    fixed = {"transform": RANDOM, "views": 1}
    others = [{"key": "two"}, {"transform": squashed}, {"batch_size": 5}, fixed, {**fixed, "seed": 2}]
    for done, other in enumerate(others, 2):
        assert [encoded(photos(), folder, **other)[0] for _ in range(2)] == [COUNT, 0], other
        assert len(list(folder.iterdir())) == done
    assert encoded(photos()[::-1], folder)[0] == COUNT
    found = photos()
    path = found[3].source
    assert isinstance(path, Path)
    content, status = path.read_bytes(), path.stat()
    picture(99).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size, "neither size nor time tells"
    seen, changed = encoded(photos(), folder)
    assert seen == COUNT
    path.write_bytes(content)
    seen, before = encoded(photos(), folder)
    assert seen == 0
    assert (changed != before).any(dim=1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("damage", ["cut", "text", "bit", "empty"])
def test_a_damaged_file_is_reported_and_rewritten(
    photos: Callable[[], list[Item]], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    _, first = encoded(photos(), folder)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    bent = content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]
    file.write_bytes({"cut": content[:-7], "text": b"no tensors", "bit": bent, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        seen, features = encoded(photos(), folder)
    assert seen == COUNT
    assert torch.equal(features, first)
    assert f"{file} is damaged" in caplog.text
    assert encoded(photos(), folder)[0] == 0


@pytest.mark.parametrize(
    "tensors",
    [
        {"features": torch.zeros(())},
        {"features": torch.zeros(COUNT, 2, 2)},
        {"features": torch.zeros(COUNT, 2, dtype=torch.long)},
        {"features": torch.zeros(COUNT, 2), "checksum": torch.zeros(3)},
        {"features": torch.zeros(COUNT, 2), "checksum": torch.tensor([])},
    ],
)
def test_a_file_of_other_tensors_is_reported_and_rewritten(
    photos: Callable[[], list[Item]], tmp_path: Path, tensors: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "cache"
    _, first = encoded(photos(), folder)
    (file,) = folder.iterdir()
    save_file({"checksum": torch.tensor(checksum(tensors["features"])), **tensors}, file)
    with caplog.at_level(logging.WARNING):
        seen, features = encoded(photos(), folder)
    assert seen == COUNT
    assert torch.equal(features, first)
    assert f"{file} is damaged" in caplog.text


def test_a_folder_that_cannot_be_written_to_stops_no_run(
    photos: Callable[[], list[Item]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert encoded(photos(), tmp_path / "file" / "cache")[0] == COUNT
    assert "could not be written" in caplog.text
    with pytest.raises(ValueError, match=r"feature_cache must be a folder, and .*file is a file"):
        FeatureStore(folder=tmp_path / "file")


def test_two_writers_and_a_reader_do_not_disturb_each_other(tmp_path: Path) -> None:
    batches, features = make(items(), None), torch.arange(COUNT * 4000.0).reshape(COUNT, -1)
    key = batches._feature_key(0, Counting("one").encoder)
    start, wrong = Barrier(3), []

    def write() -> None:
        mine = FeatureFolder(tmp_path)
        start.wait()
        for _ in range(20):
            mine.write(key, batches.store, features)

    writers = [Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    reader = FeatureFolder(tmp_path)
    start.wait()
    while any(writer.is_alive() for writer in writers):
        if list(tmp_path.glob("*.safetensors")):
            found = reader.read(key, batches.store)
            wrong += [found] if found is None or not torch.equal(found, features) else []
    assert wrong == []
    assert len(list(tmp_path.iterdir())) == 1, "no temporary file is left"
