"""A prompter that looks on: it keeps what enters and leaves each block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from selfprompt.tokens import Tokens
from selfprompt.towers.base import Prompter


@dataclass
class Record:
    """Runs another prompter, or none, and keeps the streams.

    Attributes:
        inner: The prompter that is watched.
        inputs: The stream entering each block, after the prompter's edits.
        outputs: The stream leaving each block.
        options: What else each block was given: a temperature, an update.
    """

    inner: Prompter | None = None
    inputs: list[Tokens] = field(default_factory=list)
    outputs: list[Tokens] = field(default_factory=list)
    options: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def reach(self) -> int:
        return self.inner.reach if self.inner else 0

    def start(self, tokens: Tokens) -> Tokens:
        return self.inner.start(tokens) if self.inner else tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        def watched(stream: Tokens, **options: Any) -> Tokens:
            self.inputs.append(stream)
            self.options.append(options)
            self.outputs.append(block(stream, **options))
            return self.outputs[-1]

        return self.inner.layer(index, watched, tokens) if self.inner else watched(tokens)
