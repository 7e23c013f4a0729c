"""Validation during training uses the current tensors, whichever optimiser updated them."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import selfprompt
from selfprompt.data.dataset import Dataset, Item
from selfprompt.data.suites import load_task
from selfprompt.inference.artifact import TENSORS
from selfprompt.recipes.recipe import load_recipe, recipe_names
from selfprompt.training.checkpoint import read_epochs
from selfprompt.training.reporter import LogReporter
from selfprompt.training.tune import RESULT
from tests.conftest import started
from tests.methods.tiny import backbone

UNTRAINED = (
    "zero-shot",
    "zero-shot-ensemble",
    "tip-adapter",
    "lpclip",
    "zs-lp",
    "proker",
    "prolip",
    "gda",
    "ape",
    "tipx",
    "semobridge",
    "semobridge-t",
)
RECIPES = {name: load_recipe(name).train.optimizer for name in recipe_names() if name not in UNTRAINED}
RUNS = [(name, optimizer) for name, own in RECIPES.items() for optimizer in sorted({own, "adam", "adamw"})]
QUICK: dict[str, Any] = {"shots": 0, "epochs": 2, "batch_size": 8, "augment": "none", "keep_every": 1, "workers": 0}


def some(items: Sequence[Item], each: int) -> tuple[Item, ...]:
    """The first images of the first eight classes."""
    return tuple(item for label in range(8) for item in [item for item in items if item.label == label][:each])


ANIMALS = load_task("embedded/animals").dataset
DATA = Dataset("eight", ANIMALS.classes[:8], train=some(ANIMALS.train, 1), val=some(ANIMALS.val, 2))


def history_and_scores(out: Path, name: str, **changes: Any) -> tuple[list[float], list[float]]:
    """Validation accuracy of each epoch as the run saw it, and of the tensors that it kept, evaluated afresh."""
    recipe = load_recipe(name).changed({**QUICK, "schedule": "constant", "precision": "32-true", **changes})
    tuned = selfprompt.tune(DATA, recipe=recipe, backbone=backbone("clip"), out=out)
    fresh, scores = selfprompt.load(out, backbone=backbone("clip")), []
    for epoch, tensors in read_epochs(out).items():
        if epoch:
            fresh.method.load_adapter_state_dict(tensors)
            scores.append(fresh.evaluate(DATA.val).accuracy / 100)
    return [record["val_accuracy"] for record in tuned.results["history"]], scores


@pytest.mark.parametrize(("name", "optimizer"), RUNS)
def test_the_history_has_the_accuracy_of_the_kept_tensors(tmp_path: Path, name: str, optimizer: str) -> None:
    lr = 0.2 if optimizer == "sgd" else 0.02  # large, so that scores change from epoch to epoch
    history, scores = history_and_scores(tmp_path, name, optimizer=optimizer, lr=lr)
    assert history == pytest.approx(scores)


def test_the_history_of_an_average_has_the_accuracy_of_the_average(tmp_path: Path) -> None:
    history, scores = history_and_scores(tmp_path, "coop", optimizer="adam", lr=0.05, ema_decay=0.5, epochs=4)
    assert history == pytest.approx(scores)
    assert len(set(scores)) > 1


class Interrupts(LogReporter):
    """A reporter that ends the run when it hears a line."""

    def __init__(self, start: str) -> None:
        self.start = start

    def message(self, line: str) -> None:
        if line.startswith(self.start):
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["sep", "clip-lora", "coop", "two-stage"])
def test_a_best_val_run_that_is_interrupted_ends_with_the_same_bytes(tmp_path: Path, name: str) -> None:
    changes = {**QUICK, "optimizer": "adam", "lr": 0.02, "epochs": 4, "select": "best-val", "schedule": "constant"}
    recipe = load_recipe(name).changed(changes)

    def run(out: str, **others: Any) -> dict[str, Any]:
        tuned = selfprompt.tune(DATA, recipe=recipe, backbone=backbone("clip"), out=tmp_path / out, **others)
        history = [{**record, "seconds": 0, "images_per_second": 0} for record in tuned.results["history"]]
        return {"history": history, **{key: tuned.results[key] for key in ("best_epoch", "weights")}}

    straight = run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("resumed", reporter=Interrupts("epoch 3/"))
    assert run("resumed", resume=True) == straight
    kept = [(tmp_path / out / TENSORS).read_bytes() for out in ("straight", "resumed")]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_a_best_val_run_that_is_killed_ends_with_the_same_bytes(tmp_path: Path, split_photos: Path, run: Any) -> None:
    words = "--method coop --backbone embedded/clip --optimizer adam --lr 0.05 --select best-val --epochs 30 --shots 2"

    def command(out: str) -> list[object]:
        return ["train", split_photos, *words.split(), "--workers", "0", "--out", tmp_path / out]

    assert run(*command("straight")).status == 0
    process = started(*command("killed"))
    while not (tmp_path / "killed" / "log.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / RESULT).exists(), "it had no time to finish"
    assert run(*command("killed"), "--resume").status == 0
    results = [json.loads((tmp_path / out / RESULT).read_text()) for out in ("straight", "killed")]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]
    tensors = [(tmp_path / out / TENSORS).read_bytes() for out in ("straight", "killed")]
    assert tensors[0] == tensors[1]
