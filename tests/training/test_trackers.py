"""Runs that are followed in TensorBoard, W&B and MLflow: settings, one point per epoch, final numbers."""

from pathlib import Path

import pytest

from selfprompt import tune
from selfprompt.training import logs
from selfprompt.training.logs import RunLog, check_trackers
from tests.conftest import FAST
from tests.training.test_fit import run as run_fit
from tests.training.tiny import TinyMethod

FINAL = {"tuned/accuracy", "tuned/macro", "ridge/accuracy", "training_accuracy", "trainable_parameters", "seconds"}
LINEAR = {"method": "linear", "backbone": "embedded/mae", "workers": 0, "lr": 0.01}


class Recorder:
    """A logger as Fabric takes them."""

    def __init__(self):
        self.settings, self.points, self.ends = {}, [], []

    def log_hyperparams(self, params):
        self.settings = dict(params)

    def log_metrics(self, metrics, step):
        self.points.append((step, metrics))

    def save(self):
        pass

    def finalize(self, status):
        self.ends.append(status)


@pytest.fixture
def recorders(monkeypatch):
    """Every tracker that is opened, with the number of epochs that were finished before."""
    opened = []

    def open_tracker(name, folder, finished):
        opened.append((name, folder, finished, Recorder()))
        return opened[-1][-1]

    monkeypatch.setattr(logs, "open_tracker", open_tracker)
    monkeypatch.setattr(logs, "find_spec", lambda name: name)
    return opened


def test_a_tracker_gets_settings_epochs_and_final_numbers(photos, tmp_path, recorders):
    classifier = tune(photos, out=tmp_path / "run", epochs=2, log_to=("mlflow", "tensorboard"), **LINEAR)
    assert [entry[:3] for entry in recorders] == [(name, tmp_path / "run", 0) for name in ("mlflow", "tensorboard")]
    for *_, one in recorders:
        assert (one.settings["method"], one.settings["lr"], one.settings["options"]["head_std"]) == (
            "linear",
            0.01,
            0.02,
        )
        assert [step for step, _ in one.points] == [1, 2, 2]
        assert one.points[0][1]["loss"] == classifier.results["history"][0]["loss"]
        assert one.points[-1][1].keys() >= FINAL
        assert one.points[-1][1]["tuned/accuracy"] == classifier.results["tuned"]["accuracy"]
        assert one.ends == ["success"]


def test_a_method_without_epochs_has_its_final_numbers_too(photos, tmp_path, recorders):
    tune(photos, out=tmp_path / "run", method="ridge", backbone="embedded/mae", workers=0, log_to="mlflow")
    [(*_, one)] = recorders
    [(step, numbers)] = one.points
    assert (step, one.settings["method"], one.ends) == (0, "ridge", ["success"])
    assert numbers["tuned/accuracy"] == 100


def test_a_failed_run_is_marked_and_a_resumed_one_says_where_it_begins(photos, tmp_path, recorders, monkeypatch):
    add_point = RunLog.add_point

    def interrupted(self, record):
        add_point(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "add_point", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(photos, out=tmp_path / "run", epochs=3, log_to="tensorboard", **LINEAR)
    tune(photos, out=tmp_path / "run", epochs=3, log_to="tensorboard", resume=True, **LINEAR)
    (*_, first), (_, _, finished, second) = recorders
    assert (first.ends, finished, second.ends) == (["failed"], 2, ["success"])
    assert [step for step, _ in first.points + second.points] == [1, 2, 3, 3]


def test_nothing_is_opened_without_a_folder(photos, recorders):
    with pytest.raises(ValueError, match="log_to needs the folder of the run"):
        tune(photos, epochs=1, log_to="mlflow", **LINEAR)
    with pytest.raises(ValueError, match="log_to needs the folder of the run"):
        run_fit(TinyMethod(), log_to="mlflow")
    assert recorders == []


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb and pytorch-lightning")]
)
def test_a_missing_package_is_named_before_anything_is_read(name, package, monkeypatch, run, tmp_path):
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    done = run("train", tmp_path / "nothing", "--out", tmp_path / "run", *FAST, "--log-to", name)
    assert done.status == 1
    assert f"log_to {name} needs {package}. Install selfprompt[{name}]" in " ".join(done.err.split())
    with pytest.raises(RuntimeError, match=rf"Install selfprompt\[{name}\]"):
        run_fit(TinyMethod(), run_dir=tmp_path, log_to=(name,))


def test_the_former_name_still_works(photos, tmp_path, recorders, run):
    for words in (["--log-tensorboard", "true"], ["--log_tensorboard=True"]):
        done = run("train", photos, "--out", tmp_path / str(len(recorders)), *FAST, *words)
        assert (done.status, "--log-tensorboard is now called --log-to" in done.err) == (0, True)
    assert [entry[0] for entry in recorders] == ["tensorboard", "tensorboard"]
    old = tmp_path / "old.yaml"
    old.write_text("method: linear\nlog_tensorboard: true\n")
    assert "log_to: tensorboard" in run("train", "--config", old, "--print-config").out
    old.write_text("method: linear\nlog_tensorboard: false\n")
    assert "log_to: []" in run("train", "--config", old, "--print-config").out


def test_tensorboard_files_hold_the_curves(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_fit(TinyMethod(), run_dir=tmp_path, epochs=2, log_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(record["epoch"], pytest.approx(record["loss"])) for record in result.history]


def installed(name: str) -> bool:
    """Return whether a tracker can be used here."""
    try:
        check_trackers((name,), Path())
    except RuntimeError:
        return False
    return True


@pytest.mark.filterwarnings("default")  # those packages' own
@pytest.mark.skipif(not installed("wandb"), reason="wandb or pytorch-lightning is not installed")
def test_wandb_writes_an_offline_run(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("one", "two"):  # in one process: two runs
        tune(photos, out=tmp_path / name, epochs=1, log_to="wandb", **LINEAR)
        assert len(list((tmp_path / name).glob("wandb/offline-run-*/run-*.wandb"))) == 1


@pytest.mark.filterwarnings("default")  # those packages' own
@pytest.mark.skipif(not installed("mlflow"), reason="mlflow or pytorch-lightning is not installed")
def test_mlflow_stores_the_run(photos, tmp_path, monkeypatch):
    import mlflow

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    classifier = tune(photos, out=tmp_path / "run", epochs=2, log_to="mlflow", **LINEAR)
    client = mlflow.MlflowClient(address)
    [found] = client.search_runs([client.get_experiment_by_name("selfprompt").experiment_id])
    assert (found.info.run_name, found.info.status, found.data.params["method"]) == ("run", "FINISHED", "linear")
    assert found.data.metrics["tuned/accuracy"] == classifier.results["tuned"]["accuracy"]
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == [1, 2]
