"""The representative tokens that SEP selects before each block."""

import torch
from torch import Tensor

from selfprompt.analysis.tower_runs import TowerRun
from selfprompt.prompts.fusion import Fuse, Selection, strongest_indices


@torch.no_grad()
def selected_tokens(run: TowerRun, selection: Selection = "image") -> dict[int, Tensor]:
    """Return the tokens of largest mean square before each refreshed block, strongest first.

    These are the prompter's own choices: refreshing replaces the prompts alone, and they are never selected.

    Args:
        run: A recorded run.
        selection: The method's option; "batch" selects once for all images of the run.

    Returns:
        By block index: positions in prefix and patches, not counting prompts, (B, P). Empty for a run without fusion.
    """
    inner = run.record.inner
    if not isinstance(inner, Fuse):
        return {}
    positions = {}
    for index in sorted(inner.fusions):
        tokens = run.inputs[index]
        positions[index] = strongest_indices(tokens, tokens.count, selection).expand(tokens.x.shape[0], -1)
    return positions
