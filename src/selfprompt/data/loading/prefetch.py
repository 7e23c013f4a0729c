"""Runs a function over batches in threads, in order and a bounded number of batches ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

BATCHES_AHEAD = 2  # batches prepared while one is used


def batched(members: Iterable[In], size: int) -> Iterator[list[In]]:
    """Yield lists of ``size`` members, the last one possibly shorter; reads no further than it yields."""
    source = iter(members)
    while batch := list(islice(source, size)):
        yield batch


def prefetch(
    function: Callable[[In], Out], batches: Iterable[list[In]], workers: int, depth: int = BATCHES_AHEAD
) -> Iterator[list[Out]]:
    """Apply a function to each member of each batch, and yield the results batch by batch, in order.

    Args:
        function: Called once per member, from several threads at a time.
        batches: Consumed lazily, ``depth`` batches ahead of the one that is yielded.
        workers: Threads; 0 calls the function in the calling thread, without reading ahead.
        depth: Batches in progress or ready while one is in use.
    """
    if workers == 0:
        yield from ([function(member) for member in batch] for batch in batches)
        return
    pending: deque[list[Future[Out]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        for batch in batches:
            pending.append([pool.submit(function, member) for member in batch])
            if len(pending) > depth:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:  # also when the caller stops early
        pool.shutdown(cancel_futures=True)
