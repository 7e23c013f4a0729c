import csv
import io
import logging
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from selfprompt.methods.base import LossTerms
from selfprompt.recipes.options import TrainOptions
from selfprompt.training import loop as fit_module
from selfprompt.training.checkpoint import read_epochs
from selfprompt.training.loop import FitResult, fit
from selfprompt.training.meter import Meter
from selfprompt.training.progress_bar import ProgressBar
from tests.training.tiny import TinyMethod, batches, state, validation

TIMES = ("seconds", "images_per_second")


def options(**changes) -> TrainOptions:
    defaults = {"epochs": 4, "batch_size": 8, "lr": 0.05, "device": "cpu", "workers": 0}
    return TrainOptions(**(defaults | changes))


def run(method: TinyMethod, val=None, **changes) -> FitResult:
    """Train on 21 images; keyword arguments that options lack go to ``fit``."""
    own = {"seed", "run_dir", "resume", "identity", "log", "progress"} & changes.keys()
    given = {name: changes.pop(name) for name in own}
    return fit(method, batches(21), val, options(**changes), **({"progress": False} | given))


def untimed(result: FitResult) -> list[dict]:
    return [{name: v for name, v in record.items() if name not in TIMES} for record in result.history]


def same(one: TinyMethod, other: TinyMethod) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one).values(), state(other).values(), strict=True))


def test_it_learns_and_leaves_the_backbone_and_what_has_no_gradient_bitwise_unchanged():
    method = TinyMethod()
    before = state(method)
    result = run(method, validation(), epochs=20)
    after = state(method)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert result.history[-1]["val_accuracy"] > 0.8
    for name in before:
        changed = name in ("prompts", "head.weight", "head.bias")
        assert torch.equal(before[name], after[name]) != changed, name
    assert not method.training
    assert result.weights == "last"
    assert method.epochs_seen == [(epoch, 20) for epoch in range(20)]


def test_a_step_is_forward_backward_step_with_the_schedules_rate():
    """The loop against ten lines of plain PyTorch, bit for bit."""
    ours, plain = TinyMethod(), TinyMethod()
    result = run(ours, schedule="warmup_cosine", optimizer="adamw", decay="weights", weight_decay=0.1)
    groups = [
        {"params": [plain.head.bias], "weight_decay": 0.0},
        {"params": [plain.prompts, plain.unused, plain.head.weight], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.05, fused=True)
    train, losses = batches(21), []
    for epoch in range(4):
        losses.append([])
        for step, views in enumerate(train.epoch(epoch)):
            time = epoch + step / 3
            rate = 0.05 * time if time < 1 else 0.05 * (1 + math.cos(math.pi * (time - 1) / 3)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = plain.loss(views).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item() * len(views))
    assert same(ours, plain)
    assert [record["loss"] for record in result.history] == pytest.approx([sum(epoch) / 21 for epoch in losses])


def test_the_history_has_terms_accuracies_rates_and_times():
    result = run(TinyMethod(penalty=True), validation())
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4]
    first = result.history[0]
    columns = "epoch lr loss loss_ce loss_size train_accuracy images_per_second val_accuracy seconds"
    assert " ".join(first) == columns
    assert first["lr"] == 1e-5
    assert first["loss"] == pytest.approx(first["loss_ce"] + 0.5 * first["loss_size"])
    assert 0 <= first["train_accuracy"] <= 1
    assert result.seconds == pytest.approx(sum(record["seconds"] for record in result.history))


def test_a_loss_without_logits_has_no_training_accuracy(monkeypatch):
    method = TinyMethod()
    loss = method.loss
    monkeypatch.setattr(method, "loss", lambda views: LossTerms(loss(views).terms))
    assert "train_accuracy" not in run(method).history[0]


def test_the_same_seed_repeats_a_run_and_another_does_not():
    results = [(TinyMethod(dropout=0.5), seed) for seed in (1, 1, 0, 2)]  # 0 is a seed like any other, not "unseeded"
    histories = [untimed(run(method, seed=seed)) for method, seed in results]
    assert histories[0] == histories[1]
    assert same(results[0][0], results[1][0])
    assert histories[0] != histories[2] != histories[3]


