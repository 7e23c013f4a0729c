"""The saved folder: what is in it, that it gives back the same classifier, and who may load it."""

import io
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import selfprompt
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.artifact import CARD, CONFIG, TENSORS, read_artifact
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.hub import artifact_folder
from selfprompt.inference.loading import pick_device
from selfprompt.methods.registry import build_method
from selfprompt.metrics import Metrics
from selfprompt.models.loading.by_name import load_backbone
from tests.conftest import write_photos

PICTURES = torch.linspace(-2, 2, 3 * 3 * 64 * 64).view(3, 3, 64, 64)
SMALL = {
    "coop": {"prompts": 4},
    "gatevpt": {"prompts": 5},
    "sep": {"text_prompts": 2, "image_prompts": 2, "layers": (1, 3)},
    "spt": {"prompts": 3, "deep": False},
    "vpt": {"prompts": 3},
}


def classifier(name: str) -> Classifier:
    """A classifier whose tensors are anything but their start."""
    kind = "clip" if name in ("coop", "sep", "zero-shot") else "mae"
    backbone = load_backbone(f"embedded/{kind}")
    method = build_method(name, backbone, ["cat", "lawn mower", "猫, klein"], seed=3, **SMALL.get(name, {}))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Classifier(method, backbone.preprocess, batch_size=7)


@pytest.mark.parametrize("name", ["coop", "full", "gatevpt", "linear", "sep", "spt", "vpt", "zero-shot"])
class TestEveryMethod:
    def test_comes_back_bit_for_bit(self, name, tmp_path):
        before = classifier(name)
        before.save(tmp_path / "out")
        after = selfprompt.load(tmp_path / "out")
        assert torch.equal(before.logits(PICTURES), after.logits(PICTURES))
        assert (after.classes, after.preprocess, after.batch_size) == (before.classes, before.preprocess, 7)
        assert after.method.options == before.method.options

    def test_stores_what_is_tuned_and_nothing_else(self, name, tmp_path):
        saved = classifier(name)
        saved.save(tmp_path)
        tensors = load_file(tmp_path / TENSORS)
        assert tensors.keys() == saved.method.adapter_state_dict().keys()
        assert all(torch.equal(tensor, saved.method.adapter_state_dict()[key]) for key, tensor in tensors.items())
        assert sorted(path.name for path in tmp_path.iterdir()) == [CARD, CONFIG, TENSORS]


@pytest.mark.parametrize("name", ["coop", "linear", "zero-shot"])
def test_descriptions_of_classes_come_back(name, tmp_path):
    kind = "mae" if name == "linear" else "clip"
    cat = {"names": ["cat", "kitten"], "descriptions": ["it purrs."], "templates": ["a {}, a pet."]}
    backbone = load_backbone(f"embedded/{kind}")
    method = build_method(name, backbone, [cat, "\x1b[31mdog"], **SMALL.get(name, {}))
    before = Classifier(method, backbone.preprocess, batch_size=7)
    before.save(tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text(encoding="utf-8"))
    assert config["class_descriptions"] == [cat, {"names": ["\x1b[31mdog"]}]
    after = selfprompt.load(tmp_path / "out")
    assert after.method.descriptions == before.method.descriptions
    assert torch.equal(before.logits(PICTURES), after.logits(PICTURES))


def test_a_classifier_takes_descriptions_from_python_and_from_a_file(tmp_path):
    before = classifier("coop")
    file = tmp_path / "classes.yaml"
    file.write_text("cat: {names: [cat, kitten]}", encoding="utf-8")
    said = [{"names": ["cat", "kitten"]}, *before.classes[1:]]
    expected = before.with_classes(said).logits(PICTURES)
    assert not torch.allclose(expected, before.logits(PICTURES))
    for given in (file, str(file), {"cat": {"names": ["cat", "kitten"]}}):
        assert torch.equal(before.with_classes(given).logits(PICTURES), expected)


