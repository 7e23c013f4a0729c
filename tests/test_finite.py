"""Numbers that are not finite: nothing is predicted or written with them, and a message says where they are."""

import copy
import csv
import io
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import selfprompt
from selfprompt.inference.artifact import read_artifact, save_artifact
from selfprompt.methods.linear import Linear
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.embedded import weights_file
from selfprompt.utils.files import to_json, write_json
from selfprompt.utils.json_files import parse_json
from tests.conftest import FAST

BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.fixture
def one_bad(monkeypatch):
    """The scores of the first image of each batch are not finite."""
    scores = Linear.logits

    def logits(self, views):
        found = scores(self, views)
        found[0, 1] = torch.nan
        return found

    monkeypatch.setattr(Linear, "logits", logits)


def test_one_image_without_finite_scores_is_named_and_the_others_are_classified(linear, photos, one_bad):
    images = sorted((photos / "blue").iterdir())[:3]
    first, *others = selfprompt.load(linear).predict(images)
    assert (first.label, first.top) == ("", ())
    assert "not finite" in first.error
    assert all(found.label and not found.error for found in others)


def test_every_format_reports_an_image_without_finite_scores(linear, photos, one_bad, run, tmp_path):
    def predict(*more):
        return run("predict", linear, photos / "blue", *more)

    for records in (
        parse_json(predict("--format", "json").out.encode()),
        [parse_json(line.encode()) for line in predict("--format", "jsonl").out.splitlines()],
    ):
        assert ["error" in record for record in records] == [True] + 7 * [False]
    rows = list(csv.DictReader(io.StringIO(predict("--format", "csv").out)))
    assert len(rows) == 7
    shown = predict()
    assert shown.status == 0
    assert "nan" not in shown.out
    assert "not finite" in shown.err
    assert predict("--on_bad_image", "fail").status == 1
    assert run("predict", linear, photos / "blue" / "0.png").status == 1, "nothing could be classified"
    done = predict("--out", tmp_path / "job")
    assert done.status == 0
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["unreadable"] == 1
    assert "nan" not in (tmp_path / "job" / "shard-00001-of-00001.csv").read_text()


def test_eval_refuses_scores_that_are_not_finite(linear, photos, one_bad, run):
    refused = run("eval", linear, photos)
    assert refused.status == 1
    assert "Logits must be finite numbers" in refused.err


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("command", ["predict", "predict --format json", "predict --out", "eval"])
def test_an_artifact_with_tensors_that_are_not_finite_is_refused(linear, photos, run, tmp_path, command, value):
    artifact = read_artifact(linear)
    weight = artifact.tensors["head.weight"].clone()
    weight[1, 2] = value
    save_artifact(tmp_path / "bad", replace(artifact, tensors={**artifact.tensors, "head.weight": weight}))
    words = [*command.split(), *([tmp_path / "job"] if "--out" in command else [])]
    refused = run(words[0], tmp_path / "bad", photos, *words[1:])
    assert refused.status == 1
    assert "head.weight holds NaN or infinity" in " ".join(refused.err.split())
    assert refused.out == ""


@pytest.mark.parametrize("value", BAD)
def test_a_backbone_with_weights_that_are_not_finite_is_refused_before_training(photos, run, tmp_path, value):
    state = load_file(weights_file("mae"))
    name = next(name for name in state if name.endswith("attn.qkv.weight"))
    state[name][0, 0] = value
    save_file(state, tmp_path / "bad.safetensors")
    refused = run("train", photos, *FAST, "--backbone", f"file/{tmp_path}/bad.safetensors", "--out", tmp_path / "run")
    assert refused.status == 1
    said = " ".join(refused.err.split())
    assert "must be finite numbers" in said
    assert name in said
    assert "lower lr" not in said
    assert not (tmp_path / "run").exists()


def test_a_loaded_backbone_with_weights_that_are_not_finite_is_refused(linear, photos):
    backbone = copy.deepcopy(load_backbone("embedded/mae"))
    with torch.no_grad():
        next(backbone.vision.parameters()).view(-1)[0] = torch.nan
    for use in (
        lambda: selfprompt.tune(photos, method="linear", backbone=backbone, epochs=1),
        lambda: selfprompt.load(linear, backbone=backbone),
    ):
        with pytest.raises(ValueError, match="must be finite numbers, and vision"):
            use()


def test_a_run_whose_last_step_diverges_is_not_saved(photos, run, tmp_path):
    rate = ("--lr", "1e38", "--schedule", "constant", "--batch-size", "100")  # one step
    ended = run("train", photos, *FAST, *rate, "--out", tmp_path / "run")
    assert ended.status == 1
    assert "after epoch 1" in ended.err
    assert "Try a lower lr" in " ".join(ended.err.split())
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("value", BAD)
def test_a_number_that_is_not_finite_is_never_written_nor_read_as_json(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"accuracy": [value]})
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="JSON"):
        parse_json(json.dumps(value).encode())
    assert to_json({"猫": 1.5}) == '{"猫": 1.5}'


def test_an_option_that_is_not_finite_is_refused(photos):
    with pytest.raises(ValueError, match="dropout must be a finite number, got nan"):
        selfprompt.tune(photos, method="vpt-deep", backbone="embedded/mae", options={"dropout": float("nan")})
