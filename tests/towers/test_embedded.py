"""The embedded tokenizer is CLIP's own, cut short."""

import pytest
from open_clip.tokenizer import SimpleTokenizer

from selfprompt.towers.embedded import CONTEXT, VOCABULARY, EmbeddedTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> EmbeddedTokenizer:
    return EmbeddedTokenizer()


def test_vocabulary(tokenizer: EmbeddedTokenizer) -> None:
    assert tokenizer.vocab_size == len(tokenizer.decoder) == VOCABULARY == 8192
    assert len(tokenizer.bpe_ranks) == 7678
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id) == (8190, 8191)


def test_ids(tokenizer: EmbeddedTokenizer) -> None:
    ids = tokenizer(["a photo of a cat", ""])
    assert ids.shape == (2, CONTEXT)
    assert ids[1].tolist() == [8190, 8191] + [0] * 30
    assert ids[0].argmax() == 6
    assert (ids < VOCABULARY).all()


def test_frequent_words_have_clips_own_ids(tokenizer: EmbeddedTokenizer) -> None:
    assert tokenizer.encode("a photo of a dog") == SimpleTokenizer().encode("a photo of a dog")


@pytest.mark.parametrize("text", ["kalanchoe", "straße 7 naïve", "日本語", "it's", "émigré's 猫!"])
def test_any_text_comes_back(tokenizer: EmbeddedTokenizer, text: str) -> None:
    words = tokenizer.decode(tokenizer.encode(text))
    assert words.replace(" ", "") == text.lower().replace(" ", "")


def test_long_texts_end_with_the_end_of_text(tokenizer: EmbeddedTokenizer) -> None:
    ids = tokenizer("word " * 50)
    assert ids.shape == (1, CONTEXT)
    assert ids[0, -1] == tokenizer.eot_token_id
