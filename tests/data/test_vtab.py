"""VTAB-1k: image lists, TFDS folders, label rules, preprocessing."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfprompt.data.loading.image_files import BadImageError
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.data.suites import list_tasks, load_task, tfds, vtab
from selfprompt.data.suites.tfrecord import find_records, parse_example
from tests.data.images import Preprocess, picture
from tests.data.roots import example, image_bytes, write_text, write_tfds, write_vtab


def test_nineteen_tasks_in_three_groups() -> None:
    tasks = list_tasks("vtab")
    assert len(tasks) == 19
    assert [len(group) for group in vtab.GROUPS.values()] == [7, 4, 8]
    assert sum(vtab.GROUPS.values(), ()) == tasks
    assert set(tfds.BUILDERS) == set(tasks)


@pytest.mark.parametrize("folder", ["vtab-1k/kitti", "kitti", "Structured/Kitti"])
def test_image_lists(tmp_path: Path, folder: str) -> None:
    target = write_vtab(tmp_path, "kitti", (8, 4, 5), folder=folder)
    task = load_task("vtab/kitti", tmp_path)
    dataset = task.dataset
    assert [row[1] for row in dataset.summary()] == [8, 4, 5]
    assert dataset.classes == ("class 0", "class 1", "class 2", "class 3")
    assert [item.label for item in dataset.train] == [0, 1, 2, 3] * 2
    assert dataset.val[1].source == target / "images/val200/000001.jpg"
    assert dataset.notes == ("Read from image lists.", "The files are JPEG copies: pixels differ from TFDS's.")
    final = vtab.merge_train_val(dataset)
    assert [row[1] for row in final.summary()] == [12, 0, 5]


def test_a_root_of_the_coop_line_is_not_vtab(tmp_path: Path) -> None:
    (tmp_path / "dtd/images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has no vtab-1k/dtd/train800\.txt. `selfprompt data get vtab`"):
        load_task("vtab/dtd", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/a.jpg", "line 1 must be a path and a label"),
        ("images/a.jpg -1", "line 1 must be a path and a label"),
        ("images/a.jpg cat", "line 1 must be a path and a label"),
        ("7", "line 1 must be a path and a label"),
        ("", r"must list at least one image.*Delete it and get it again"),
        ("a.jpg 0\na.jpg 1", "line 2 lists 'a.jpg' a second time"),
        ("a.jpg 4", r"labels must lie in 0\.\.3, got 4"),
        ("../a.jpg 0", "must lie below"),
    ],
)
def test_broken_lists_are_named(tmp_path: Path, line: str, message: str) -> None:
    write_text(write_vtab(tmp_path, "kitti", (1, 1, 1)) / "val200.txt", line)
    with pytest.raises(ValueError, match=rf"val200\.txt.*{message}"):
        load_task("vtab/kitti", tmp_path)


def test_paths_with_spaces_and_tabs(tmp_path: Path) -> None:
    target = write_vtab(tmp_path, "kitti", (1, 1, 1))
    write_text(target / "test.txt", "images/a b.jpg 2\nimages/c.jpg\t1\n")
    test = load_task("vtab/kitti", tmp_path).dataset.test
    assert [(item.source, item.label) for item in test] == [
        (target / "images/a b.jpg", 2),
        (target / "images/c.jpg", 1),
    ]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    (write_vtab(tmp_path, "kitti", (1, 1, 1)) / "test.txt").unlink()
    with pytest.raises(ValueError, match=r"test\.txt is missing. `selfprompt data get vtab`"):
        load_task("vtab/kitti", tmp_path)


# --- TFDS folders ---


def png(values: dict[str, list[Any]]) -> bytes:
    return example({"image": [image_bytes("PNG")], **values})


def write_dmlab(root: Path) -> Path:
    folder = root / "tfds/dmlab/2.0.1"
    labels = [png({"label": [number % 6], "filename": [b"x"]}) for number in range(6)]
    write_tfds(folder, "train", [labels * 100, labels * 60])  # 600 + 360
    write_tfds(folder, "validation", [labels * 50])
    return write_tfds(folder, "test", [labels, labels[:3]])


def test_tfds_folders_give_the_first_800_in_the_order_of_shards(tmp_path: Path) -> None:
    write_dmlab(tmp_path)
    write_text(tmp_path / "tfds/dmlab/2.0.1/label.labels.txt", "a\nb_c\nd\ne\nf\ng\n")
    dataset = load_task("vtab/dmlab", tmp_path).dataset
    assert [row[1] for row in dataset.summary()] == [800, 200, 9]
    assert [item.label for item in dataset.train] == [number % 6 for number in range(800)]
    assert [item.label for item in dataset.test] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert dataset.classes == ("a", "b c", "d", "e", "f", "g")
    assert dataset.notes == ("Read from the TFDS folder tfds/dmlab/2.0.1.",)
    assert np.array_equal(dataset.test[7].load(), picture(0, 8, 8))  # lossless


def test_layout_selects_if_both_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no TFDS folder dmlab; prepare it with tfds"):
        load_task("vtab/dmlab", tmp_path, layout="tfds")
    write_dmlab(tmp_path)
    write_vtab(tmp_path, "dmlab", (1, 1, 1))
    assert len(load_task("vtab/dmlab", tmp_path).dataset.train) == 1
    assert len(load_task("vtab/dmlab", tmp_path, layout="tfds").dataset.train) == 800
    shutil.rmtree(tmp_path / "vtab-1k")
    with pytest.raises(ValueError, match=r"has no vtab-1k/dmlab/train800\.txt"):
        load_task("vtab/dmlab", tmp_path, layout="lists")


def test_broken_tfds_folders_are_named(tmp_path: Path) -> None:
    folder = write_dmlab(tmp_path)
    shard = folder / "x-test.tfrecord-00001-of-00002"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"test: .*-00001-of-00002 is truncated after \d+ bytes"):
        load_task("vtab/dmlab", tmp_path)
    shard.write_bytes(whole)
    write_tfds(folder, "validation", [[png({"label": [0]})] * 199])
    with pytest.raises(ValueError, match=r"validation: .*holds 199 records .* 200 are needed"):
        load_task("vtab/dmlab", tmp_path)
    write_tfds(folder, "validation", [[b"\xff\xff\xff\xff"] * 200])
    with pytest.raises(ValueError, match=r"validation: a record is not a tf\.train\.Example"):
        load_task("vtab/dmlab", tmp_path)
    write_tfds(folder, "validation", [[png({"other": [0]})] * 200])
    with pytest.raises(ValueError, match="validation: 'label'; prepare dmlab again"):
        load_task("vtab/dmlab", tmp_path)
    for path in folder.glob("*validation*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no records of the split 'validation'"):
        load_task("vtab/dmlab", tmp_path)


def test_records_are_decoded_in_supported_formats_only(tmp_path: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    write_tfds(write_dmlab(tmp_path), "test", [[example({"image": [script], "label": [0], "filename": [b"x"]})]] * 2)
    dataset = load_task("vtab/dmlab", tmp_path).dataset
    with pytest.raises(BadImageError, match="not an image"):  # PIL would hand it to another program
        dataset.test[0].load()


def labels_of(root: Path, task: str, version: str, test: str, examples: list[bytes]) -> list[int]:
    """Return the labels of a task's test split that consists of these messages."""
    folder = root / "tfds" / tfds.BUILDERS[task].config / version
    write_tfds(folder, test, [examples])
    return [item.label for item in tfds.read_split(task, folder, "test")]


