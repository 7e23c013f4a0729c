"""Ray on this machine: an actor is killed in the middle, and nothing is lost or repeated; skipped without Ray."""

import importlib.util
import os
from collections import Counter
from functools import partial

import pytest

from selfprompt.engines.run import run_all
from selfprompt.engines.work import EngineError
from tests.engines.tasks import squares
from tests.engines.test_engines import lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("default"),  # of Ray, about its own future
]


def test_a_killed_actor_is_replaced_and_each_item_is_done(tmp_path):
    start = partial(squares, tmp_path, deadly=3)
    results = dict(run_all("ray", start, range(8), 2, folder=tmp_path))
    assert {number: square for number, (square, _) in results.items()} == {number: number**2 for number in range(8)}
    assert Counter(lines(tmp_path / "journal")) == Counter([*range(8), 3])
    assert os.getpid() not in lines(tmp_path / "started")
    assert len(lines(tmp_path / "started")) == 3


def test_an_error_is_told_in_its_own_words(tmp_path):
    with pytest.raises(EngineError, match=r"^2 is wrong$"):
        list(run_all("ray", partial(squares, tmp_path, wrong=2), range(3), 1, folder=tmp_path))
