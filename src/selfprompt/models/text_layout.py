"""Where the words of a text stand among its tokens, and which of them a text tower reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextFormat:
    """What a tokenizer does with a text before and after the words of its vocabulary.

    Attributes:
        start: Ids before the words.
        end: Id behind the words; may be ``pad`` itself.
        pad: Id that fills a text up to the context, on the right.
        clean: Name of the rule by which the text is cleaned.
    """

    start: tuple[int, ...]
    end: int
    pad: int
    clean: str