def test_the_callers_random_state_is_left_alone():
    method = TinyMethod(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(method)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(parts):
    whole, cut = TinyMethod(penalty=True), TinyMethod(penalty=True)
    one, other = run(whole), run(cut, accumulate=parts)
    for name, tensor in state(whole).items():
        # float32: the parts' gradients are summed in another order
        torch.testing.assert_close(state(cut)[name], tensor, rtol=0, atol=1e-6)
    assert [r["loss"] for r in one.history] == pytest.approx([r["loss"] for r in other.history], abs=1e-6)
    assert [r["train_accuracy"] for r in one.history] == pytest.approx([r["train_accuracy"] for r in other.history])


def test_a_method_may_combine_its_gradients_itself():
    class Projected(TinyMethod):
        def set_gradients(self, terms, mean):
            (gradient,) = torch.autograd.grad(terms.total, [self.prompts])
            self.prompts.grad = mean(gradient)

    method = Projected()
    before = state(method)
    run(method)
    assert not torch.equal(method.prompts, before["prompts"])
    assert torch.equal(method.head.weight, before["head.weight"]), "it gave the head no gradient"
    with pytest.raises(ValueError, match="needs accumulate 1 and a precision other than 16-mixed"):
        run(method, accumulate=2)


def test_clipping_bounds_the_norm_of_a_step():
    clipped, free = TinyMethod(), TinyMethod()
    changes = {"epochs": 1, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    before = torch.cat([p.flatten() for p in clipped.adapter_state_dict().values()])
    run(clipped, clip_grad=1e-3, **changes)
    run(free, **changes)
    moved = torch.cat([p.flatten() for p in clipped.adapter_state_dict().values()]) - before
    assert 0 < moved.norm() <= 3.01e-3, "three steps of at most 1e-3"
    assert not same(clipped, free)


def test_bf16_trains_float32_tensors():
    method = TinyMethod()
    result = run(method, validation(), precision="bf16-mixed", epochs=20)
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]


def test_16_mixed_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="precision 16-mixed needs a GPU"):
        run(TinyMethod(), precision="16-mixed")


def test_half_precision_parameters_are_refused():
    method = TinyMethod()
    method.prompts.data = method.prompts.data.bfloat16()
    with pytest.raises(ValueError, match=r"Trainable parameters must be float32, got torch.bfloat16 for prompts"):
        run(method)


def test_best_on_validation_is_kept_and_restored(monkeypatch):
    snapshots: list[dict] = []
    values = iter([0.5, 0.8, 0.8, 0.2])

    def fake(method, *_):
        snapshots.append(state(method))
        return next(values)

    monkeypatch.setattr(fit_module, "accuracy", fake)
    method = TinyMethod()
    result = run(method, validation(), select="best-val")
    assert (result.weights, result.best_epoch) == ("best-val", 2)
    assert all(torch.equal(state(method)[name], tensor) for name, tensor in snapshots[1].items())
    assert not all(torch.equal(state(method)[name], tensor) for name, tensor in snapshots[3].items())


def test_validation_is_recorded_but_decides_nothing_by_default():
    method, other = TinyMethod(), TinyMethod()
    result = run(method, validation())
    run(other)
    assert same(method, other)
    assert result.weights == "last"
    assert result.best_epoch is not None


def test_best_on_validation_needs_validation_images():
    with pytest.raises(ValueError, match="select 'best-val' needs validation images"):
        run(TinyMethod(), select="best-val")


def test_the_average_over_the_steps_is_validated_and_kept():
    averaged, plain = TinyMethod(), TinyMethod()
    result = run(averaged, validation(), ema_decay=0.9)
    run(plain)
    assert result.weights == "ema"
    assert not torch.equal(averaged.prompts, plain.prompts)

    expected = TinyMethod().prompts.detach().clone()
    seen: list[torch.Tensor] = []

    class Watched(TinyMethod):
        def loss(self, views):
            seen.append(self.prompts.detach().clone())
            return super().loss(views)

    watched = Watched()
    run(watched)
    for prompts in [*seen[1:], watched.prompts.detach()]:
        expected = 0.9 * expected + 0.1 * prompts
    torch.testing.assert_close(averaged.prompts.detach(), expected, rtol=0, atol=1e-6)


