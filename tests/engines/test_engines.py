"""Every engine does each item, once if nothing dies; what dies is done again, and what fails is told."""

import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from selfprompt.engines.feed import MAX_ATTEMPTS
from selfprompt.engines.run import run_all
from selfprompt.engines.slurm import split_evenly
from selfprompt.engines.work import EngineError
from tests.engines.tasks import endless, loud, squares, visible_gpus

ON_THIS_MACHINE = {"cluster": "local"}


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_item_is_done_once_in_as_many_processes_as_asked(tmp_path, jobs):
    results = dict(run_all("local", partial(squares, tmp_path), range(7), jobs, folder=tmp_path))
    assert {number: square for number, (square, _) in results.items()} == {number: number**2 for number in range(7)}
    assert sorted(lines(tmp_path / "journal")) == list(range(7))
    assert len(lines(tmp_path / "started")) == len({process for _, process in results.values()}) == jobs
    assert (os.getpid() in lines(tmp_path / "started")) == (jobs == 1)


def test_the_item_of_a_killed_process_is_done_again(tmp_path):
    said = []
    start = partial(squares, tmp_path, deadly=3)
    results = dict(run_all("local", start, range(6), 2, folder=tmp_path, say=said.append))
    assert sorted(results) == list(range(6))
    assert Counter(lines(tmp_path / "journal")) == Counter([*range(6), 3])
    assert said == ["A worker was killed, or ran out of memory; its work is done again."]


def test_an_item_that_always_kills_is_given_up_and_the_others_are_done(tmp_path):
    done, start = [], partial(squares, tmp_path, deadly=0, always=True)
    with pytest.raises(EngineError) as caught:
        done.extend(item for item, _ in run_all("local", start, range(4), 2, folder=tmp_path))
    assert caught.value.items == (0,)
    assert sorted(done) == [1, 2, 3]
    assert lines(tmp_path / "journal").count(0) == MAX_ATTEMPTS


def test_an_error_is_told_in_its_own_words(tmp_path):
    with pytest.raises(EngineError, match=r"^2 is wrong$"):
        list(run_all("local", partial(squares, tmp_path, wrong=2), range(3), 2, folder=tmp_path))
    with pytest.raises(EngineError, match=r"^ZeroDivisionError: "):
        list(run_all("local", partial(divmod, 1, 0), range(3), 2, folder=tmp_path))


def test_processes_end_with_the_one_that_feeds_them(tmp_path):
    results = run_all("local", partial(squares, tmp_path), range(50), 2, folder=tmp_path)
    next(results)
    results.close()
    assert not any(Path(f"/proc/{process}").exists() for process in lines(tmp_path / "started"))
    with pytest.raises(EngineError):
        list(run_all("local", partial(squares, tmp_path, wrong=0), [0, 1], 2, folder=tmp_path))


def test_a_process_prefers_items_like_its_last(tmp_path):
    items = [f"{kind}{number}" for number in range(6) for kind in "ab"]
    results = dict(run_all("local", partial(named, tmp_path), items, 2, folder=tmp_path, alike=first_letter))
    kinds = Counter((item[0], process) for item, process in results.items())
    assert len(kinds) <= 3, "a process changes kinds only when its own is done"


def named(folder: Path):
    function = squares(folder)
    return lambda item: function(int(item[1:]))[1]


def first_letter(item: str) -> str:
    return item[0]


def test_each_process_sees_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    seen = {gpu for _, gpu in run_all("local", visible_gpus, range(20), 2, folder=tmp_path, gpus=2)}
    assert seen == {"4", "7"}


def test_workers_write_nothing_to_the_terminal(tmp_path, capfd):
    assert len(list(run_all("local", loud, range(2), 2, folder=tmp_path))) == 2
    assert capfd.readouterr() == ("", "")


def test_jobs_of_submitit(tmp_path):
    pytest.importorskip("submitit")
    said = []
    results = run_all(
        "slurm", partial(squares, tmp_path), range(5), 2, folder=tmp_path, options=ON_THIS_MACHINE, say=said.append
    )
    assert {number: square for number, (square, _) in results} == {number: number**2 for number in range(5)}
    assert sorted(lines(tmp_path / "journal")) == list(range(5))
    assert len(lines(tmp_path / "started")) == 2
    assert said == [f"Submitted 2 jobs, 2 at a time; logs: {tmp_path / 'jobs'}"]


def test_a_job_of_submitit_that_dies_is_named_when_the_others_have_ended(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.LocalJob, "_results_timeout_s", 1)  # how long the results of a dead job are awaited
    done, start = [], partial(squares, tmp_path, deadly=1)
    with pytest.raises(EngineError, match=r"job \d+: it ended without a result: .* \(log: .*\)\. Repeat the command"):
        done.extend(item for item, _ in run_all("slurm", start, range(4), 2, folder=tmp_path, options=ON_THIS_MACHINE))
    assert done == [2, 3]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its process behind
def test_jobs_that_are_not_waited_for_are_cancelled(tmp_path, monkeypatch):
    pytest.importorskip("submitit")

    def interrupted(seconds):
        if (tmp_path / "started").exists() and (tmp_path / "started").read_text().endswith("\n"):
            raise KeyboardInterrupt

    monkeypatch.setattr("selfprompt.engines.slurm.time", SimpleNamespace(sleep=interrupted))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run_all("slurm", partial(endless, tmp_path), [1], 1, folder=tmp_path, options=ON_THIS_MACHINE))
    finally:
        signal.signal(signal.SIGINT, before)
    (process,) = lines(tmp_path / "started")
    while Path(f"/proc/{process}").exists():  # until the time limit of the tests
        time.sleep(0.05)


@pytest.mark.parametrize(("count", "groups"), [(1, [5]), (2, [2, 3]), (9, [1] * 5)])
def test_groups_are_neighbours_of_nearly_equal_number(count, groups):
    found = split_evenly(range(5), count)
    assert [len(group) for group in found] == groups
    assert [item for group in found for item in group] == list(range(5))


@pytest.mark.parametrize(("engine", "package", "extra"), [("slurm", "submitit", "cluster"), ("ray", "ray", "ray")])
def test_a_missing_package_is_named_with_its_extra(engine, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"--engine {engine} needs the package {package}: .*selfprompt\[{extra}\]"):
        list(run_all(engine, partial(squares, tmp_path), [1], 1, folder=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, 'Could not detect "srun"'), ({"cluster": "moon"}, "moon"), ({"cluster": "local", "foo": 1}, "'foo'")],
)
def test_what_slurm_cannot_start_is_a_sentence(tmp_path, options, message, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=f"--engine slurm cannot start jobs: .*{message}"):
        list(run_all("slurm", partial(squares, tmp_path), [1], 1, folder=tmp_path, options=options))


def test_wrong_numbers_and_options(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_all("local", partial(squares, tmp_path), [1], 0, folder=tmp_path)
    with pytest.raises(ValueError, match="engine_options are for slurm and ray"):
        run_all("local", partial(squares, tmp_path), [1], 1, folder=tmp_path, options={"a": 1})
    assert list(run_all("ray", partial(squares, tmp_path), [], 1, folder=tmp_path)) == []
