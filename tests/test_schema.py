"""config.json of a saved classifier: every key is checked before it is used, and the message names file and key."""

import copy
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

import selfprompt
from selfprompt.inference import schema
from selfprompt.inference.artifact import CONFIG, TENSORS, read_artifact
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.record_checks import PreprocessKeys
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Preprocess, load_backbone
from selfprompt.utils.json_files import read_json


@pytest.fixture(scope="module")
def config(linear) -> dict[str, Any]:
    return json.loads((linear / CONFIG).read_text(encoding="utf-8"))


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set the value at a dotted path."""

    def change(config: dict[str, Any]) -> None:
        *places, last = path.split(".")
        for place in places:
            config = config[place]
        config[last] = value

    return change


WRONG: dict[str, list[Any]] = {
    "format": [True, None],
    "method": [None, 3, "", " ", "x" * 3000, ["linear"]],
    "options": [None, [], True, "x"],
    "options.head_std": ["0.02", [0.1], None, True],
    "options.pooling": [3, "mean", None, "x" * 10**6],
    "backbone": [None, "embedded/mae", [], True],
    "backbone.name": [None, "", 3],
    "backbone.fingerprint": [None, "", "0" * 63, "Z" * 64, 0],
    "backbone.note": [None, 3],
    "backbone.colour": ["red"],
    "classes": [None, "cats", {"cat": 0}, [], True, [1, 2, 3, 4], ["a", "b", "c", None], ["a", "b", "c", ""]],
    "class_descriptions": [
        3,
        "cats",
        [],
        [3] * 4,
        [{}] * 4,
        [{"names": ["blue"]}],
        [{"names": ["a"]}] * 4,
        [{"names": ["blue"], "colour": ["red"]}] * 4,
        [{"names": ["blue", None]}] * 4,
        [{"names": ["blue"], "templates": ["a photo"]}] * 4,
        [{"names": ["blue"], "descriptions": ["x" * 10**6]}] * 4,
        [{"names": ["blue"], "descriptions": ["x"] * 10**5}] * 4,
    ],
    "preprocess": [None, [], True, {}],
    "preprocess.size": [None, 0, -1, 64.0, True, "64", 10**9, 63, 128],
    "preprocess.mean": [None, 0.5, [0.5], [0.5] * 4, ["a"] * 3, [None] * 3, [True] * 3, [1e300] * 3],
    "preprocess.std": [None, [0, 1, 1], [-0.5] * 3, [0.0] * 3, [1e-30] * 3, {"r": 1}],
    "preprocess.interpolation": [None, "cubic", 3],
    "preprocess.mode": [None, "stretch", True],
    "backbone.image_size": [0, -1, True, "64", 32.0, 10**9],
    "preprocess.resize": [63, True, "72", 10**9],
    "batch_size": [None, 0, -1, True, False, 1e9, 10**9, "100", 1.5, [100]],
    "sample_wise": [None, 1, "true"],
    "recipe": [None, [], True],
    "recipe.holdout": [None, "0.25", 2, -1],
    "recipe.seed": [None, -1, 1.5, True],
    "recipe.classes": [None, "old", 3],
    "recipe.class_names": [3, []],
    "results": [None, [], True],
    "results.tuned": [3, [], {"accuracy": 1}, {"accuracy": "1", "interval": [0, 1], "total": 1}],
    "results.zero_shot": [{"accuracy": 1, "interval": [0], "total": 1}, "high"],
    "results.ridge": [{"accuracy": 1, "interval": [0, 1, 2], "total": 1}, "high", [1]],
    "results.against": ["ridge", [1], {"against": 3}, {"ridge": {"tuned_only": 1, "floor_only": 2, "against": 0.5}}],
    "results.selection": ["ridge", [1], {"estimate": 3, "selection": 1}, {"estimate": {"accuracy": 1, "images": 1}}],
    "results.warnings": ["one", [3], None],
    "results.notes": ["note", [3], None],
    "tensors_sha256": [None, "", 3, "0" * 63, ["0" * 64]],
    "versions": ["1.0", []],
    "extra": [1],
}


@pytest.mark.parametrize(("place", "value"), [(place, value) for place in WRONG for value in WRONG[place]])
def test_a_wrong_value_is_refused_by_its_name(place, value, config, linear, tmp_path):
    changed = copy.deepcopy(config)
    put(place, value)(changed)
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    (tmp_path / CONFIG).write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as raised:
        selfprompt.load(tmp_path)
    message = str(raised.value)
    assert CONFIG in message
    assert place.rpartition(".")[2] in message
    assert len(message) < 700


TEXTS = {
    "NaN": ('"mean": [NaN, 0.5, 0.5]', "NaN is not a number in JSON"),
    "infinity": ('"mean": [-Infinity, 0.5, 0.5]', "-Infinity is not a number in JSON"),
    "a number without end": ('"size": ' + "9" * 5000, "has more than 64 bits"),
    "a large number": ('"size": 18446744073709551616', "has more than 64 bits"),
    "an exponent without end": ('"size": 1e999', "1e999 is not a number in JSON"),
    "a key that stands twice": ('"size": 64, "size": 64', "it has the key 'size' twice"),
    "lists in lists": ('"size": ' + "[" * 100_000 + "]" * 100_000, "it is nested too deeply"),
    "lists in lists that Python still reads": ('"depth": ' + "[" * 700 + "]" * 700, "it is nested too deeply"),
    "objects in objects": ('"size": ' + '{"a":' * 100_000 + "1" + "}" * 100_000, "it is nested too deeply"),
    "a comma too many": ('"size": 64,', "is damaged"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_json_that_is_none_is_refused(case, config, linear, tmp_path):
    inside, message = TEXTS[case]
    text = json.dumps(config).replace('"preprocess": {', '"preprocess": {' + inside + ", ", 1)
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / CONFIG))} is damaged: .*Restore it") as raised:
        read_artifact(tmp_path)
    assert message in str(raised.value)


def test_a_repeated_key_is_detected_among_many(tmp_path):
    keys = ",".join(f'"k{number}": 0' for number in range(50_000))
    (tmp_path / "a.json").write_text("{" + keys + ', "k49999": 1}', encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ValueError, match="it has the key 'k49999' twice"):
        read_json(tmp_path / "a.json", advice="")
    assert time.process_time() - start < 5  # comparing each with each takes longer on any machine


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"", b"{", b"null\x00", b"\x80"])
def test_bytes_that_are_no_json(content, linear, tmp_path):
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / CONFIG))} is damaged: "):
        read_artifact(tmp_path)


def tensors_changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Other tensors in an artifact, with their hash."""
    from hashlib import sha256

    tensors = load_file(folder / TENSORS)
    change(tensors)
    content = save(tensors)
    (folder / TENSORS).write_bytes(content)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | {"tensors_sha256": sha256(content).hexdigest()}), encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint16])