def test_the_training_state_of_a_method_is_resumed_and_selected_too(tmp_path):
    class Averaging(TinyMethod):
        """Like PromptSRC: an average of prompts over the epochs."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2, 16), persistent=False)

        def training_state(self):
            return {"mean": self.mean}

        def after_epoch(self, epoch, epochs):
            self.mean += self.prompts.detach() / epochs

    straight, stopped, resumed = Averaging(), Averaging(), Averaging()
    run(straight)
    interrupt(stopped, tmp_path, after=2)
    run(resumed, run_dir=tmp_path, resume=True)
    assert torch.equal(straight.mean, resumed.mean)
    assert straight.mean.norm() > 0


def test_a_persistent_buffer_is_resumed_selected_and_stored(tmp_path):
    class Normalised(TinyMethod):
        """A method with running statistics of PyTorch."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3, affine=False)

        def logits(self, views):
            return self.norm(super().logits(views))

    straight, stopped, resumed = Normalised(), Normalised(), Normalised()
    run(straight, validation(), select="best-val")
    interrupt(stopped, tmp_path, after=2, val=validation(), select="best-val")
    run(resumed, validation(), run_dir=tmp_path, resume=True, select="best-val")
    stored = straight.adapter_state_dict()
    assert stored.keys() - TinyMethod().adapter_state_dict().keys() == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert all(torch.equal(resumed.adapter_state_dict()[name], tensor) for name, tensor in stored.items())
    loaded = Normalised()
    loaded.load_adapter_state_dict(stored)
    assert same(loaded, straight)


class Stop(Exception):
    """Raised in place of whatever ends a process."""


def interrupt(method: TinyMethod, run_dir: Path, after: int, **changes) -> None:
    """Train until the epoch after number ``after`` has begun, and stop there."""
    loss, train_steps = method.loss, 3

    def stopping(views, count=[0]):  # noqa: B006 (a counter)
        count[0] += 1
        if count[0] > after * train_steps + 1:
            raise Stop
        return loss(views)

    method.loss = stopping
    with pytest.raises(Stop):
        run(method, run_dir=run_dir, **changes)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_resumed_run_is_bit_identical_to_one_that_never_stopped(tmp_path, optimizer):
    changes = {"val": validation(), "optimizer": optimizer, "ema_decay": 0.8, "select": "best-val"}
    changes |= {"schedule": "warmup_cosine", "epochs": 6}
    straight, resumed = TinyMethod(dropout=0.3), TinyMethod(dropout=0.3)
    whole = run(straight, **changes)
    interrupt(TinyMethod(dropout=0.3), tmp_path, after=3, **changes)
    torch.manual_seed(99)  # the random state of the process that resumes must not matter
    result = run(resumed, run_dir=tmp_path, resume=True, **changes)
    assert same(straight, resumed)
    assert untimed(result) == untimed(whole)
    assert (result.resumed_from, result.best_epoch) == (3, whole.best_epoch)
    assert result.weights == "best-val-ema"


def test_a_finished_run_is_resumed_without_training(tmp_path):
    first, second = TinyMethod(), TinyMethod()
    whole = run(first, run_dir=tmp_path)
    result = run(second, run_dir=tmp_path, resume=True)
    assert same(first, second)
    assert result.resumed_from == 4
    assert untimed(result) == untimed(whole)
    assert result.seconds == whole.seconds
    assert second.epochs_seen == []


def test_a_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path):
    assert run(TinyMethod(), run_dir=tmp_path / "new", resume=True).resumed_from == 0


def test_a_run_is_not_overwritten_by_accident(tmp_path):
    run(TinyMethod(), run_dir=tmp_path, epochs=2)
    with pytest.raises(ValueError, match="already holds a run"):
        run(TinyMethod(), run_dir=tmp_path, epochs=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "train.lr was 0.05 and is 0.1"),
        ({"epochs": 5}, "train.epochs was 4 and is 5"),
        ({"seed": 2}, "seed was 1 and is 2"),
        ({"identity": {"method": "vpt"}}, "method was 'spt' and is 'vpt'"),
        ({"identity": {}}, "method was 'spt' and is absent"),
    ],
)
def test_a_resume_of_another_run_is_refused(tmp_path, changes, message):
    run(TinyMethod(), run_dir=tmp_path, identity={"method": "spt"})
    with pytest.raises(ValueError, match="belongs to another run") as caught:
        run(TinyMethod(), **({"run_dir": tmp_path, "resume": True, "identity": {"method": "spt"}} | changes))
    assert message in str(caught.value)


def test_a_resume_with_other_shapes_is_refused(tmp_path):
    run(TinyMethod(), run_dir=tmp_path)
    other = TinyMethod()
    other.unused = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(ValueError, match=r"tensors.unused was \[2, 2\] and is \[5\]"):
        run(other, run_dir=tmp_path, resume=True)


