"""`auto` end to end: comparing candidates, choosing, estimating, resuming."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import selfprompt
from selfprompt import tune
from selfprompt.data.loading.loader import ImageStore
from selfprompt.inference.classifier import Classifier
from selfprompt.models.feature_tower import FeatureTower
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.recipes.options import AutoOptions
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training import auto, comparison, crossfit
from selfprompt.training import tune as tune_module
from selfprompt.training.candidates import Candidate, for_all_images, for_comparison
from tests.conftest import write_photos

HEADS = {"candidates": ["zero-shot", "simpleshot", "ridge"], "repeats": 2, "views": []}
CLIP = "embedded/clip"


def test_the_choice_is_recorded_and_depends_on_the_seed_alone(photos):
    first, again = (tune(photos, method="auto", backbone=CLIP, options=HEADS, seed=3) for _ in range(2))
    selection = first.results["selection"]
    *heads, resized = (row["name"] for row in selection["candidates"])
    assert heads == HEADS["candidates"]
    assert resized in [f"{name}, squash" for name in heads], "the photos are no squares"
    assert selection["chosen"].split(",")[0] == first.method.name == first.results["method"]
    low, high = selection["estimate"]["interval"]
    assert 0 <= low <= selection["estimate"]["accuracy"] <= high <= 100
    assert {**selection, "candidates": None} == {**again.results["selection"], "candidates": None}
    for one, other in zip(selection["candidates"], again.results["selection"]["candidates"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    resize = "squash" if "squash" in selection["chosen"] else "backbone"
    assert first.recipe["resize"] == resize
    assert first.preprocess.mode == {"squash": "squash", "backbone": "shortest"}[resize]
    named = tune(photos, method=first.method.name, backbone=CLIP, seed=3, shots=0, resize=resize)
    for name, tensor in named.method.adapter_state_dict().items():  # features may be computed in other batches
        torch.testing.assert_close(tensor, first.method.adapter_state_dict()[name], rtol=1e-3, atol=1e-4)


def test_test_images_are_never_looked_at(photos, monkeypatch):
    seen = set()
    load = ImageStore.apply

    def watched(self, function, item):
        seen.add(item.source)
        return load(self, function, item)

    data = selfprompt.read_dataset(photos, holdout=0.25, seed=1)
    test = {item.source for item in data.test}
    assert test
    select = auto.select_recipe

    def selecting(*arguments):
        seen.clear()
        monkeypatch.setattr(ImageStore, "apply", watched)
        found = select(*arguments)
        assert seen
        assert not seen & test
        return found

    monkeypatch.setattr(auto, "select_recipe", selecting)
    tune(photos, method="auto", backbone=CLIP, options=HEADS)


def test_without_test_images_the_accuracy_is_estimated(run, photos, tmp_path):
    done = run("train", photos, "--out", tmp_path / "out", "--method", "auto", "--backbone", CLIP, "--holdout", "0",
               "--options.candidates", "[zero-shot,ridge]", "--options.repeats", "1",
               "--options.views", "[]")  # fmt: skip
    assert done.status == 0, done.err
    assert "Expected accuracy on new images:" in done.out
    assert "unknown" not in done.out + done.err
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["tuned"] is None
    assert result["selection"]["estimate"]["images"] == result["images"]["train"]
    assert selfprompt.load(tmp_path / "out").predict(photos / "blue" / "0.png")[0].label


def test_an_interrupted_comparison_is_resumed(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    known_features = comparison.known_features
    calls: list[str] = []

    def counted(classifier, *others):
        calls.append(classifier.method.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return known_features(classifier, *others)

    monkeypatch.setattr(comparison, "known_features", counted)
    with pytest.raises(KeyboardInterrupt):
        tune(photos, method="auto", backbone=CLIP, options=HEADS, out=out)
    resumed = tune(photos, method="auto", backbone=CLIP, options=HEADS, out=out, resume=True)
    assert calls[:4] == ["zero-shot", "simpleshot", "simpleshot", "ridge"]
    assert len(calls) == 5, "the best one with squashed images"
    straight = tune(photos, method="auto", backbone=CLIP, options=HEADS)
    assert resumed.results["selection"]["estimate"] == straight.results["selection"]["estimate"]
    assert not (out / "selection.json").exists(), "result.json holds the table"


def test_a_candidate_that_would_exceed_the_budget_is_skipped(photos, caplog):
    options = {"candidates": ["ridge", "sep"], "repeats": 1, "budget": "0.01s", "views": []}
    with caplog.at_level("INFO", "selfprompt"):
        tuned = tune(photos, method="auto", backbone=CLIP, options=options)
    assert re.search(r"a budget of about \d+min compares sep as well", caplog.text)
    ridge, _, sep = tuned.results["selection"]["candidates"]
    assert "accuracy" in ridge
    assert "accuracy" not in sep
    assert "skipped, it would take" in sep["note"]
    assert tuned.method.name == "ridge"
    with pytest.raises(ValueError, match=r"No candidate fits into the budget of 0\.01 s"):
        tune(photos, method="auto", backbone=CLIP, options={**options, "candidates": ["sep"]})


def test_the_usual_budget_is_longer_without_texts():
    assert AutoOptions().seconds(with_text=True) == 85
    assert AutoOptions().seconds(with_text=False) == 300
    assert AutoOptions(budget="2min").seconds(with_text=False) == 120


@pytest.mark.parametrize(("with_text", "steps", "longest"), [(True, 240, 300), (False, 300, 1200)])
def test_a_comparison_is_short_and_the_training_of_the_choice_has_a_limit_too(with_text, steps, longest):
    def count(recipe, images):
        return recipe.train.epochs * -(-images // recipe.train.batch_size)

    base = load_recipe("auto").changed({"backbone": CLIP})
    sep = auto.make_candidate(base, "sep", 240).recipe
    an_epoch = -(-240 // sep.train.batch_size)
    assert steps <= count(for_comparison(sep, 240, with_text=with_text), 240) < steps + an_epoch
    assert count(for_all_images(sep, 240, with_text=with_text), 240) < 4 * steps + an_epoch
    assert for_all_images(sep, 240, with_text=with_text).train.epochs <= sep.train.epochs
    ridge = auto.make_candidate(base, "ridge", 240).recipe
    assert for_comparison(ridge, 240, with_text=with_text).train.epochs <= ridge.train.epochs


def test_the_learning_rate_is_searched_once_for_all_folds_and_the_training_of_the_choice(photos, tmp_path, monkeypatch):
    searches, rates = [], []
    usual_search, usual_train = comparison.search_rate, crossfit.train

    def search(recipe, backbone, data, *others):
        searches.append(len(data.dataset.train))
        found, trials = usual_search(recipe, backbone, data, *others)
        assert trials
        return found.changed({"lr": 0.0625}), trials

    def train(classifier, data, recipe, *others, **named):
        rates.append(recipe.train.lr)
        return usual_train(classifier, data, recipe, *others, **named)

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "search_rate", search)
    monkeypatch.setattr(crossfit, "train", train)
    out, options = tmp_path / "out", {"candidates": ["linear"], "folds": 2, "views": [], "budget": "1h"}
    settings = {"method": "auto", "backbone": CLIP, "options": options, "shots": 2, "out": out}
    monkeypatch.setattr(tune_module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(photos, **settings)
    monkeypatch.setattr(tune_module, "train", usual_train)
    resumed = tune(photos, **settings, resume=True)
    assert len(searches) == 1
    assert searches[0] < resumed.results["images"]["train"], "the images of one fold"
    assert set(rates) == {0.0625}
    assert resumed.recipe["lr"] == 0.0625


@pytest.mark.parametrize(("budget", "trainings"), [("60s", 5), ("48s", 4), ("33s", 2)])
def test_a_short_budget_leaves_fewer_folds(photos, monkeypatch, budget, trainings):
    sizes = []
    usual = crossfit.train

    def train(classifier, data, *others, **named):
        sizes.append(len(data.dataset.train))
        return usual(classifier, data, *others, **named)

    monkeypatch.setattr(crossfit, "train", train)
    monkeypatch.setattr(comparison, "search_rate", lambda recipe, *others: (recipe.changed({"epochs": 1}), []))
    monkeypatch.setattr(comparison, "search_cost", lambda *arguments: 0.5)
    monkeypatch.setattr(comparison.Comparison, "_training_seconds", lambda *arguments: 10.0)
    options = {"candidates": ["linear"], "views": [], "budget": budget}
    tuned = tune(photos, method="auto", backbone=CLIP, options=options, calibrate="never")
    images = tuned.results["images"]["train"]
    assert len(sizes) == trainings
    assert all(size >= 0.7 * images for size in sizes), "with four fifths of the images, however many folds"
    tested = sum(images - size for size in sizes)
    assert tuned.results["selection"]["estimate"]["images"] == tested
    note = "" if trainings == 5 else f"tested on {tested} of {images} images"
    assert tuned.results["selection"]["candidates"][-1]["note"] == note


def test_a_trained_candidate_can_win(photos, monkeypatch):
    usual = auto.make_candidate

    def short(base, name, images):
        candidate = usual(base, name, images)
        assert candidate.recipe.train.epochs * -(-images // candidate.recipe.train.batch_size) >= 300
        return Candidate(name, candidate.recipe.changed({"epochs": 1}))

    monkeypatch.setattr(auto, "make_candidate", short)
    options = {"candidates": ["coop"], "folds": 2}
    assert tune(photos, method="auto", backbone=CLIP, options=options, shots=2).method.name == "coop"


def test_one_image_a_class_cannot_be_compared(tmp_path):
    folder = write_photos(tmp_path / "one", {"blue": 1, "red": 1})
    tuned = tune(folder, method="auto", backbone="embedded/mae", holdout=0)
    assert isinstance(tuned, Classifier)
    assert tuned.results["selection"] == {"chosen": "ridge", "candidates": []}


def test_the_best_head_is_compared_under_random_views(photos):
    options = {"candidates": ["zero-shot", "ridge"], "repeats": 1, "views": ["mirror", "mild"]}
    tuned = tune(photos, method="auto", backbone=CLIP, options=options, resize="crop")
    names = [row["name"] for row in tuned.results["selection"]["candidates"]]
    assert names == ["zero-shot", "ridge", "ridge, mirror", "ridge, mild"]
    assert all("accuracy" in row for row in tuned.results["selection"]["candidates"])


def test_squashed_images_are_chosen_where_a_crop_loses_the_class(tmp_path):
    noise = np.random.default_rng(0)
    for name, row in (("top", 0), ("middle", 20), ("bottom", 60)):  # a mark that the crop of the centre cuts off
        for index in range(6):
            pixels = noise.integers(90, 130, (80, 24, 3)).astype(np.uint8)
            pixels[row : row + 16] = 250
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    tuned = tune(tmp_path, method="auto", backbone=CLIP, options={"candidates": ["ridge"], "views": ["mirror"]})
    rows = tuned.results["selection"]["candidates"]
    assert [row["name"] for row in rows] == ["ridge", "ridge, squash", "ridge, squash, mirror"]
    assert rows[1]["accuracy"] > rows[0]["accuracy"]
    assert tuned.preprocess.mode == "squash"


def test_methods_that_take_new_class_names_may_be_asked_for(photos):
    options = {"candidates": ["ridge", "zero-shot", "gda"], "repeats": 1, "views": [], "new_classes": True}
    tuned = tune(photos, method="auto", backbone=CLIP, options=options)
    assert [row["name"] for row in tuned.results["selection"]["candidates"]][:2] == ["zero-shot", "gda"]
    assert tuned.with_classes(["a cat", "a dog"]).classes == ("a cat", "a dog")
    with pytest.raises(ValueError, match="new_classes needs a CLIP and a candidate that reads class names"):
        tune(photos, method="auto", backbone="embedded/mae", options={"new_classes": True})


def test_methods_that_edit_an_image_side_of_which_only_features_are_known_are_left_out(photos):
    network = FeatureTower(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(192, 128)), (64, 64))
    clip = replace(load_backbone(CLIP), vision=network)
    options = {"candidates": ["ridge", "sep", "spt-deep"], "repeats": 1, "views": []}
    tuned = tune(photos, method="auto", backbone=clip, options=options)
    assert {row["name"].split(",")[0] for row in tuned.results["selection"]["candidates"]} == {"ridge"}
    with pytest.raises(ValueError, match="all candidates edit its image side; add a method that reads features"):
        tune(photos, method="auto", backbone=clip, options=options | {"candidates": ["sep"]})


def test_it_is_the_default(run, photos, tmp_path):
    done = run("train", photos, "--out", tmp_path / "out", "--backbone", CLIP, "--options.candidates", "[ridge]",
               "--options.views", "[]")  # fmt: skip
    assert done.status == 0, done.err
    assert selfprompt.load(tmp_path / "out").method.name == "ridge"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "budget must be a time such as 90s, 10min or 2h, got 'soon'"),
        (["--options.candidates", "[ridgee]"], "Unknown method or recipe 'ridgee'. Did you mean 'ridge'?"),
        (["--options.candidates", "[auto]"], "auto cannot be a candidate of itself"),
        (["--options.candidates", "['os:system']"], "must be methods or recipes of the package, got 'os:system'"),
        (["--options.candidates", "[mine.yaml]"], "must be methods or recipes of the package, got 'mine.yaml'"),
        (["--options.views", "[mirrored]"], "views must be of mirror, mild, published; got 'mirrored'"),
        (["--options.folds", "1"], "folds must be at least 2, got 1"),
        (["--lr", "0.1"], "--lr cannot be set with the method auto"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(run, arguments, message):
    done = run("train", "none", "--out", "none", "--method", "auto", *arguments)
    assert done.status == 2
    assert message in " ".join(done.err.split())


def test_a_budget_needs_auto(run):
    done = run("train", "none", "--out", "none", "--method", "coop", "--budget", "1min")
    assert done.status == 2
    assert "--budget needs the method auto, got coop" in done.err
