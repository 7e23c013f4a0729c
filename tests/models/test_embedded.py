"""The embedded tokenizer is CLIP's with a smaller vocabulary."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from selfprompt.models.loading.embedded import CONTEXT, VOCABULARY, EmbeddedTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> EmbeddedTokenizer:
    return EmbeddedTokenizer()


def test_vocabulary(tokenizer: EmbeddedTokenizer) -> None:
    assert len(set(tokenizer.words)) == VOCABULARY == 8192
    assert len(tokenizer.ranks) == 7678
    assert (tokenizer.start, tokenizer.end) == (8190, 8191)


def test_ids(tokenizer: EmbeddedTokenizer) -> None:
    ids = tokenizer(["a photo of a cat", ""])
    assert ids.shape == (2, CONTEXT)
    assert ids[1].tolist() == [8190, 8191] + [0] * 30
    assert ids[0].argmax() == 6
    assert (ids < VOCABULARY).all()


@pytest.fixture(scope="module")
def theirs(tokenizer: EmbeddedTokenizer) -> SimpleTokenizer:
    """open_clip's tokenizer with the same vocabulary."""
    simple = SimpleTokenizer(context_length=CONTEXT)
    simple.bpe_ranks, simple.encoder = tokenizer.ranks, tokenizer.ids
    simple.decoder = dict(enumerate(tokenizer.words))
    simple.sot_token_id, simple.eot_token_id = tokenizer.start, tokenizer.end
    return simple


PIECES = st.sampled_from(
    ["photo", "A ", "dog's", " <start_of_text>", "<END_of_text>", "&amp;lt;", "aaaa", "'LL", "²Ⅷ", "İ"]
)


@given(st.lists(st.text() | PIECES).map("".join))
@example("it's &amp; <start_of_text>x<End_Of_Text> \x1b[31m schÃ¶n ﬁ \u2028 abab aaaaa 10²")
def test_any_text_has_the_ids_of_open_clips(tokenizer: EmbeddedTokenizer, theirs: SimpleTokenizer, text: str) -> None:
    ids = tokenizer(text)
    assert tokenizer.encode(text) == theirs.encode(text)
    assert ids.equal(theirs(text))
    assert tokenizer.decode(ids[0].tolist()) == theirs.decode(ids[0].tolist())


def test_the_first_words_of_the_vocabulary_are_clips(tokenizer: EmbeddedTokenizer) -> None:
    decoder = SimpleTokenizer().decoder
    assert tokenizer.words[:-2] == [decoder[number] for number in range(VOCABULARY - 2)]


def test_frequent_words_have_clips_ids(tokenizer: EmbeddedTokenizer) -> None:
    assert tokenizer.encode("a photo of a dog") == SimpleTokenizer().encode("a photo of a dog")


@pytest.mark.parametrize("text", ["kalanchoe", "straße 7 naïve", "日本語", "it's", "émigré's 猫!"])
def test_any_text_comes_back(tokenizer: EmbeddedTokenizer, text: str) -> None:
    words = tokenizer.decode(tokenizer.encode(text))
    assert words.replace(" ", "") == text.lower().replace(" ", "")


def test_long_texts_end_with_the_end_of_text(tokenizer: EmbeddedTokenizer) -> None:
    ids = tokenizer("word " * 50)
    assert ids.shape == (1, CONTEXT)
    assert ids[0, -1] == tokenizer.end
