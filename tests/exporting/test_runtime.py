"""`selfprompt.runtime` predicts from an exported folder as the classifier does, without torch."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import selfprompt
import selfprompt.runtime
from selfprompt.data.loading.image_views import MODES, view_of
from selfprompt.data.loading.transforms import eval_transform
from selfprompt.inference.predictions import Prediction

REQUESTS = ({"top": 3}, {"unknown": 0.2}, {"coverage": 0.8}, {"unknown": 0.5, "coverage": 0.5})


@pytest.fixture(scope="module")
def classifier(exported) -> selfprompt.Classifier:
    return selfprompt.load(exported.classifier)


@pytest.fixture(scope="module")
def runtime(exported) -> selfprompt.runtime.ExportedClassifier:
    return selfprompt.runtime.load(exported.folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photos) -> Path:
    """Images that the classifier has not seen, of several sizes and kinds, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(3)
    for number, (width, height) in enumerate(((90, 60), (50, 200), (64, 64), (300, 211))):
        noise = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / f"{number}.jpg")
    Image.new("RGBA", (70, 80), (200, 20, 20, 90)).save(folder / "flat.png")
    shutil.copy(photos / "blue" / "0.png", folder / "blue.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    return folder


def same(found: list[Prediction], expected: list[Prediction]) -> None:
    """Compare predictions: equal but for the last digits of scores."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.image, one.label, one.error, one.remarks, one.unknown) == (
            (other.image, other.label, other.error, other.remarks, other.unknown)
        )
        assert one.classes == other.classes
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert [score for _, score in one.top] == pytest.approx([score for _, score in other.top], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_it_gives_the_predictions_of_the_classifier(request_, classifier, runtime, pictures):
    expected = classifier.predict(pictures, **request_)
    assert any(one.error for one in expected)
    same(runtime.predict(pictures, **request_), expected)


@pytest.mark.slow
def test_it_takes_what_the_classifier_takes(classifier, runtime, pictures):
    array = np.asarray(Image.open(pictures / "0.jpg"))
    image = Image.fromarray(array)
    for images in (str(pictures / "0.jpg"), array, array[None], image, (pictures / "0.jpg").read_bytes(), [image] * 3):
        same(runtime.predict(images, top=2), classifier.predict(images, top=2))
    assert runtime.predict([]) == []
    done: list[tuple[int, int]] = []
    runtime.predict([image] * 3, progress=lambda *counts: done.append(counts), workers=0)
    assert done == [(3, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_precision_predicts_about_the_same(precision, exported, runtime, photos):
    other = selfprompt.runtime.load(exported.folder, precision=precision)
    found, expected = other.predict(photos), runtime.predict(photos)
    assert np.mean([one.label == two.label for one, two in zip(found, expected, strict=True)]) > 0.9
    assert any(one.score != two.score for one, two in zip(found, expected, strict=True)), "another model"


@pytest.mark.slow
def test_wrong_requests_are_refused(exported, runtime, photos):
    for wrong, message in (
        ({"top": 0}, "top must be"),
        ({"unknown": 2.0}, "unknown must"),
        ({"workers": -1}, "least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            runtime.predict(photos, **wrong)
    with pytest.raises(ValueError, match=r"knows no precision fp8\. It has: fp32, fp16, int8"):
        selfprompt.runtime.load(exported.folder, precision="fp8")


@dataclass(frozen=True)
class Preprocessing:
    size: int = 20
    mean: tuple[float, ...] = (0.5, 0.4, 0.3)
    std: tuple[float, ...] = (0.2, 0.2, 0.2)
    interpolation: str = "bicubic"
    mode: str = "shortest"
    resize: int | None = None


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize(("mode", "resize"), [*((mode, None) for mode in MODES), ("shortest", 25), ("squash", 25)])
def test_the_pixels_are_those_of_training_to_the_bit(mode, resize, interpolation):
    preprocess = Preprocessing(mode=mode, resize=resize, interpolation=interpolation)
    random, view, transform = np.random.default_rng(1), view_of(preprocess), eval_transform(preprocess)
    for width, height in ((20, 20), (31, 57), (400, 11), (3, 3), (1, 90)):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        expected = transform.pixels(image).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(np.asarray(view(image)), expected)


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "rich", "jsonargparse", "yaml", "torchmetrics", "onnx", "scipy"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
from selfprompt.runtime.__main__ import main
status = main(sys.argv[1:])
own = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")} - set(sys.stdlib_module_names)
print(*sorted(own), file=sys.stderr)
sys.exit(status)
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command of the runtime where there is no torch; the last line of its errors lists what was imported."""
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ)


@pytest.mark.slow
def test_the_command_needs_no_torch(exported, classifier, pictures):
    done = alone(exported.folder, pictures, "--format", "csv", "--top", 2)
    assert done.returncode == 0, done.stderr
    *said, imported = done.stderr.splitlines()
    assert set(imported.split()) <= {"PIL", "numpy", "onnxruntime", "selfprompt", "coloredlogs", "humanfriendly"}
    assert any("broken.jpg" in line and line.startswith("skipped") for line in said)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    expected = [pair for one in classifier.predict(pictures, top=2) for pair in one.top]
    assert [row["label"] for row in rows] == [label for label, _ in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx([score for _, score in expected], abs=2e-5)


@pytest.mark.slow
def test_the_command_writes_tables_and_json(exported, classifier, pictures):
    image = pictures / "blue.png"
    (expected,) = classifier.predict(image)
    table = alone(exported.folder, image).stdout.splitlines()
    assert table[0].split() == ["image", "class", "probability"]
    assert table[1].split() == [str(image), "blue", f"{100 * expected.score:.1f}", "%"]
    (record,) = json.loads(alone(exported.folder, image, "--format", "json", "--coverage", 0.9).stdout)
    assert record["label"] == "blue"
    broken = alone(exported.folder, pictures / "broken.jpg", "--format", "jsonl")
    assert broken.returncode == 1
    assert "error" in json.loads(broken.stdout)
    assert alone(exported.folder, image, "--top", 0).returncode == 2
    assert "is not an exported classifier" in alone(pictures, image).stderr