def test_what_does_not_move_the_result_may_change_on_resume(tmp_path):
    run(TinyMethod(), run_dir=tmp_path)
    run(TinyMethod(), run_dir=tmp_path, resume=True, workers=2, checkpoint_every=3)


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    run(TinyMethod(), run_dir=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is not a readable checkpoint"):
        run(TinyMethod(), run_dir=tmp_path, resume=True)


def test_checkpoints_are_written_at_the_interval_and_at_the_end(tmp_path, monkeypatch):
    written: list[int] = []
    monkeypatch.setattr("selfprompt.training.state.save_checkpoint", lambda _, saved: written.append(saved.epoch))
    run(TinyMethod(), run_dir=tmp_path, epochs=7, checkpoint_every=3)
    assert written == [3, 6, 7]


def test_copies_of_the_trained_tensors_are_kept_if_requested(tmp_path):
    method = TinyMethod()
    start = {name: tensor.clone() for name, tensor in method.adapter_state_dict().items()}
    run(method, run_dir=tmp_path, epochs=5, keep_every=2)
    kept = read_epochs(tmp_path)
    assert list(kept) == [0, 2, 4, 5]
    for epoch, expected in ((0, start), (5, method.adapter_state_dict())):
        assert kept[epoch].keys() == expected.keys()
        assert all(torch.equal(kept[epoch][name], tensor) for name, tensor in expected.items())
    assert not all(torch.equal(kept[2][name], tensor) for name, tensor in start.items())


def test_no_copies_are_kept_by_default(tmp_path):
    run(TinyMethod(), run_dir=tmp_path)
    assert read_epochs(tmp_path) == {}


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint_before(tmp_path):
    class Exploding(TinyMethod):
        def loss(self, views):
            terms = super().loss(views)
            return LossTerms({"ce": terms.terms["ce"] * (float("nan") if len(self.epochs_seen) == 2 else 1)})

    with pytest.raises(RuntimeError, match=r"The loss became nan in epoch 3 at learning rate 0\.\d+\. Try a lower lr"):
        run(Exploding(), run_dir=tmp_path)
    assert run(TinyMethod(), run_dir=tmp_path, resume=True).resumed_from == 2


def test_log_csv_has_one_row_per_epoch_also_after_a_resume(tmp_path):
    interrupt(TinyMethod(), tmp_path, after=3, val=validation(), checkpoint_every=2)
    assert len(rows(tmp_path)) == 3, "the third epoch was logged, but its checkpoint was not due"
    result = run(TinyMethod(), validation(), run_dir=tmp_path, resume=True, checkpoint_every=2)
    assert result.resumed_from == 2
    table = rows(tmp_path)
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert [float(row["loss"]) for row in table] == [record["loss"] for record in result.history]
    assert float(table[0]["val_accuracy"]) == result.history[0]["val_accuracy"]


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_without_a_bar_there_is_one_line_per_epoch(capsys):
    lines: list[str] = []
    run(TinyMethod(), validation(), log=lines.append, progress=True)  # pytest's output is no terminal
    assert len(lines) == 4
    assert lines[0].startswith("epoch 1/4  loss ")
    for word in ("train ", "val ", "lr 1e-05", "images/s"):
        assert word in lines[0]
    assert capsys.readouterr().out.strip() == ""


def test_the_default_line_goes_to_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="selfprompt"):
        run(TinyMethod(), epochs=2)
    assert [record.message.split("  ")[0] for record in caplog.records] == ["epoch 1/2", "epoch 2/2"]


def test_the_bar_shows_epoch_loss_accuracy_and_speed():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    meter = Meter(torch.device("cpu"))
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    meter.add(LossTerms({"ce": torch.tensor(0.5)}, logits=logits), torch.tensor(0.5), torch.tensor([0, 1]), 2)
    with ProgressBar(True, epochs=3, steps=2, finished=1, console=console) as bar:
        assert bar.shown
        bar.step(2, meter, seconds=0.5)
    for words in ("epoch 2/3", "loss 0.5000", "train 50.0 %", "4 images/s"):
        assert words in out.getvalue()
    with ProgressBar(True, epochs=3, steps=1, console=console) as bar:
        for epoch in (1, 2, 3):
            bar.step(epoch, meter, seconds=0.5)
    last = [line for line in out.getvalue().splitlines() if "epoch" in line][-1]
    assert "epoch 3/3" in last, "the last state stays on the screen"
    assert "0:00:00" in last


def test_batches_for_another_number_of_processes_are_refused():
    with pytest.raises(ValueError, match="The batches are split for 2 processes, but there are 1"):
        fit(TinyMethod(), batches(21, rank=0, world=2), None, options(), progress=False)


def test_a_method_without_tuned_tensors_is_refused():
    with pytest.raises(ValueError, match="There is nothing to train"):
        run(TinyMethod().requires_grad_(False))
