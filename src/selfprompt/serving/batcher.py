"""Collects items of many callers into batches for one worker thread."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Batcher(Generic[In, Out]):
    """Runs a function on batches of items, in the order in which they were submitted, in one thread.

    A batch begins with the first item that waits, and takes what else has come when it is full or its time is over. So
    a busy server waits for nothing: the next batch fills while the function runs.

    Args:
        function: Returns one result for each item of a batch.
        max_batch: Most items in a batch.
        max_wait: Seconds that a batch waits for further items.

    Raises:
        ValueError: If ``max_batch`` is below 1, or ``max_wait`` below 0.
    """

    def __init__(self, function: Callable[[Sequence[In]], Sequence[Out]], max_batch: int, max_wait: float) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}.")
        if max_wait < 0:
            raise ValueError(f"max_wait must be at least 0, got {max_wait:g}.")
        self._function, self._max_batch, self._max_wait = function, max_batch, max_wait
        self._queue: SimpleQueue[tuple[In, Future[Out]] | None] = SimpleQueue()
        self._lock, self._closed = Lock(), False
        self._thread = Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, item: In) -> "Future[Out]":
        """Return the future result of an item; cancelling it before its batch begins leaves the item out.

        Raises:
            RuntimeError: If the batcher is closed.
        """
        future: Future[Out] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("The batcher is closed.")
            self._queue.put((item, future))
        return future

    def close(self) -> None:
        """Finish what was submitted, and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)  # the last entry
        self._thread.join()

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            batch, goes_on = self._next_batch()
            self._run([(item, future) for item, future in batch if future.set_running_or_notify_cancel()])

    def _next_batch(self) -> tuple[list[tuple[In, Future[Out]]], bool]:
        """Wait for a batch; return it, and whether there may be another one."""
        batch = []
        entry, end = self._queue.get(), time.monotonic() + self._max_wait
        while entry is not None:
            batch.append(entry)
            if len(batch) == self._max_batch:
                return batch, True
            try:
                entry = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                return batch, True
        return batch, False

    def _run(self, batch: list[tuple[In, Future[Out]]]) -> None:
        if not batch:
            return
        try:
            results = self._function([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"A batch of {len(batch)} items gave {len(results)} results.")
        except BaseException as error:  # the callers get it; the thread goes on with the next batch
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
