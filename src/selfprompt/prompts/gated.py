"""GateVPT's prompts: shallow, with a trainable gate after each block and a temperature inside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from selfprompt.models.tokens import Tokens


@dataclass(frozen=True)
class Gated:
    """Prompts that may skip blocks: ``prompt <- s * block(prompt) + (1 - s) * prompt``, s = sigmoid(gate).

    Attributes:
        prompts: (P, D).
        gates: Gate logits, (G,); blocks with an index of G or more have no gate.
        temperatures: Divisors of each block's attention logits, (depth,).
        dropout: Rate of the dropout on prompts; 0 in evaluation.

    Source: Yoo et al. 2023 (arXiv 2306.05067), section 4.
    """

    prompts: Tensor
    gates: Tensor
    temperatures: Tensor
    dropout: float = 0.0
    needs_all_outputs: ClassVar[bool] = True

    def start(self, tokens: Tokens) -> Tokens:
        prompts = self.prompts
        if self.dropout:
            prompts = F.dropout(prompts.expand(tokens.x.shape[0], -1, -1), self.dropout)
        return tokens.insert(prompts)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        outputs = block(tokens, temperature=self.temperatures[index])
        if index >= len(self.gates):
            return outputs
        gate = self.gates[index].sigmoid()
        return outputs.replace(gate * outputs.prompts + (1 - gate) * tokens.prompts)
