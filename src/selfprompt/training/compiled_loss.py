"""The loss of a method, compiled as a whole with ``torch.compile``."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from selfprompt.data.views import Views
    from selfprompt.methods.base import LossTerms, Method

logger = logging.getLogger(__name__)


def compiled_loss(
    method: "Method", *, log: Callable[[str], None] = logger.info, backend: str = "inductor"
) -> "Callable[[Views], LossTerms]":
    """Return the loss as one graph, which the first call compiles; a C++ compiler or a GPU is needed.

    A batch of another size compiles one more graph, for any size. PyTorch compiles at most eight, and the next call
    fails: nothing goes on uncompiled without a word.

    Args:
        method: The method, on its device.
        log: Receives the seconds of the first call.
        backend: A backend of ``torch.compile``.

    Raises:
        ValueError: In a call, if the loss cannot be compiled to a single graph, or needs more graphs.
    """
    compiled, calls = torch.compile(method.loss, fullgraph=True, backend=backend), 0

    def loss(views: "Views") -> "LossTerms":
        nonlocal calls
        start, calls = time.monotonic(), calls + 1
        try:
            terms = compiled(views)
        except Exception as error:
            if type(error).__module__ != "torch._dynamo.exc":
                raise
            limit = type(error).__name__ == "FailOnRecompileLimitHit"
            fault = "needs more graphs than PyTorch compiles" if limit else "cannot be compiled to a single graph"
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"The loss of {method.name} {fault} ({reason}). Leave out --compile, or try a newer PyTorch."
            ) from error
        if calls == 1:
            log(f"compiled the loss in {time.monotonic() - start:.0f} s")
        return terms

    return loss