def test_kitti_is_the_distance_of_the_nearest_vehicle(tmp_path: Path) -> None:
    def frame(*objects: tuple[int, float]) -> bytes:
        places = [value for _, depth in objects for value in (1.0, 2.0, depth)]
        return example({"objects/location": places, "objects/type": [kind for kind, _ in objects]})

    pedestrian = (3, 1.0)
    frames = [
        frame((0, 8.0), pedestrian),
        frame((2, 8.5), (0, 30.0)),
        frame((1, 20.0)),
        frame((0, 20.5)),
        frame(pedestrian),
    ]
    assert labels_of(tmp_path, "kitti", "3.2.0", "test", frames) == [0, 1, 1, 2, 3]


def test_clevr_counts_objects_and_bins_the_nearest(tmp_path: Path) -> None:
    def scene(*depths: float) -> bytes:
        return example({"objects/pixel_coords": [value for depth in depths for value in (100.0, 90.0, depth)]})

    scenes = [scene(12.0, 8.0, 11.0), scene(8.25, 9.0, 10.0, 9.0), scene(*[10.5] * 10), scene(9.75, 20.0, 30.0)]
    assert labels_of(tmp_path, "clevr_count", "3.1.0", "validation", scenes) == [0, 1, 7, 0]
    assert labels_of(tmp_path, "clevr_dist", "3.1.0", "validation", scenes) == [0, 1, 5, 4]


