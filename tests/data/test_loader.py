"""Batches do not depend on threads, processes or interruptions, and hold each image once an epoch."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.image_files import BadImageError
from selfprompt.data.loading.loader import Batches, ImageStore, seeded
from selfprompt.data.loading.transforms import eval_transform, train_transform
from selfprompt.data.views import Views
from tests.data.images import Preprocess, picture

RANDOM = train_transform(Preprocess())
FIXED = eval_transform(Preprocess())
TABLE = ImageTable("pictures", picture)


def pictures(count: int) -> list[Item]:
    return [Item(IndexedSource(TABLE, index), index % 3) for index in range(count)]


def make(count: int = 11, size: int = 4, **options: object) -> Batches:
    options = {"transform": RANDOM, "shuffle": True, "seed": 1, **options}
    return Batches(pictures(count), ImageStore(), batch_size=size, **options)  # type: ignore[arg-type]


def same(left: Views, right: Views) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in ("pixels", "labels", "indices"))


def test_shapes_and_types() -> None:
    batches = make()
    steps = list(batches.epoch(0))
    assert len(steps) == len(batches) == 3
    assert [step.pixels.shape for step in steps] == [(4, 3, 16, 16), (4, 3, 16, 16), (3, 3, 16, 16)]
    assert all(step.pixels.dtype == torch.float32 and step.labels.dtype == torch.int64 for step in steps)
    assert (batches.size, batches.classes, batches.labels.tolist()) == (11, 3, [i % 3 for i in range(11)])
    for step in steps:
        assert torch.equal(step.labels, batches.labels[step.indices])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_nothing(workers: int) -> None:
    for epoch in (0, 3):
        plain, threaded = make().epoch(epoch), make(workers=workers).epoch(epoch)
        assert all(same(a, b) for a, b in zip(plain, threaded, strict=True))
    indices = [5, 5, 0]
    assert torch.equal(make().batch(indices, draw=2), make(workers=workers).batch(indices, draw=2))


def test_epochs_differ_and_repeat() -> None:
    batches = make()
    orders = [batches.order(epoch) for epoch in range(4)]
    assert all(a != b for a, b in pairwise(orders))
    assert orders == [make().order(epoch) for epoch in range(4)]
    assert make(seed=0).order(0) != make(seed=1).order(0)
    assert make(shuffle=False).order(7) == list(range(11))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_resumes_at_any_step(workers: int) -> None:
    whole = list(make().epoch(2))
    for start in range(len(whole) + 1):
        rest = list(make(workers=workers).epoch(2, start))
        assert len(rest) == len(whole) - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_augmentation_depends_on_seed_epoch_and_image_only() -> None:
    batches = make()
    for step in batches.epoch(5):
        assert torch.equal(batches.batch(step.indices, draw=5), step.pixels)
    assert not torch.equal(batches.batch([3], draw=0), batches.batch([3], draw=1))
    assert not torch.equal(batches.batch([3]), make(seed=2).batch([3]))
    regrouped = {
        int(i): image for step in make(size=5).epoch(5) for image, i in zip(step.pixels, step.indices, strict=True)
    }
    for step in batches.epoch(5):
        assert all(torch.equal(regrouped[int(i)], image) for image, i in zip(step.pixels, step.indices, strict=True))


def test_plain_is_every_image_once_under_the_evaluation_transform() -> None:
    plain = make(rank=1, world=2, drop_last="auto", workers=1).deterministic()
    images = torch.cat([step.pixels for step in plain.epoch(0)])
    assert torch.equal(images, torch.stack([FIXED(picture(index)) for index in range(11)]))
    assert torch.equal(plain.batch([4], draw=1), plain.batch([4], draw=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_handed_over_on_their_device(workers: int) -> None:
    batches = make(device="meta", workers=workers)
    step = next(batches.epoch(0))
    assert (step.pixels.device.type, step.pixels.shape, step.pixels.dtype) == ("meta", (4, 3, 16, 16), torch.float32)
    assert step.labels.device.type == step.indices.device.type == "cpu"
    assert batches.batch([1, 2]).device.type == "meta"
    assert batches.deterministic().device == torch.device("meta")
    assert torch.equal(step.indices, next(make().epoch(0)).indices)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(make().epoch(0))
    list(make(workers=2).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_ranks_concatenate_to_one_process(count: int, size: int, world: int, drop: bool, seed: int) -> None:
    options = {"drop_last": drop and "auto", "seed": seed, "transform": FIXED}
    one = make(count, size, **options)
    parts = [make(count, size, rank=rank, world=world, **options) for rank in range(world)]
    assert {len(part) for part in parts} == {len(one)}
    for step, *shares in zip(one.epoch(seed), *(part.epoch(seed) for part in parts), strict=True):
        for name in ("pixels", "labels", "indices"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(step, name))
        sizes = [len(share.indices) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_each_image_once_an_epoch(count: int, size: int, seed: int, epoch: int, shuffle: bool) -> None:
    order = make(count, size, seed=seed, shuffle=shuffle).order(epoch)
    assert sorted(order) == list(range(count))
    batches = make(count, size, seed=seed, shuffle=shuffle, transform=FIXED)
    seen = [int(index) for step in batches.epoch(epoch) for index in step.indices]
    assert seen == order
    dropped = make(count, size, drop_last="auto")
    assert len(dropped) == (count // size if count >= size else 1)


def test_a_bad_image_names_itself(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    picture(0).save(tmp_path / "good.png")
    items = [Item(tmp_path / name, 0) for name in ("good.png", "good.png", "empty.png")]
    for workers in (0, 2):
        batches = Batches(items, ImageStore(), FIXED, 1, shuffle=False, workers=workers)
        with pytest.raises(BadImageError, match=r"empty\.png: the file is empty"):
            list(batches.epoch(0))


def test_stopping_early_stops_the_threads() -> None:
    read: list[int] = []

    def fetch(index: int) -> Image.Image:
        read.append(index)
        return picture(index)

    table = ImageTable("counted", fetch)
    items = [Item(IndexedSource(table, index), 0) for index in range(200)]
    epoch = Batches(items, ImageStore(), FIXED, 2, shuffle=False, workers=2).epoch(0)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    assert len(read) < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least 1 image"),
        ({"size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world": 2}, "got rank 2 of world 2"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"drop_last": True, "size": 12}, "drop_last leaves no batch: 11 images, batch_size 12"),
        ({"drop_last": "never"}, "drop_last must be True, False or 'auto', got 'never'"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)  # type: ignore[arg-type]


def test_wrong_steps_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="start_step <= 3; got 0, 4"):
        make().epoch(0, 4)
    with pytest.raises(ValueError, match="got -1, 0"):
        make().epoch(-1)


def test_seeds_are_pinned() -> None:
    assert seeded(1, 2, 3).initial_seed() == 733464669408481064
    assert make().order(0) == [10, 1, 5, 4, 2, 7, 9, 3, 6, 8, 0]
