"""Batches across callers: nothing is lost, mixed up or out of order."""

import threading
import time
from concurrent.futures import CancelledError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfprompt.serving.batcher import Batcher


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    max_batch=st.integers(1, 9),
    max_wait=st.sampled_from([0.0, 0.001]),
    pause=st.sampled_from([0.0, 0.0005]),
)
def test_every_item_gets_its_own_result_in_order(counts, max_batch, max_wait, pause):
    batches = []

    def function(batch):
        batches.append(list(batch))
        time.sleep(pause)
        return [(caller, number, "done") for caller, number in batch]

    batcher = Batcher(function, max_batch, max_wait)
    results = [[] for _ in counts]

    def call(caller, count):
        results[caller] = [batcher.submit((caller, number)) for number in range(count)]

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(counts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()  # finishes what was submitted
    for caller, count in enumerate(counts):
        assert [future.result(0) for future in results[caller]] == [(caller, n, "done") for n in range(count)]
        seen = [number for batch in batches for who, number in batch if who == caller]
        assert seen == list(range(count))
    assert all(1 <= len(batch) <= max_batch for batch in batches)


@pytest.fixture
def held():
    """A batcher whose function waits for ``go``; its batches."""
    go, batches = threading.Event(), []

    def function(batch):
        batches.append(list(batch))
        assert go.wait(30)
        return batch

    batcher = Batcher(function, 3, 0.0)
    yield batcher, go, batches
    go.set()
    batcher.close()


def test_what_comes_while_the_model_runs_is_the_next_batch(held):
    batcher, go, batches = held
    first = batcher.submit(0)
    while not batches:
        time.sleep(0.001)
    rest = [batcher.submit(number) for number in (1, 2, 3, 4)]
    go.set()
    assert [future.result(30) for future in (first, *rest)] == [0, 1, 2, 3, 4]
    assert batches == [[0], [1, 2, 3], [4]]


def test_a_cancelled_item_is_left_out(held):
    batcher, go, batches = held
    first = batcher.submit(0)
    while not batches:
        time.sleep(0.001)
    gone, kept = batcher.submit(1), batcher.submit(2)
    assert gone.cancel()
    go.set()
    assert (first.result(30), kept.result(30)) == (0, 2)
    assert batches == [[0], [2]]
    with pytest.raises(CancelledError):
        gone.result(0)


def test_a_batch_waits_for_others():
    batches = []
    batcher = Batcher(lambda batch: batches.append(list(batch)) or batch, 2, 30.0)  # far longer than it takes
    futures = [batcher.submit(1), batcher.submit(2)]
    assert [future.result(20) for future in futures] == [1, 2]
    assert batches == [[1, 2]]
    alone = batcher.submit(3)
    batcher.close()  # ends the wait
    assert alone.result(0) == 3


def test_a_failure_reaches_its_batch_only():
    def function(batch):
        if "bad" in batch:
            raise MemoryError("no room")
        return batch if "short" not in batch else []

    batcher = Batcher(function, 1, 0.0)
    futures = [batcher.submit(item) for item in ("a", "bad", "short", "b")]
    assert (futures[0].result(30), futures[3].result(30)) == ("a", "b")
    with pytest.raises(MemoryError, match="no room"):
        futures[1].result(30)
    with pytest.raises(RuntimeError, match="A batch of 1 items gave 0 results"):
        futures[2].result(30)
    batcher.close()
    batcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("late")


@pytest.mark.parametrize(("max_batch", "max_wait", "message"), [(0, 0.0, "max_batch"), (1, -1.0, "max_wait")])
def test_a_wrong_number_is_refused(max_batch, max_wait, message):
    with pytest.raises(ValueError, match=f"{message} must be at least"):
        Batcher(list, max_batch, max_wait)
