"""Work done by threads ahead of the one who needs it: in order, and never more than a few batches of it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

BATCHES_AHEAD = 2  # batches that threads prepare while one is used


def batched(members: Iterable[Given], size: int) -> Iterator[list[Given]]:
    """Members in lists of ``size``, the last one shorter where they run out; takes no more than it gives."""
    source = iter(members)
    while batch := list(islice(source, size)):
        yield batch


def prefetch(
    function: Callable[[Given], Made], batches: Iterable[list[Given]], workers: int, depth: int = BATCHES_AHEAD
) -> Iterator[list[Made]]:
    """What a function makes of each member of each batch, in their order.

    Args:
        function: Called once a member, by several threads at a time.
        batches: Taken as they are needed, ``depth`` ahead of the batch that is given out.
        workers: Threads; 0 calls the function in the calling thread, without reading ahead.
        depth: Batches in work, or ready, beside the one in use.
    """
    if workers == 0:
        yield from ([function(member) for member in batch] for batch in batches)
        return
    waiting: deque[list[Future[Made]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    try:
        for batch in batches:
            waiting.append([pool.submit(function, member) for member in batch])
            if len(waiting) > depth:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:  # also when the caller stops early
        pool.shutdown(cancel_futures=True)