def test_the_configuration_is_complete(linear):
    config = json.loads((linear / CONFIG).read_text(encoding="utf-8"))
    backbone = load_backbone("embedded/mae")
    assert config["method"] == "linear"
    assert config["options"] == {"pooling": "auto", "head_std": 0.02}
    assert config["backbone"]["name"] == "embedded/mae"
    assert config["backbone"]["fingerprint"] == backbone.fingerprint
    assert json.loads(config["backbone"]["architecture"])["vision"]["depth"] == 6
    assert config["classes"] == ["blue", "dark red", "green apple", "猫, klein"]
    assert config["preprocess"]["size"] == 64
    assert {"selfprompt", "torch", "pillow", "timm", "open_clip_torch"} == set(config["versions"])
    assert config["results"]["tuned"]["total"] == 8
    assert config["recipe"]["epochs"] == 2


def test_the_configuration_has_the_results_in_brief(linear):
    kept = json.loads((linear / CONFIG).read_text(encoding="utf-8"))["results"]
    result = json.loads((linear / "result.json").read_text(encoding="utf-8"))
    assert result.keys() - kept.keys() == {"history", "recipe", "versions", "data", "preprocess"}
    for name in ("tuned", "ridge"):
        del result[name]["confusion"]
    assert kept.items() <= result.items()


def test_json_has_no_values_that_json_does_not_know(linear, coop):
    def refuse(word):
        raise AssertionError(word)

    for path in (*linear.glob("*.json"), *coop.glob("*.json")):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_model_card_states_method_accuracy_and_usage(coop):
    card = (coop / CARD).read_text(encoding="utf-8")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {"library_name": "selfprompt", "pipeline_tag": "image-classification"}
    results = json.loads((coop / "result.json").read_text(encoding="utf-8"))
    for said in (
        "# coop on embedded/clip",
        "An image classifier for 4 classes: blue, dark red, green apple, 猫, klein.",
        f"**{results['backbone_note']}**",
        f"| zero-shot | {results['zero_shot']['accuracy']:.1f} % |",
        f"| tuned | {results['tuned']['accuracy']:.1f} % |",
        "selfprompt.load(",
        "- lr: 0.01",
        "- There is no test split: held out 8 images of 32",
    ):
        assert said in text


def test_saving_again_replaces_all_of_it(tmp_path):
    classifier("vpt").save(tmp_path)
    second = classifier("linear")
    second.save(tmp_path)
    assert torch.equal(selfprompt.load(tmp_path).logits(PICTURES), second.logits(PICTURES))


def test_a_folder_that_was_half_replaced_is_refused(tmp_path):
    classifier("vpt").save(tmp_path / "old")
    classifier("linear").save(tmp_path / "new")
    shutil.copy(tmp_path / "new" / TENSORS, tmp_path / "old" / TENSORS)
    with pytest.raises(ValueError, match="is damaged or belongs to another run: its hash is not the one in config"):
        read_artifact(tmp_path / "old")


def test_the_backbone_may_be_given_loaded_or_by_another_name(linear):
    backbone = load_backbone("embedded/mae")
    moved = replace(backbone, name="file/elsewhere.safetensors")
    assert torch.equal(
        selfprompt.load(linear, backbone=moved).logits(PICTURES), selfprompt.load(linear).logits(PICTURES)
    )
    with pytest.raises(ValueError, match="its weights or architecture differ"):
        selfprompt.load(linear, backbone="embedded/clip")


def test_one_changed_weight_is_another_backbone(linear):
    backbone = load_backbone("embedded/mae")
    with torch.no_grad():
        next(backbone.vision.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match="with fingerprint"):
        selfprompt.load(linear, backbone=backbone)


def test_new_names_are_saved_with_the_classifier(coop, tmp_path):
    renamed = selfprompt.load(coop).with_classes(["a sea", "a_wood"])
    renamed.save(tmp_path)
    again = selfprompt.load(tmp_path)
    assert again.classes == ("a sea", "a wood")
    assert torch.equal(again.logits(PICTURES), renamed.logits(PICTURES))
    assert again.results == {}, "what was measured was measured with other names"


def assert_agree(one: selfprompt.Prediction, other: selfprompt.Prediction) -> None:
    """The same classes in the same order, with scores that a batch of another size may round otherwise."""
    assert [name for name, _ in one.top] == [name for name, _ in other.top]
    np.testing.assert_allclose([score for _, score in one.top], [score for _, score in other.top], atol=1e-5)


