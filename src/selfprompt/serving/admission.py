"""Refuses requests when too many wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException

from selfprompt.serving.limits import Limits

RETRY_AFTER = 1
"""Seconds after which a client may try again when the server is busy."""

Hold = Callable[[int], None]
"""Counts further bytes of a request; raises if all requests together hold too many."""


class Admission:
    """Counts the requests in progress and the bytes that they hold; for the threads of one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.bytes = 0

    @contextmanager
    def request(self) -> Iterator[Hold]:
        """Count one request until its answer is known.

        Raises:
            HTTPException: If there are too many.
        """
        if self.requests >= self.limits.max_waiting:
            raise _busy()
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self.bytes + size > self.limits.max_waiting_bytes:
                raise _busy()
            self.bytes += size
            held += size

        self.requests += 1
        try:
            yield hold
        finally:
            self.requests -= 1
            self.bytes -= held


def _busy() -> HTTPException:
    return HTTPException(503, "Too many requests are waiting; try again soon.", {"Retry-After": str(RETRY_AFTER)})
