"""The folder of an export is checked before it is used; new class names replace old ones in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import selfprompt
import selfprompt.runtime
from selfprompt.exporting import measure
from selfprompt.exporting.folder import stored_file
from selfprompt.runtime.folder import RECORD, read_export
from selfprompt.runtime.session import open_session


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of the export."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    change(record)
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.slow
def test_the_command_measures_every_precision(exported):
    record = read_export(exported.folder)
    assert list(record.precisions) == ["fp32", "fp16", "int8"]
    full, half, small = record.precisions.values()
    assert full.largest_difference < 1e-4 < half.largest_difference < small.largest_difference
    assert full.file.bytes > 1.9 * half.file.bytes > 2 * small.file.bytes
    expected = selfprompt.load(exported.classifier).results["tuned"]
    assert full.measured is not None
    assert (full.measured.accuracy, full.measured.total) == (expected["accuracy"], expected["total"])
    assert list(full.measured.interval) == list(expected["interval"])
    assert record.measured_on == "8 test images of photos"
    readme = (exported.folder / "README.md").read_text(encoding="utf-8")
    for name, model in record.precisions.items():
        assert (exported.folder / model.file.path).stat().st_size == model.file.bytes
        line = next(line for line in exported.said.splitlines() if name in line)
        assert f"{model.file.bytes / 1e6:.1f} MB" in line
        assert f"{model.measured.accuracy:.1f} %" in line
        assert f"| {name} | {model.file.path} |" in readme


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_the_models(exported):
    home = str(Path(selfprompt.__file__).parent).encode()
    for path in exported.folder.iterdir():
        assert home not in path.read_bytes(), path


DAMAGE = {
    "format": (lambda record: record.update(format=2), "has format 2; this version of selfprompt reads 1"),
    "missing": (lambda record: record.pop("classes"), "it has no classes"),
    "unknown": (lambda record: record.update(code="x"), "unknown keys: 'code'"),
    "type": (lambda record: record.update(batch_size="many"), "batch_size must be a whole number"),
    "range": (lambda record: record.update(batch_size=0), "batch_size must lie in 1"),
    "classes": (lambda record: record["classes"].pop(), "it must have 3 rows"),
    "size": (lambda record: record["preprocess"].update(size=32), "does not map images of 32 x 32"),
    "huge": (lambda record: record["preprocess"].update(size=10**9), "preprocess.size must lie in"),
    "precision": (lambda record: record["precisions"].update(fp8={}), "precisions must be some of fp32"),
    "hash": (lambda record: record["precisions"]["fp32"]["file"].update(sha256="0" * 64), "has another hash"),
    "bytes": (lambda record: record["precisions"]["fp32"]["file"].update(bytes=5), "has another hash"),
    "up": (lambda record: record["class_vectors"].update(path="../x.npy"), "must lie inside the folder"),
    "absolute": (lambda record: record["class_vectors"].update(path="/etc/passwd"), "must lie inside the folder"),
    "drive": (lambda record: record["class_vectors"].update(path="C:x.npy"), "must lie inside the folder"),
    "calibration": (lambda record: record["calibration"].update(temperature=0), "calibration.temperature"),
    "no vectors": (lambda record: record.pop("class_vectors"), "does not map images"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_refused(kind, folder):
    change, message = DAMAGE[kind]
    edit(folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        selfprompt.runtime.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.slow
def test_damaged_files_are_refused(folder):
    model = folder / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model\.onnx is damaged"):
        selfprompt.runtime.load(folder)
    model.unlink()
    with pytest.raises(ValueError, match=r"model\.onnx is missing"):
        selfprompt.runtime.load(folder)
    (folder.parent / "outside.onnx").write_bytes(content)
    model.symlink_to(folder.parent / "outside.onnx")
    with pytest.raises(ValueError, match="is a link to a file outside"):
        selfprompt.runtime.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("content", [np.array([object()]), np.zeros((4, 3)), np.full((4, 128), np.nan, np.float32)])
def test_wrong_class_vectors_are_refused(content, folder):
    path = next(folder.glob("*.npy"))
    np.save(path, content, allow_pickle=True)
    edit(folder, lambda record: record["class_vectors"].update(vars(stored_file(folder, path.name))))
    with pytest.raises(ValueError, match="is damaged: it"):
        selfprompt.runtime.load(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "{parent}/secret.bin", "link.bin"])
def test_weights_outside_of_the_folder_are_not_read(location, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.ones(3, np.float32).tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    weight = TensorProto(name="mean", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location.format(parent=tmp_path))
    model = of_pixels([helper.make_node("Add", ["means", "mean"], ["logits"])], [weight])
    (inside / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="cannot be opened by onnxruntime"):
        open_session(inside / "model.onnx", 8, classes=3, vectors=None)


def of_pixels(nodes: list[Any], weights: list[Any]) -> onnx.ModelProto:
    """Return a model with the mean of each channel as ``means``, and the nodes given."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    start = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
    ]
    graph = helper.make_graph([*start, *nodes], "graph", [images], [logits], [axes, *weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_other_models_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(of_pixels([helper.make_node("Identity", ["means"], ["logits"])], []).SerializeToString())
    session = open_session(path, 8, classes=3, vectors=None)
    assert session.logits(np.full((2, 8, 8, 3), 7, np.uint8)).tolist() == [[7.0] * 3] * 2
    for wrong in ({"size": 9, "classes": 3}, {"size": 8, "classes": 4}):
        with pytest.raises(ValueError, match="does not map images"):
            open_session(path, vectors=None, **wrong)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="cannot be opened by onnxruntime"):
        open_session(path, 8, classes=3, vectors=None)


def test_an_onnxruntime_that_reads_other_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "1.23.2")
    with pytest.raises(ImportError, match=r"onnxruntime 1\.23\.2 may read files outside"):
        open_session(tmp_path / "model.onnx", 8, classes=3, vectors=None)