def test_dsprites_joins_neighbouring_values_and_shows_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tfds.BUILDERS, "dsprites_ori", replace(tfds.BUILDERS["dsprites_ori"], test=("train", 0, None)))
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8)).save(buffer, "PNG")
    sprites = [
        example({"image": [buffer.getvalue()], "label_orientation": [value], "label_x_position": [value % 32]})
        for value in range(40)
    ]
    labels = labels_of(tmp_path, "dsprites_ori", "2.0.0", "train", sprites)
    assert labels == [int(value / 2.5) for value in range(40)]
    assert max(labels) == 15
    item = tfds.read_split("dsprites_ori", tmp_path / "tfds/dsprites/2.0.0", "test")[0]
    assert np.asarray(item.load())[..., 0].tolist() == [[0, 255], [255, 0]]
    position = tfds.BUILDERS["dsprites_loc"].label
    assert [position({"label_x_position": [value]}) for value in (0, 1, 2, 31)] == [0, 0, 1, 15]


def test_validation_images_of_smallnorb_are_from_its_test_split() -> None:
    builder = tfds.BUILDERS["smallnorb_azi"]
    assert builder.val == ("test", 0, 200)
    assert builder.test == ("test", 12_150, None)


def test_examples_hold_every_kind_of_value(tmp_path: Path) -> None:
    values = {"a": [b"x", b""], "b": [1.5, -2.0], "c": [0, 300, -1], "d": [2**40]}
    folder = write_tfds(tmp_path, "train", [[example(values)], [], [example({"e": [1]})] * 2])
    paths = sorted(folder.iterdir())
    assert find_records(paths, 0, 1)[0].read() == values
    assert parse_example(memoryview(example(values)), ["c"]) == {"c": [0, 300, -1]}
    assert [record.path for record in find_records(paths, 1, None)] == [paths[2]] * 2


# --- preprocessing ---


def test_preprocessing_is_explicit_and_keeps_the_edges_of_wide_frames() -> None:
    wide = picture(1, 64, 16)
    pixels = {name: eval_transform(how.apply(Preprocess())).pixels(wide) for name, how in vtab.PREPROCESSING.items()}
    assert np.array_equal(pixels["spt"], np.asarray(wide)[:, 24:40].transpose(2, 0, 1))  # only the centre is left
    assert np.array_equal(pixels["default"], pixels["noah"])
    assert not np.array_equal(pixels["default"], pixels["vpt"])
    assert vtab.PREPROCESSING["spt"].apply(Preprocess(resize=20)) == Preprocess()  # all of them resize to the crop
    assert asdict(vtab.PREPROCESSING["vpt"]) == {
        "mode": "squash",
        "interpolation": "bilinear",
        "statistics": "imagenet",
        "augment": "none",
    }