def test_tensors_of_types_that_no_method_stores(dtype, linear, tmp_path):
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    tensors_changed(tmp_path, lambda found: found.update({"head.bias": found["head.bias"].to(dtype)}))
    with pytest.raises(ValueError, match=rf"{TENSORS} is damaged: head.bias is {dtype}, which no method stores"):
        selfprompt.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_tensors_of_another_type(dtype, linear, tmp_path):
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    tensors_changed(tmp_path, lambda found: found.update({"head.bias": found["head.bias"].to(dtype)}))
    with pytest.raises(ValueError, match=rf"head.bias in its {TENSORS} must be torch.float32, got {dtype}"):
        selfprompt.load(tmp_path)


def test_options_that_no_memory_holds(linear, tmp_path):
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    for options in ({"prompts": 10**9}, {"layers": list(range(20_000))}, {"layers": [[10**12]]}, {"x": "x" * 10**6}):
        (tmp_path / CONFIG).write_text(json.dumps(config | {"method": "vpt", "options": options}), encoding="utf-8")
        with pytest.raises(ValueError, match=rf"{CONFIG} is damaged: .*options\.\w+ must lie in"):
            selfprompt.load(tmp_path)


def test_the_labels_of_a_cache_fit_its_classes(tmp_path):
    backbone = load_backbone("embedded/clip")
    method = build_method("tip-adapter", backbone, ["cat", "dog"])
    Classifier(method, backbone.preprocess).save(tmp_path)
    for keys, labels in ((3, [0, 1, 2]), (3, [0, -1, 1]), (2, [0, 1, 0])):
        tensors_changed(
            tmp_path,
            lambda found, keys=keys, labels=labels: found.update(
                keys=torch.zeros(keys, found["keys"].shape[1]), labels=torch.tensor(labels)
            ),
        )
        with pytest.raises(ValueError, match=r"The tensors do not fit tip-adapter: the cache has .*labels"):
            selfprompt.load(tmp_path)


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    backbone = load_backbone("embedded/mae")
    tuned = Classifier(build_method("linear", backbone, ["cat", "dog"]), backbone.preprocess, batch_size=0)
    with pytest.raises(ValueError, match="batch_size must lie in"):
        tuned.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_schema_matches_the_preprocessing_record():
    assert [f.name for f in fields(PreprocessKeys)] == [f.name for f in fields(Preprocess)]


def test_every_artifact_that_is_written_passes(linear, coop):
    for folder in (linear, coop):
        schema.check_config(read_artifact(folder).config)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json is not a file\. Delete it"):
        read_json(tmp_path / "a.json", advice="Delete it.")


def test_tensors_with_strange_names_end_with_one_sentence(linear, tmp_path):
    shutil.copytree(linear, tmp_path, dirs_exist_ok=True)
    strange = {str(number) + "x" * 5000: torch.zeros(1) for number in range(1000)}
    tensors_changed(tmp_path, lambda found: found.update(strange))
    with pytest.raises(ValueError, match=r"The tensors do not fit linear: .*xxx\.\.\..* more") as raised:
        selfprompt.load(tmp_path)
    assert len(str(raised.value)) < 10_000
