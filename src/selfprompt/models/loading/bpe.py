"""The tokenizer of the embedded CLIP: a part of CLIP's byte pairs, without importing open_clip."""

import gzip
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import islice, pairwise
from math import inf
from pathlib import Path

import regex
import torch
from torch import Tensor

from selfprompt.models.loading.text_cleaning import lower

START, END = "<start_of_text>", "<end_of_text>"
_LAST = "</w>"  # marks the last piece of a word
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)


class BytePairTokenizer:
    """CLIP's tokenizer with a part of its vocabulary: bytes, bytes that end a word, merged pairs, start and end.

    A call takes texts and returns ids, (N, context), int64, padded with 0. Longer texts are truncated, and their last
    token is the end of text, which has the greatest id, as CLIP's argmax pooling needs.

    Args:
        merges: Pairs of pieces, in the order of merging.
        context: Tokens per text.
    """

    def __init__(self, merges: Iterable[tuple[str, str]], context: int) -> None:
        self._letters = _letters()
        self._bytes = {letter: byte for byte, letter in self._letters.items()}
        letters = list(self._bytes)
        self.context = context
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.words = [*letters, *(letter + _LAST for letter in letters), *map("".join, self.ranks), START, END]
        self.ids = {word: number for number, word in enumerate(self.words)}
        self.start, self.end = self.ids[START], self.ids[END]

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        rows = [self.encode(text)[: self.context - 2] for text in ([texts] if isinstance(texts, str) else texts)]
        ids = torch.zeros(len(rows), self.context, dtype=torch.long)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row) + 2] = torch.tensor([self.start, *row, self.end])
        return ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end."""
        return [self.ids[piece] for word in _WORDS.findall(lower(text)) for piece in self._pieces(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; each word ends with a space."""
        letters = "".join(self.words[number] for number in ids)
        return bytes(self._bytes[letter] for letter in letters).decode(errors="replace").replace(_LAST, " ")

    def _pieces(self, word: str) -> list[str]:
        """Merge the bytes of a word until no known pair is left."""
        if word in (START, END):
            return [word]
        pieces = [self._letters[byte] for byte in word.encode()]
        pieces[-1] += _LAST
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: self.ranks.get(pair, inf))
            if best not in self.ranks:
                break
            merged = pieces[:1]
            for piece in pieces[1:]:
                if (merged[-1], piece) == best:
                    merged[-1] += piece
                else:
                    merged.append(piece)
            pieces = merged
        return pieces


def clip_merges(count: int) -> list[tuple[str, str]]:
    """Read the first merges of CLIP's vocabulary from the file in open_clip's folder."""
    package = find_spec("open_clip")
    assert package is not None, "a dependency"
    assert package.origin is not None, "a package with an __init__.py"
    with gzip.open(Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as file:
        pairs = (line.split() for line in islice(file, 1, 1 + count))  # after the line with the version
        return [(first, second) for first, second in pairs]


def _letters() -> dict[int, str]:
    """Return a letter for each byte, in CLIP's order: printable bytes themselves, then letters from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + rank) for rank, byte in enumerate(others)}
