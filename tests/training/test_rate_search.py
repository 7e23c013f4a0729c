"""Tests of the search for a learning rate: which rate is taken, when there is a search, and resumed runs."""

import math

import pytest
import yaml

from selfprompt import tune
from selfprompt.recipes.recipe import load_recipe
from selfprompt.training import loop, rate_search
from selfprompt.training import tune as tune_module
from selfprompt.training.folder_recipe import with_epochs
from selfprompt.training.rate_search import FACTORS, Trial, best_rate

CLIP = "embedded/clip"
LINEAR = {"method": "linear", "backbone": "embedded/mae", "epochs": 60, "calibrate": "never"}


def trials(*losses: float) -> list[Trial]:
    return [Trial(float(factor), loss) for factor, loss in zip(FACTORS, losses, strict=False)]


@pytest.mark.parametrize(
    ("losses", "factor"),
    [
        ((2.0, 1.0, 0.51, 0.5, 0.5), 10),
        ((2.0, 1.5, 1.0, 0.6, 0.3), 100),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 1),
        ((2.0, 0.51, 0.5, 0.9), 3),
        ((2.0, 1.0, 0.5, 0.9), 3),
        ((2.0, 1.0, 0.5), 3),
        ((1.0, 2.0), 1),
        ((1.0,), 1),
    ],
    ids=["close to the best", "the best", "all equal", "close, and the edge is far", "the next one is worse",
         "the next one diverged", "the published one, worse next", "the published one, diverged next"],
)  # fmt: skip
def test_the_rate_that_is_taken(losses: tuple[float, ...], factor: int) -> None:
    assert best_rate(trials(*losses)) == factor


def test_prompts_that_hardly_move_at_the_published_rate_get_a_higher_one(photos):
    settings = {"method": "coop", "backbone": CLIP, "epochs": 30, "calibrate": "never", "shots": 0}
    found, published = tune(photos, **settings), tune(photos, **settings, lr=0.002)
    assert published.results["training_accuracy"] < 80 <= found.results["training_accuracy"]
    tried = found.results["rates"]
    assert [trial["lr"] for trial in tried] == pytest.approx([0.002 * factor for factor in FACTORS[: len(tried)]])
    assert all(math.isfinite(trial["loss"]) for trial in tried)
    assert found.recipe["lr"] in [trial["lr"] for trial in tried[1:]]
    assert published.recipe["lr"] == 0.002
    assert not published.results["rates"], "a given rate is kept"
    assert found.results["history"][-1]["loss"] < 0.9 * published.results["history"][-1]["loss"]


@pytest.fixture
def learns_too_little(monkeypatch):
    """No training accuracy is enough, so that there always is a search."""
    monkeypatch.setattr(tune_module, "LEAST_TRAINING_ACCURACY", 101.0)


def test_a_trial_has_enough_steps_where_a_tenth_of_the_training_has_not(photos, learns_too_little):
    tuned = tune(photos, **{**LINEAR, "epochs": 30}, shots=0)
    assert 3 * math.ceil(tuned.results["images"]["train"] / tuned.recipe["batch_size"]) < 20
    assert len(tuned.results["rates"]) > 1


def test_the_warm_up_keeps_its_share_of_the_epochs() -> None:
    spt = with_epochs(load_recipe("spt-deep"), 25).train
    assert (spt.epochs, spt.warmup_epochs) == (25, 2)
    assert with_epochs(load_recipe("spt-deep"), 1).train.warmup_epochs == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "coop", "epochs": 2},
        {**LINEAR, "published": True},
        {**LINEAR, "lr": 0.01},
        {"method": "ridge"},
        {"method": "zero-shot"},
    ],
    ids=["too short", "published", "given", "closed form", "nothing to train"],
)
def test_there_is_no_search(photos, learns_too_little, settings):
    assert not tune(photos, **{"backbone": CLIP, "calibrate": "never", **settings}).results["rates"]


def test_a_rate_that_learns_is_kept_without_a_search(photos):
    tuned = tune(photos, **LINEAR)
    assert tuned.results["training_accuracy"] >= 80
    assert tuned.recipe["lr"] == load_recipe("linear").train.lr
    assert not tuned.results["rates"]


def test_the_first_training_is_kept_if_no_rate_is_better(photos, learns_too_little, monkeypatch):
    monkeypatch.setattr(rate_search, "best_rate", lambda trials: trials[0].lr)
    kept, published = tune(photos, **LINEAR), tune(photos, **LINEAR, lr=0.001)
    assert kept.results["rates"]
    assert kept.recipe["lr"] == 0.001
    assert kept.results["history"][-1]["loss"] == pytest.approx(published.results["history"][-1]["loss"], rel=1e-3)


@pytest.mark.parametrize("training", [1, 2])
def test_a_resumed_run_ends_at_the_rate_of_one_that_was_not_interrupted(
    photos, tmp_path, learns_too_little, monkeypatch, training
):
    """Whether it is interrupted while it is trained at the published rate, or at the one that was searched for."""
    out, epoch, published = tmp_path / "out", loop._epoch, load_recipe("linear").train.lr

    def interrupted(state, *others):
        if state.epoch == 3 and state.options.epochs == 60 and (state.options.lr > published) == (training == 2):
            raise KeyboardInterrupt
        return epoch(state, *others)

    monkeypatch.setattr(loop, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(photos, **LINEAR, out=out)
    monkeypatch.setattr(loop, "_epoch", epoch)
    rate = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))["lr"]
    assert (rate > published) == (training == 2)
    resumed, straight = tune(photos, **LINEAR, out=out, resume=True), tune(photos, **LINEAR)
    assert resumed.recipe["lr"] == straight.recipe["lr"] > published
    assert bool(resumed.results["rates"]) == (training == 1), "the search is not repeated"
    assert [row["epoch"] for row in resumed.results["history"]] == list(range(1, 61))
    assert resumed.results["history"][-1]["loss"] == pytest.approx(straight.results["history"][-1]["loss"], rel=1e-3)
    assert yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))["lr"] == resumed.recipe["lr"]
    assert len((out / "log.csv").read_text(encoding="utf-8").splitlines()) == 61