def test_images_of_every_python_kind_are_taken(linear, photos):
    tuned = selfprompt.load(linear)
    path = photos / "blue" / "0.png"
    image = Image.open(path)
    one = tuned.predict(path)[0]
    same = tuned.predict([path, str(path), image, np.asarray(image)])
    for prediction in same:
        assert_agree(prediction, one)
    assert [p.image for p in same] == [str(path), str(path), "image 2", "image 3"]
    assert (one.label, one.score) == one.top[0]
    assert tuned.predict([]) == []
    (bad,) = tuned.predict([path.with_name("none.png")])
    assert (bad.label, bad.top, bad.error) == ("", (), "the file does not exist")


def test_an_open_file_is_read_and_left_as_it_was(linear, photos):
    tuned = selfprompt.load(linear)
    path = photos / "blue" / "0.png"
    stream = io.BytesIO(path.read_bytes())
    with path.open("rb") as file:
        found = [tuned.predict(image)[0] for image in (file, stream, path.read_bytes(), bytearray(path.read_bytes()))]
        assert (file.closed, file.tell()) == (False, 0)
        assert file.read() == stream.read() == path.read_bytes()
    assert [(p.label, p.error) for p in found] == [("blue", "")] * 4
    assert [p.image for p in found] == [str(path), "image 0", "image 0", "image 0"]
    with path.open(encoding="latin-1") as text:
        assert "open it as binary" in tuned.predict(text)[0].error
    assert "closed file" in tuned.predict(file)[0].error


def test_a_folder_is_the_images_below_it(linear, photos):
    tuned = selfprompt.load(linear)
    found = tuned.predict(photos / "blue")
    assert [p.image for p in found] == [str(path) for path in sorted((photos / "blue").iterdir())]
    assert tuned.predict(str(photos / "blue")) == found
    assert [p.image for batch in tuned.stream(photos / "blue") for p in batch] == [p.image for p in found]
    (inside,) = tuned.predict([photos / "blue"])
    assert inside.error
    with pytest.raises(ValueError, match="has no images"):
        tuned.predict(linear)


def test_batches_and_iterators_are_many_images(linear, photos):
    tuned = selfprompt.load(linear)
    images = [Image.open(photos / "blue" / f"{number}.png") for number in range(3)]
    arrays = np.stack([np.asarray(image) for image in images])
    told: list[tuple[int, int]] = []
    for many in (arrays, torch.tensor(arrays).permute(0, 3, 1, 2), iter(images), (image for image in images), images):
        found = tuned.predict(many, progress=lambda done, total: told.append((done, total)))
        assert [(p.image, p.label) for p in found] == [(f"image {number}", "blue") for number in range(3)]
    assert told == [(3, 3)] * 5
    assert [p.label for p in tuned.predict(np.array([str(photos / "blue" / "0.png")]))] == ["blue"]


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("https://a.org/b.jpg", "it is a URL, not a file: download it first"),
        (b"no image", "not an image"),
        (b"", "the file is empty"),
        (None, "got NoneType"),
        (5, "got int"),
        ({"a": 1}, "neither bytes nor a path"),
        (np.zeros((4, 4, 7)), r"1, 3 or 4 channels"),
        (torch.full((3, 4, 4), torch.nan), "pixel values"),
    ],
)
def test_what_is_no_image_is_said_and_the_others_are_classified(linear, photos, image, error):
    tuned = selfprompt.load(linear)
    (alone,) = tuned.predict(image)
    bad, good = tuned.predict([image, photos / "blue" / "0.png"])
    assert error in alone.error
    assert error in bad.error
    assert (good.label, good.error) == ("blue", "")