@pytest.mark.slow
def test_other_class_names_need_no_new_export(exported, folder, run, photos):
    names = ["blue", "green apple", "a photo of the sea"]
    models = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.onnx")}
    said = run("export", exported.classifier, "--out", folder, "--classes", ",".join(names), "--classes-only")
    assert said.status == 0, said.err
    assert models == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.onnx")}
    assert len(list(folder.glob("*.npy"))) == 1, "the former vectors are gone"
    renamed, expected = selfprompt.runtime.load(folder), selfprompt.load(exported.classifier).with_classes(names)
    assert renamed.classes == tuple(names)
    for one, two in zip(renamed.predict(photos, top=3), expected.predict(photos, top=3), strict=True):
        assert one.classes == two.classes
        assert one.score == pytest.approx(two.score, abs=1e-5)
    with pytest.raises(ValueError, match="no calibration"):
        renamed.predict(photos, unknown=0.1)
    assert run("export", exported.classifier, "--out", folder, "--classes-only").status == 0
    again = selfprompt.runtime.load(folder)
    assert again.record.calibration == selfprompt.load(exported.classifier).calibration


@pytest.mark.slow
def test_classes_of_another_classifier_are_refused(exported, folder, coop, linear, run):
    assert "was exported from another classifier" in run("export", coop, "--out", folder, "--classes-only").err
    assert (
        "cannot take new class names"
        in run("export", linear, "--out", folder, "--classes", "a,b", "--classes-only").err
    )


@pytest.mark.slow
def test_what_goes_wrong_leaves_no_folder(exported, tmp_path, run, monkeypatch):
    out = tmp_path / "out"
    command = ("export", exported.classifier, "--out", out)
    logits = measure.torch_logits
    monkeypatch.setattr(measure, "torch_logits", lambda *arguments: logits(*arguments) + 0.01)
    said = run(*command, "--precision", "fp32")
    assert said.status == 1
    assert "is not equal to the classifier: its logits differ by 0.01" in said.err
    assert not list(tmp_path.iterdir())
    for wrong, message in (
        (("--precision", "fp64"), "--precision must be some of fp32, fp16, int8"),
        (("--classes-only", "--precision", "fp16"), "--classes-only exports no model"),
        (("--data", tmp_path, "--classes", "a,b"), "leave one of them out"),
    ):
        said = run(*command, *wrong)
        assert said.status == 2
        assert message in said.err
    out.mkdir()
    (out / "mine.txt").touch()
    assert f"{out} exists already" in run(*command).err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_head_without_class_vectors_is_exported_alone(linear, tmp_path, photos):
    from selfprompt.exporting.export import export

    classifier = selfprompt.load(linear)
    record = export(classifier, tmp_path / "out", precisions=("int8", "fp32"))
    assert record.class_vectors is None
    assert list(read_export(tmp_path / "out").precisions) == ["int8", "fp32"]
    found = selfprompt.runtime.load(tmp_path / "out", precision="fp32")
    assert selfprompt.runtime.load(tmp_path / "out").precision == "int8", "the first one is used"
    assert [one.label for one in found.predict(photos)] == [one.label for one in classifier.predict(photos)]


def test_without_test_images_nothing_is_measured(exported, tmp_path: Path, run) -> None:
    moved = Path(shutil.copytree(exported.classifier, tmp_path / "dogs"))
    (moved / "result.json").unlink()  # as in a copy from the hub, which does not say where the photos were
    said = run("export", moved, "--out", tmp_path / "onnx", "--precision", "fp32")
    assert said.status == 0
    assert "--data FOLDER measures the accuracy on labelled images." in said.out
    assert read_export(tmp_path / "onnx").precisions["fp32"].measured is None
