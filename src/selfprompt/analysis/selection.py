"""Which tokens SEP takes as representatives in front of each block."""

import torch
from torch import Tensor

from selfprompt.analysis.streams import Stream
from selfprompt.prompts.fusion import Fuse, Selection, strongest


@torch.no_grad()
def selected(stream: Stream, selection: Selection = "image") -> dict[int, Tensor]:
    """The tokens whose power is largest, strongest first, by refreshed block; empty for a run without fusion.

    The prompter chose among the same tokens: refreshing exchanges the prompts only, which are never chosen.

    Args:
        stream: A run.
        selection: As the method has it; "batch" chooses once for all images of the run.

    Returns:
        By block index: positions in prefix and patches without the prompts, (B, P).
    """
    inner = stream.record.inner
    if not isinstance(inner, Fuse):
        return {}
    found = {}
    for index in sorted(inner.fusions):
        tokens = stream.inputs[index]
        found[index] = strongest(tokens, tokens.count, selection).expand(tokens.x.shape[0], -1)
    return found
