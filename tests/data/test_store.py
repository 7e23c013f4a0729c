"""The store decodes once and keeps its budget; the checks name bad images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfprompt.data.dataset import ImageTable, IndexedSource, Item
from selfprompt.data.loading.check_images import check_dataset, check_images
from selfprompt.data.loading.image_files import BadImage
from selfprompt.data.loading.store import ImageStore, parse_bytes
from selfprompt.data.readers.read import read_dataset
from tests.data.images import picture, write_classes

BYTES = 24 * 20 * 3  # of one picture


def counted(count: int) -> tuple[list[Item], list[int]]:
    """Return items, and the list of fetched indices."""
    read: list[int] = []

    def fetch(index: int) -> Image.Image:
        read.append(index)
        return picture(index)

    table = ImageTable("counted", fetch)
    return [Item(IndexedSource(table, index), 0) for index in range(count)], read


def test_images_are_decoded_once_within_the_budget() -> None:
    items, read = counted(3)
    store = ImageStore(2 * BYTES)
    for _ in range(2):
        for index, item in enumerate(items):
            assert np.array_equal(np.asarray(store.get(item)), np.asarray(picture(index)))
    assert sorted(read) == [0, 1, 2, 2]
    assert (len(store), store.used) == (2, 2 * BYTES)


def test_the_same_index_of_two_objects_is_two_images() -> None:
    one, two = ImageTable("a", lambda index: picture(1)), ImageTable("a", lambda index: picture(2))
    store = ImageStore()
    left, right = (np.asarray(store.get(Item(IndexedSource(table, 0), 0))) for table in (one, two))
    assert not np.array_equal(left, right)
    assert IndexedSource(one, 0) == IndexedSource(one, 0) != IndexedSource(two, 0)


def test_check_fills_the_store_and_reports_progress() -> None:
    items, read = counted(5)
    store = ImageStore()
    calls: list[tuple[int, int]] = []
    good, bad = check_images(items, store, progress=lambda done, total: calls.append((done, total)))
    assert (good, bad, len(store)) == (tuple(items), [], 5)
    assert calls == [(done, 5) for done in range(1, 6)]
    for item in items:
        store.get(item)
    assert sorted(read) == list(range(5))


def spoiled(tmp_path: Path) -> Path:
    """Write two classes; one image of class a is empty, one of class b is text."""
    root = write_classes(tmp_path / "data", {"a": 4, "b": 4})
    (root / "a" / "2.png").write_bytes(b"")
    (root / "b" / "0.png").write_text("no image")
    return root


def test_bad_images_are_named_and_left_out(tmp_path: Path) -> None:
    dataset = read_dataset(spoiled(tmp_path), holdout=0)
    checked, bad = check_dataset(dataset)
    assert [Path(fault.path).name for fault in bad] == ["2.png", "0.png"]
    assert bad[0] == BadImage(str(tmp_path / "data/a/2.png"), "the file is empty")
    assert len(checked.train) == 6
    assert "Left out 2 images that cannot be read" in checked.notes[-1]
    assert "2.png" in checked.notes[-1]
    again, none = check_dataset(checked)
    assert (again, none) == (checked, [])


def test_bad_images_can_be_an_error(tmp_path: Path) -> None:
    dataset = read_dataset(spoiled(tmp_path), holdout=0)
    with pytest.raises(ValueError, match=r"2 images cannot be read: .*2\.png: the file is empty; .*0\.png"):
        check_dataset(dataset, on_bad="fail")
    with pytest.raises(ValueError, match="on_bad must be 'skip' or 'fail', got 'warn'"):
        check_images(dataset.train, on_bad="warn")  # type: ignore[arg-type]


def test_many_bad_images_are_counted(tmp_path: Path) -> None:
    items = [Item(tmp_path / f"{index}.png", 0) for index in range(25)]
    with pytest.raises(ValueError, match=r"25 images cannot be read: .*0\.png.* and 5 more\.") as caught:
        check_images(items, on_bad="fail")
    assert str(caught.value).count("does not exist") == 20


def test_a_class_without_readable_images_is_an_error(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 2, "b_c": 2})
    for file in (root / "b_c").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none is left of: b c\. Unreadable: .*0\.png: the file is empty"):
        check_dataset(read_dataset(root, holdout=0))


@pytest.mark.parametrize(("text", "value"), [("2GB", 2 * 10**9), ("1.5 kib", 1536), (0, 0), ("7", 7), (3, 3)])
def test_budgets(text: int | str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["lots", "2 XB", -1, "GB"])
def test_wrong_budgets_are_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match="must be like '2GB', '500MB' or 0"):
        ImageStore(text)
