"""A prompter that records the input and output of each block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import NoPrompts, Prompter


@dataclass
class Record:
    """Runs another prompter and records the streams.

    Attributes:
        inner: The recorded prompter.
        inputs: The input of each block, after the prompter's edits; prompts that were keys and values alone are
            inserted into it.
        outputs: The output of each block, with these prompts' outputs.
        options: The further arguments of each block: temperature, qkv_delta, weights.
    """

    inner: Prompter = field(default_factory=NoPrompts)
    inputs: list[Tokens] = field(default_factory=list)
    outputs: list[Tokens] = field(default_factory=list)
    options: list[Mapping[str, Any]] = field(default_factory=list)
    needs_all_outputs: ClassVar[bool] = True

    def start(self, tokens: Tokens) -> Tokens:
        return self.inner.start(tokens)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        def recorded(stream: Tokens, *, extra_kv: Tensor | None = None, **options: Any) -> Tokens:
            stream = stream if extra_kv is None else stream.insert(extra_kv)
            self.inputs.append(stream)
            self.options.append(options)
            self.outputs.append(block(stream, **options))
            return self.outputs[-1] if extra_kv is None else self.outputs[-1].drop()

        return self.inner.layer(index, recorded, tokens)
