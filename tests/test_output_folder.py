"""One run at a time writes to an output folder; a second one is refused, and nothing is lost."""

import threading

import pytest

import selfprompt
from selfprompt.training.reporter import LogReporter
from selfprompt.training.tune import RESULT
from selfprompt.utils.locks import FOLDER_LOCK, lock_folder
from tests.conftest import FAST, started

QUICK = {"method": "linear", "backbone": "embedded/mae", "epochs": 2, "workers": 0}


class Waits(LogReporter):
    """A reporter that signals the start of training, and waits until others are done."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def message(self, line):
        if line.startswith("epoch 1/"):
            self.begun.set()
            assert self.go_on.wait(60)


def test_a_second_run_in_the_same_folder_is_refused(photos, tmp_path, run):
    reporter, out = Waits(), tmp_path / "run"
    settings = {**QUICK, "out": out, "reporter": reporter}
    first = threading.Thread(target=selfprompt.tune, args=(photos,), kwargs=settings)
    first.start()
    try:
        assert reporter.begun.wait(60)
        with pytest.raises(ValueError, match="run is being written by another run"):
            selfprompt.tune(photos, **QUICK, out=out, resume=True)
        refused = run("train", photos, *FAST, "--out", out, "--resume")
        assert refused.status == 1
        assert "is being written by another run" in " ".join(refused.err.split())
    finally:
        reporter.go_on.set()
        first.join()
    assert selfprompt.load(out).predict(photos / "blue" / "0.png")[0].label
    assert (out / RESULT).exists()
    assert not (out / FOLDER_LOCK).exists(), "an artifact holds nothing of the lock"


def test_two_processes_at_once_leave_one_whole_run(photos, tmp_path):
    out = tmp_path / "run"
    both = [started("train", photos, *FAST, "--out", out) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], said
    assert not any("Traceback" in text for text in said)
    assert selfprompt.load(out).classes


def test_the_lock_of_a_killed_run_keeps_nobody_out(photos, tmp_path, run):
    out = tmp_path / "run"
    process = started("train", photos, *FAST, "--epochs", "2000", "--out", out)
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    assert (out / FOLDER_LOCK).exists()
    with lock_folder(out) as mine:
        assert mine
    assert "holds an unfinished run" in run("train", photos, *FAST, "--epochs", "2000", "--out", out).err


def test_a_folder_that_was_made_for_nothing_is_taken_away(tmp_path):
    with lock_folder(tmp_path / "new") as mine:
        assert mine
        with lock_folder(tmp_path / "new") as also:
            assert not also
        assert (tmp_path / "new" / FOLDER_LOCK).exists(), "who was refused takes nothing away"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []


def test_a_file_in_place_of_the_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="cannot be written to"), lock_folder(tmp_path / "file" / "out"):
        pass