def test_evaluate_takes_whatever_tune_takes(linear, photos, tmp_path, caplog):
    tuned, dataset = selfprompt.load(linear), read_dataset(photos)
    held_out = json.loads((linear / "result.json").read_text(encoding="utf-8"))["tuned"]["total"]
    with caplog.at_level(logging.INFO):
        assert tuned.evaluate(str(photos)).total == held_out, "the images that it was trained on are left out"
    assert "only their test images are used" in caplog.text
    copied = shutil.copytree(photos, tmp_path / "copy")
    (copied / "blue" / "broken.png").write_bytes(b"no image")
    count = len(dataset.select("all"))
    assert tuned.evaluate(copied).total == tuned.evaluate(copied, split="train").total == count
    assert "Left out" in caplog.text
    assert "broken.png" in caplog.text
    pairs = [(str(item.source), dataset.classes[item.label]) for item in dataset.train]
    assert tuned.evaluate(pairs).total == tuned.evaluate(dataset.train).total == len(pairs)
    with pytest.raises(ValueError, match="at least 2 classes, got none"):
        tuned.evaluate([])
    with pytest.raises(ValueError, match="zebra"):
        tuned.evaluate(write_photos(tmp_path / "zoo", {"blue": 1, "zebra": 1}))


def test_batches_change_nothing_and_progress_is_reported(linear, photos):
    tuned = selfprompt.load(linear)
    paths = sorted(photos.rglob("*.png"))[:10]
    whole = tuned.predict(paths, top=3)
    tuned.batch_size = 4
    told: list[tuple[int, int]] = []
    parts = tuned.predict(paths, top=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 10), (8, 10), (10, 10)]
    for one, other in zip(whole, parts, strict=True):
        assert_agree(one, other)


def test_top_is_checked(linear):
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        selfprompt.load(linear).predict([], top=0)


def test_a_missing_folder_is_named(tmp_path):
    assert artifact_folder(tmp_path) == Path(tmp_path)
    with pytest.raises(ValueError, match="none: there is no such folder"):
        selfprompt.load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"^owner/none: there is no such folder, and hf-hub:owner/none could not be"):
        selfprompt.load("owner/none")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device().type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda, cuda:NUMBER or mps, got 'tpu'"):
        pick_device("tpu")


def test_a_classifier_shows_itself_in_a_line(coop):
    shown = repr(selfprompt.load(coop))
    assert shown.startswith("Classifier(coop on embedded/clip, ")
    assert shown.endswith(" % of 8 test images; classes: blue, dark red, green apple, 猫, klein)")


def test_a_notebook_shows_a_classifier_and_metrics_as_tables(coop, photos):
    classifier = selfprompt.load(coop)
    tuned = classifier.results["tuned"]
    low, high = tuned["interval"]
    shown = classifier._repr_html_()
    assert (
        f'<td style="text-align: left">{tuned["accuracy"]:.1f} % (95 % interval {low:.1f} - {high:.1f} %) of 8' in shown
    )
    assert "4: blue, dark red, green apple, 猫, klein" in shown
    assert "zero-shot" in shown
    assert "unknown" in classifier.with_classes(["<script>", "b"])._repr_html_()
    assert "&lt;script&gt;, b" in classifier.with_classes(["<script>", "b"])._repr_html_()
    evil = Metrics(50.0, 1, 2, (9.5, 90.5), 50.0, {"<b>": 0.0, "a": 100.0}, 0.25, [[0, 1], [0, 1]])
    assert "&lt;b&gt; 0.0 %, a 100.0 %" in evil._repr_html_()
    assert "50.0 % (95 % interval 9.5 - 90.5 %)" in evil._repr_html_()


def test_an_estimate_stands_in_for_missing_test_images(coop):
    classifier = selfprompt.load(coop)
    estimate = {"accuracy": 80.0, "interval": [70.0, 87.0], "images": 60}
    classifier.results = {"tuned": None, "selection": {"estimate": estimate}, "warnings": ["Look <here>."]}
    shown = classifier._repr_html_()
    assert "80.0 % (95 % interval 70.0 - 87.0 %), estimated by cross-validation" in shown
    assert "Look &lt;here&gt;." in shown


def test_the_package_shows_its_public_names_alone():
    assert set(dir(selfprompt)) == {*selfprompt.__all__, "__version__"}
    assert all(getattr(selfprompt, name) is not None for name in selfprompt.__all__)
