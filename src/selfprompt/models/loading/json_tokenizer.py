"""Tokenizers from a tokenizer.json alone, which is data: nothing that a repository holds is run.

The library `tokenizers` cuts a text into words of the vocabulary; cleaning, the ids around the words, truncation and
padding are ours, because transformers keeps them in other files and classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from selfprompt.models.loading.text_cleaning import CLEANING
from selfprompt.models.text_layout import TextFormat

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
VOCABULARY = "vocab.txt"
"""The older file of BERT's tokenizers, with a token in each line, for texts in lower case."""
LARGEST = 256 * 2**20
"""Bytes of the largest file that is read: three times that of the largest published vocabulary, XLM-V's."""
EXTRA = "pip install 'selfprompt[tokenizers]'"

Kind = Literal["plain", "siglip", "clipa"]
"""How a model was trained to see the ends of a text.

"plain": as the vocabulary's own family does (BERT, XLM-R, RoBERTa, NLLB, T5, CLIP). "siglip": no start; with T5's
vocabulary the end is also the padding. "clipa": BERT's with the end replaced by padding.
"""

_FAMILIES = (  # start, end and padding; the first family is taken whose start and end are in the vocabulary
    ("[CLS]", "[SEP]", "[PAD]"),  # BERT
    ("", "<eos>", "<pad>"),  # Gemma, whose HTML tags include <s> and </s>
    ("<s>", "</s>", "<pad>"),  # XLM-R, RoBERTa; NLLB has a language in place of <s>
    ("", "</s>", "<pad>"),  # T5
    ("<|startoftext|>", "<|endoftext|>", ""),  # CLIP
)
_ENGLISH = "eng_Latn"


class JsonTokenizer:
    """Texts -> ids, (N, context), int64, by a vocabulary of the library `tokenizers`.

    Args:
        words: Cuts a text into ids.
        text_format: Cleaning, and the ids around the words.
        context: Tokens per text; longer texts are cut, and keep their end.
    """

    def __init__(self, words: "Tokenizer", text_format: TextFormat, context: int) -> None:
        self._words = words
        self.text_format = text_format
        self.context = context

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        around, rows = self.text_format, [texts] if isinstance(texts, str) else texts
        ids = torch.full((len(rows), self.context), around.pad, dtype=torch.long)
        for row, text in zip(ids, rows, strict=True):
            words = self.encode(text)[: self.context - len(around.start) - 1]
            found = [*around.start, *words, around.end]
            row[: len(found)] = torch.tensor(found)
        return ids

    @property
    def vocabulary(self) -> int:
        """Number of ids that texts can have: T5's files count up to 100 that no text has."""
        unused = (f"{mark}<extra_id_{number}>" for mark in ("", "▁") for number in range(100))
        return int(self._words.get_vocab_size()) - sum(self._words.token_to_id(token) is not None for token in unused)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end."""
        cleaned = CLEANING[self.text_format.clean](text)
        return list(self._words.encode(cleaned, add_special_tokens=False).ids)


def json_tokenizer(
    path: Path, context: int, *, clean: str = "whitespace", kind: Kind = "plain", language: str = ""
) -> JsonTokenizer:
    """Read a tokenizer.json, or a vocab.txt of BERT's.

    Args:
        path: The file.
        context: Tokens per text.
        clean: Name of the rule by which texts are cleaned: "whitespace", "lower" or "canonicalize".
        kind: How the model was trained to see the ends of a text.
        language: Of NLLB: the token that stands before the words, such as "deu_Latn"; English if it is empty.

    Raises:
        ImportError: If the extra `tokenizers` is not installed.
        ValueError: If the file is not a tokenizer whose ends of texts are known, or there is no such rule.
    """
    require_tokenizers(path.name)
    if clean not in CLEANING:
        raise ValueError(f"The cleaning of texts must be one of {', '.join(CLEANING)}, got {clean!r}.")
    words = _read(path)
    words.no_truncation()
    words.no_padding()
    try:
        text_format = _format(words, clean, kind, language)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return JsonTokenizer(words, text_format, context)


def require_tokenizers(what: str) -> None:
    """Raise ImportError, with what to install, if the library `tokenizers` is missing."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise ImportError(f"Reading {what} needs the package tokenizers: {EXTRA}.") from None


def _read(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} must have at most {LARGEST // 2**20} MB, and it has {size / 2**20:.0f}.")
    try:
        if path.suffix == ".json":
            return Tokenizer.from_file(str(path))
        tokenizer = Tokenizer(models.WordPiece.from_file(str(path), unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of the Rust library are no Exception
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"{path} is not a tokenizer that the package tokenizers reads: {reason}") from None


def _format(words: "Tokenizer", clean: str, kind: Kind, language: str) -> TextFormat:
    """Return what surrounds the words, from the tokens that the vocabulary has."""

    def has(token: str) -> bool:
        return words.token_to_id(token) is not None

    start, end, pad = next((tokens for tokens in _FAMILIES if all(map(has, filter(None, tokens[:2])))), ("", "", ""))
    if not end:
        ends = ", ".join(dict.fromkeys(tokens[1] for tokens in _FAMILIES))
        raise ValueError(f"the vocabulary needs a token that ends a text ({ends}), and it has none.")
    if language or has(_ENGLISH):
        start = language or _ENGLISH
    if start and not has(start):
        raise ValueError(f"the vocabulary has no token of the language {language!r}.")
    if not has(pad) or (kind == "siglip" and end == "</s>"):
        pad = end
    if kind == "siglip":
        start = ""
    if kind == "clipa":
        end = pad
    before, (last, filler) = _ids(words, start), _ids(words, end, pad)
    return TextFormat(before, last, filler, clean)


def _ids(words: "Tokenizer", *tokens: str) -> tuple[int, ...]:
    """Return the ids of the tokens that are not empty."""
    return tuple(number for token in tokens if token and (number := words.token_to_id(token)) is not None)
