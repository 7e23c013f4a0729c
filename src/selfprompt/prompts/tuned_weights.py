"""A prompter without prompts: some weights of every block of a frozen tower, as parameters of their own."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Tower

NORMS = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")


class TunedWeights(nn.Module):
    """Trainable copies of some weights, used by every block in place of its own; the tower stays as it is.

    The parameter of the weights "norm1.bias" is called ``norm1_bias`` and stacks those of all blocks, (depth, ...).

    Args:
        tower: The tower whose weights are the initial values.
        names: Names of ``Weights``. One that no block has (the bias of a layer without bias) is left out.

    Raises:
        TypeError: If only upstream can run the tower's blocks.
        ValueError: If the tower has none of the weights.
    """

    needs_all_outputs: ClassVar[bool] = False

    def __init__(self, tower: Tower, names: Sequence[str]) -> None:
        super().__init__()
        blocks = [tower.block_weights(index) for index in range(tower.depth)]
        self.names = tuple(name for name in names if name in blocks[0])
        if not self.names:
            raise ValueError(f"The blocks of this backbone have no {', '.join(names)}; use another method.")
        for name in self.names:
            stacked = torch.stack([block[name].detach().float() for block in blocks])
            self.register_parameter(name.replace(".", "_"), nn.Parameter(stacked))

    def start(self, tokens: Tokens) -> Tokens:
        return tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return block(tokens, weights=self.weights(index))

    def weights(self, index: int) -> dict[str, Tensor]:
        """Return the weights of a block by name."""
        return {name: self.get_parameter(name.replace(".", "_"))[index] for name in self.names}
