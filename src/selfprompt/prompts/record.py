"""A prompter that looks on: it keeps what enters and leaves each block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Prompter


@dataclass
class Record:
    """Runs another prompter, or none, and keeps the streams.

    Attributes:
        inner: The prompter that is watched.
        inputs: The stream entering each block, after the prompter's edits; prompts beside it stand within it here.
        outputs: The stream leaving each block, with what became of them.
        options: What else each block was given: a temperature, an update.
    """

    inner: Prompter | None = None
    inputs: list[Tokens] = field(default_factory=list)
    outputs: list[Tokens] = field(default_factory=list)
    options: list[Mapping[str, Any]] = field(default_factory=list)
    needs_all_outputs: ClassVar[bool] = True

    @property
    def reach(self) -> int:
        return self.inner.reach if self.inner else 0

    def start(self, tokens: Tokens) -> Tokens:
        return self.inner.start(tokens) if self.inner else tokens

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        def watched(stream: Tokens, *, beside: Tensor | None = None, **options: Any) -> Tokens:
            entering = stream if beside is None else stream.insert(beside)
            self.inputs.append(entering)
            self.options.append(options)
            self.outputs.append(block(entering, **options))
            return self.outputs[-1] if beside is None else self.outputs[-1].drop()

        return self.inner.layer(index, watched, tokens) if self.inner else watched(tokens)
