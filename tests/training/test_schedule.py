import json
from pathlib import Path

import numpy as np
import pytest
import torch

from selfprompt.methods.traits import Traits
from selfprompt.recipes.options import TrainOptions
from selfprompt.training.loop import fit
from selfprompt.training.optim import build_optimizer
from selfprompt.training.schedule import dassl_cosine, learning_rate, set_learning_rate, warmup_cosine
from tests.training.tiny import TinyMethod, batches

GOLDEN = Path(__file__).parents[1] / "golden"


def rates(options: TrainOptions, steps: int) -> list[float]:
    return [learning_rate(options, epoch, step, steps) for epoch in range(options.epochs) for step in range(steps)]


@pytest.mark.parametrize("case", [0, 1, 2])
def test_warmup_cosine_is_spts_schedule(case):
    golden = np.load(GOLDEN / "spt_lr_schedule.npz")
    given = json.loads(str(golden["config_json"]))["cases"][case]
    options = TrainOptions(
        schedule="warmup_cosine",
        epochs=given["epochs"],
        lr=given["lr"],
        min_lr=given["min_lr"],
        warmup_epochs=given["warmup_epochs"],
    )
    ours = rates(options, given["steps_per_epoch"])
    np.testing.assert_allclose(ours, golden[f"lr_{case}"], rtol=0, atol=1e-12)

    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr_scale": 0.25}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scaled = []
    for rate in ours:
        set_learning_rate(optimizer, rate)
        scaled.append([group["lr"] for group in optimizer.param_groups])
    np.testing.assert_allclose(scaled, golden[f"group_lr_{case}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("epochs", [3, 10, 50])
def test_dassl_cosine_is_the_engines_schedule(epochs):
    golden = np.load(GOLDEN / "sep_protocol.npz")[f"lr_by_epoch/max_epoch_{epochs}"]
    options = TrainOptions(epochs=epochs, lr=2.5e-3)
    np.testing.assert_allclose(rates(options, 1), golden, rtol=0, atol=1e-12)
    assert len(set(rates(options, 4)[-4:])) == 1, "constant within an epoch"


@pytest.mark.parametrize(("epochs", "lr", "last"), [(200, 2e-3, 4.93e-7), (5, 3.5e-3, 1.21e-3), (2, 2.6e-3, 2.6e-3)])
def test_dassl_cosine_ends_where_published_runs_ended(epochs, lr, last):
    assert dassl_cosine(epochs - 1, epochs=epochs, lr=lr) == pytest.approx(last, rel=5e-3)


def test_the_very_first_step_of_warmup_cosine_has_rate_zero_and_the_last_epoch_nears_the_minimum():
    assert warmup_cosine(0.0, epochs=20, lr=1.0, warmup_epochs=5) == 0.0
    assert warmup_cosine(5.0, epochs=20, lr=1.0, warmup_epochs=5, min_lr=0.1) == 1.0
    assert warmup_cosine(20.0, epochs=20, lr=1.0, warmup_epochs=5, min_lr=0.1) == pytest.approx(0.1)
    assert warmup_cosine(0.0, epochs=20, lr=1.0, warmup_epochs=0) == 1.0


def test_constant_has_no_warm_up():
    assert set(rates(TrainOptions(schedule="constant", epochs=3, lr=0.1), 2)) == {0.1}


def test_the_rate_reaches_every_group_of_a_built_optimizer():
    named = [("prompts", torch.nn.Parameter(torch.zeros(2, 2))), ("bias", torch.nn.Parameter(torch.zeros(2)))]
    optimizer = build_optimizer(named, TrainOptions(decay="weights"))
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5]


def test_each_stage_has_a_schedule_of_its_own() -> None:
    traits = Traits(stages=(0.3, 0.6))
    assert [len(traits.stage(epoch, 10)) for epoch in range(10)] == [3, 3, 3, 3, 3, 3, 4, 4, 4, 4]
    assert traits.stage(6, 10) == range(6, 10)
    assert Traits().stage(4, 7) == range(7)
    assert traits.stage(0, 1) == range(0, 1)  # the later stages have no epoch left
    options = TrainOptions(schedule="warmup_cosine", epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=0)
    found = learning_rate(options, 1, 1, 2, epochs=3)
    assert found == warmup_cosine(1.5, epochs=3, lr=1.0, min_lr=0.1, warmup_epochs=0) == pytest.approx(0.55)


def test_the_loop_begins_the_schedule_anew_in_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyMethod, "traits_for", classmethod(lambda cls, options: Traits(stages=(0.6,))))
    options = TrainOptions(epochs=5, lr=0.1, schedule="warmup_cosine", warmup_epochs=0, batch_size=8)
    history = fit(TinyMethod(), batches(8), None, options, progress=False).history
    expected = [0.1, 0.075, 0.025, 0.1, 0.05]  # 0.1 (1 + cos(pi e / E)) / 2 with E = 3, then E = 2
    assert [record["lr"] for record in history] == pytest.approx(expected)
