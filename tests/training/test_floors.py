"""Tests of the floors beside a result: zero-shot, ridge, the paired test and the warnings."""

import json

import pytest
import torch

from selfprompt import tune
from selfprompt.metrics import mcnemar
from tests.conftest import write_photos

CLIP = "embedded/clip"


def test_mcnemar_counts_the_images_on_which_only_one_is_right() -> None:
    tuned = torch.tensor([True] * 9 + [False] + [True] * 5)
    floor = torch.tensor([False] * 9 + [True] + [True] * 5)
    test = mcnemar(tuned, floor)
    assert (test.tuned_only, test.floor_only) == (9, 1)
    assert test.p == pytest.approx(2 * (1 + 10) / 2**10)  # two-sided binomial: 0 or 1 of 10, both tails
    assert mcnemar(tuned, tuned).p == 1.0


def test_a_result_is_shown_beside_zero_shot_and_ridge(run, photos, tmp_path):
    out = tmp_path / "out"
    done = run("train", photos, "--method", "coop", "--backbone", CLIP, "--out", out, "--epochs", "1")
    assert done.status == 0, done.err
    assert "zero-shot" in done.out
    assert "ridge regression" in done.out
    assert "McNemar's test" in done.out


def test_a_model_that_has_not_fitted_its_training_images_warns(photos):
    tuned = tune(photos, method="coop", backbone=CLIP, epochs=1, lr=1e-6)
    results = tuned.results
    ridge = tune(photos, method="ridge", backbone=CLIP, shots=16)
    assert results["ridge"]["accuracy"] == ridge.results["tuned"]["accuracy"]
    assert ridge.results["ridge"] is None, "it is its own floor"
    assert ridge.results["training_accuracy"] == 100
    test = results["against"]["ridge"]
    total = results["ridge"]["correct"] - results["tuned"]["correct"]
    assert test["floor_only"] - test["tuned_only"] == total
    warned = " ".join(results["warnings"])
    assert (results["training_accuracy"] < 80) == ("training images are classified correctly" in warned)
    assert (total > 0) == ("coop is below ridge regression" in warned)
    assert not ridge.results["warnings"] or "below zero-shot" in ridge.results["warnings"][0]


@pytest.mark.parametrize("published", [True, False])
def test_recipes_are_fitted_to_the_number_of_images_unless_published(photos, published):
    tuned = tune(photos, method="linear", backbone=CLIP, published=published)
    recipe, images = tuned.recipe, tuned.results["images"]["train"]
    if published:
        assert (recipe["augment"], recipe["drop_last"]) != ("none", False)
        return
    assert recipe["batch_size"] <= images // 4
    assert recipe["epochs"] * -(-images // recipe["batch_size"]) >= 300
    assert (recipe["augment"], recipe["drop_last"]) == ("none", False)


def test_what_the_user_sets_is_kept(run, photos, tmp_path):
    out = tmp_path / "out"
    done = run("train", photos, "--method", "linear", "--backbone", CLIP, "--out", out, "--epochs", "2",
               "--augment", "crop-flip", "--batch-size", "16")  # fmt: skip
    assert done.status == 0, done.err
    recipe = (out / "recipe.yaml").read_text(encoding="utf-8")
    for line in ("epochs: 2", "augment: crop-flip", "batch_size: 16", "drop_last: false"):
        assert line in recipe.splitlines()


def test_an_evaluation_shows_the_floors_of_its_images(run, photos, tmp_path):
    out, other = tmp_path / "out", write_photos(tmp_path / "other", {"blue": 4, "green apple": 3})
    settings = ["--method", "coop", "--backbone", CLIP, "--epochs", "1"]
    assert run("train", photos, "--out", out, *settings).status == 0
    then = json.loads((out / "result.json").read_text(encoding="utf-8"))
    same = json.loads(run("eval", out, photos, "--format", "json").out)
    assert same["against"] == then["against"]
    assert [same[key]["per_class"] for key in ("zero_shot", "ridge")] == [
        then[key]["per_class"] for key in ("zero_shot", "ridge")
    ]
    elsewhere = json.loads(run("eval", out, other, "--format", "json").out)
    assert run("train", photos, "--out", tmp_path / "none", "--method", "zero-shot", "--backbone", CLIP).status == 0
    untrained = json.loads(run("eval", tmp_path / "none", other, "--format", "json").out)
    assert elsewhere["zero_shot"]["confusion"] == untrained["confusion"]
    assert "ridge" not in elsewhere, "its training images are not here"
    shown = run("eval", out, other).out
    assert "zero-shot" in shown
    assert "McNemar's test" in shown
