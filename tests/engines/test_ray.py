"""Ray on this machine: an actor is killed in the middle, and nothing is lost or repeated; skipped without Ray."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

import selfprompt
from selfprompt.benchmarks.protocols import build_grid
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import start_worker
from selfprompt.engines.run import run_all
from selfprompt.engines.work import EngineError
from tests.benchmarks.drawn_suite import draw_suite
from tests.conftest import ran, started
from tests.engines.tasks import squares
from tests.engines.test_engines import lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("default"),  # of Ray, about its own future
]


@pytest.fixture(scope="module")
def running():
    """Ray on two processors, for several tests: it starts slowly."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("running")
def test_a_killed_actor_is_replaced_and_each_item_is_done(tmp_path):
    start = partial(squares, tmp_path, deadly=3)
    results = dict(run_all("ray", start, range(8), 2, folder=tmp_path))
    assert {number: square for number, (square, _) in results.items()} == {number: number**2 for number in range(8)}
    assert Counter(lines(tmp_path / "journal")) == Counter([*range(8), 3])
    assert os.getpid() not in lines(tmp_path / "started")
    assert len(lines(tmp_path / "started")) == 3


@pytest.mark.usefixtures("running")
def test_an_error_is_told_in_its_own_words(tmp_path):
    with pytest.raises(EngineError, match=r"^2 is wrong$"):
        list(run_all("ray", partial(squares, tmp_path, wrong=2), range(3), 1, folder=tmp_path))
    with pytest.raises(ValueError, match=r"--engine-options must be those of Ray's actors: .*foo"):
        list(run_all("ray", partial(squares, tmp_path), [1], 1, folder=tmp_path, options={"foo": 1}))


@pytest.mark.usefixtures("running")
def test_cells_of_a_benchmark_are_done_though_an_actor_is_killed(tmp_path):
    root = draw_suite(tmp_path / "suite")
    (tmp_path / "deadly").touch()
    row = "tests.benchmarks.journal_methods:Deadly[backbone=embedded/mae]"
    cells = build_grid("base-to-new", "embedded", parse_rows(row), ["animals"], (1, 2, 3), (2,), {"epochs": 1})
    options = {"runtime_env": {"env_vars": {"BENCH_TEST": str(tmp_path)}}}
    start = partial(start_worker, tmp_path / "out", root, None)
    done = list(run_all("ray", start, cells, 2, folder=tmp_path, options=options))
    assert sorted(cell.seed for cell, outcome in done if outcome.state == "done") == [1, 2, 3]
    assert len(list((tmp_path / "out").rglob("result.json"))) == 3
    assert not (tmp_path / "deadly").exists()


def test_predictions_of_actors_are_those_of_one_process(linear, photos, tmp_path, monkeypatch):
    """The command line, with relative paths; one of the actors is killed in the middle."""
    loaded = selfprompt.load(linear, device="cpu")
    loaded.batch_size = 2
    loaded.save(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    words = ("predict", "small", "photos", "--device", "cpu", "--shards", "16", "--merge")
    assert ran(*words, "--out", "one").status == 0
    process = started(*words, "--out", "two", "--engine", "ray", "--jobs", "2")
    while len(list((tmp_path / "two").glob("shard-*.json"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    os.kill(actors_of(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "A worker was killed, or ran out of memory; its work is done again." in said
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("[!.]*")} for name in ("one", "two"))
    assert one == two


def test_the_pipeline_of_the_page_runs(linear, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    page = (Path(__file__).parents[2] / "docs" / "large-archives.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import ray" in block)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "dogs").symlink_to(linear)
    (tmp_path / "page.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(parquet.read_table(tmp_path / "labels")) == 32


def actors_of(parent: int) -> list[int]:
    """The processes of actors that descend from a process; Ray names each by its class."""
    found, pending = [], [parent]
    while pending:
        pid = pending.pop()
        with suppress(OSError):
            pending += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            found += [pid] if b"ray::Actor" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found
