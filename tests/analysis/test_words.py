"""Words near text prompts: the embedding of a word is nearest to that word."""

import pytest
import torch

from selfprompt.analysis.words import input_prompts, nearest, nearest_words, spacing, spell, vocabulary
from selfprompt.methods.class_texts import embed_text
from tests.methods.tiny import NAMES, backbone, small


def test_a_word_is_next_to_itself() -> None:
    clip = backbone("clip")
    text, tokenizer = clip.text_side()
    words = vocabulary(text)
    assert words.shape == (text.facts()["vocabulary"], text.width)
    rows = nearest_words(embed_text(clip, "a photo of a dog"), words, tokenizer, count=3)
    assert [row[0].word for row in rows] == ["a", "photo", "of", "a", "dog"]
    assert all(row[0].distance == pytest.approx(0, abs=1e-5) for row in rows)
    assert all(row[0].distance <= row[1].distance <= row[2].distance for row in rows)


def test_distances_are_euclidean_and_ordered() -> None:
    words = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    distances, places = nearest(torch.tensor([[3.0, 4.5]]), words, 5)  # no more than there are
    assert places.tolist() == [[1, 2, 0]]
    assert distances[0].tolist() == pytest.approx([0.5, 21.25**0.5, 29.25**0.5])


def test_spacing_is_the_distance_to_the_nearest_other_word() -> None:
    assert spacing(torch.tensor([[0.0], [1.0], [10.0]])) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options", "owners"),
    [
        ("coop", {}, [""]),
        ("coop", {"class_specific": True}, list(NAMES)),
        ("kgcoop", {}, [""]),
        ("sep", {}, [""]),
        ("ivlp", {}, [""]),
        ("maple", {}, [""]),
        ("vpt-clip", {}, []),
        ("zero-shot", {}, []),
    ],
)
def test_text_prompts_at_the_input(name: str, options: dict[str, bool], owners: list[str]) -> None:
    method = small(name, **options)
    found = input_prompts(method)
    assert list(found) == owners
    assert all(vectors.shape[1:] == (method.text.width,) for vectors in found.values())


def test_deep_prompts_are_read_at_the_input() -> None:
    method = small("ivlp")
    assert torch.equal(input_prompts(method)[""], method.text_prompts[0].detach())


def test_pieces_of_words_are_marked() -> None:
    _, tokenizer = backbone("clip").text_side()
    whole, piece = tokenizer.ids["dog</w>"], tokenizer.ids["do"]
    assert (spell(tokenizer, whole), spell(tokenizer, piece)) == ("dog", "do-")
    assert spell(tokenizer, tokenizer.end) == "<end_of_text>"
    assert spell(lambda texts: texts, 7) == "token 7"  # a tokenizer that cannot spell
