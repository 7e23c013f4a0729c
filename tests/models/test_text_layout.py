"""Texts of each family: ends, cutting, and features that equal open_clip's."""

import pytest
import torch

from selfprompt.methods.class_texts import add_prompts, encode_template, tokenize, tokenize_for_tower
from selfprompt.methods.heads import unit
from selfprompt.models.loading import assemble
from selfprompt.models.text_layout import TextLayout
from tests.models import tiny
from tests.models.tiny import assert_same
from tests.models.tiny_texts import CONTEXT, FAMILIES, loaded, upstream

NAMES = ("cat", "Great-White dog", "x")
every = pytest.mark.parametrize("family", FAMILIES)


@every
def test_features_are_upstreams(family: str) -> None:
    backbone, model = loaded(family)
    text, tokenizer = backbone.text_side()
    texts = [f"a photo of a {name}." for name in NAMES]
    whole = unit(upstream(model, tokenizer(texts), torch.zeros(len(texts), 0, dtype=torch.long), torch.zeros(0, 64)))
    assert_same(encode_template(backbone, "a photo of a {}.", NAMES), whole)
    ids, _ = tokenize_for_tower(backbone, texts)
    assert (ids.shape[1] < CONTEXT) == (text.layout.cut != "never")
    assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_the_end_of_a_text_is_not_its_greatest_id() -> None:
    layout = loaded("metaclip2")[0].text_side()[0].layout
    assert layout == TextLayout(start=1, end=2, pad=1, cut="end", reads="end")
    ids = torch.tensor([[0, 90, 5, 2, 1, 1], [0, 7, 2, 1, 1, 1]])
    assert layout.ends(ids).tolist() == [3, 2]
    assert layout.lengths(ids).tolist() == [4, 3]
    assert layout.lengths(ids, 5).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("clip", TextLayout()),
        ("mobileclip", TextLayout(cut="never")),
        ("coca", TextLayout(cut="never", reads="last")),
        ("siglip", TextLayout(0, 1, 1, "never", "last")),
        ("siglip2", TextLayout(0, 1, 0, "never", "last")),
        ("clipa", TextLayout(1, 0, 0, "never", "last")),
        ("metaclip2-mt5", TextLayout(0, 1, 0)),
    ],
)
def test_layouts(family: str, layout: TextLayout) -> None:
    text = loaded(family)[0].text_side()[0]
    assert text.layout == layout
    assert text.embed(torch.zeros(1, 3, dtype=torch.long)).prefix == layout.start
    ids = torch.arange(12).reshape(2, 6)
    assert TextLayout(reads="start").read_positions(ids).tolist() == [0, 0]
    assert TextLayout(reads="last").read_positions(ids).tolist() == [5, 5]
    assert TextLayout(reads="mean").read_positions(ids) is None


@every
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_prompts_stand_between_the_words(family: str, position: str) -> None:
    backbone, _ = loaded(family)
    text, tokenizer = backbone.text_side()
    start, context = text.layout.start, CONTEXT
    ids, slots = tokenize(backbone, add_prompts(["cat"], 3, position))
    name = {"end": tokenizer.encode("x cat."), "middle": tokenizer.encode("x cat"), "front": tokenizer.encode("cat")}
    marks = 0 if position == "front" else len(tokenizer.encode("x"))
    words, stop = name[position][marks:], tokenizer.encode("x .")[len(tokenizer.encode("x")) :]
    first = {"end": 3, "middle": 1, "front": 0}[position]
    assert slots.tolist() == [[start + place + (len(words) if place >= first else 0) for place in range(3)]]
    kept = torch.ones(context, dtype=torch.bool)
    kept[slots[0]] = False
    expected = [*tokenizer([""])[0, :start].tolist(), *words, *([] if position == "end" else stop)]
    assert ids[0, kept].tolist()[: len(expected)] == expected
    assert text.layout.ends(ids).tolist() == [len(expected) + 3]
    assert ids[0, len(expected) + 3 :].equal(tokenizer([""])[0, start:][: context - len(expected) - 3])


@every
def test_a_text_that_does_not_fit_is_refused_before_it_is_cut(family: str) -> None:
    backbone, _ = loaded(family)
    start = backbone.text_side()[0].layout.start
    with pytest.raises(ValueError, match=rf"'X X .*cat.' does not fit the model's {CONTEXT} text tokens; shorten"):
        tokenize(backbone, add_prompts(["cat"], CONTEXT - start))


def test_a_tokenizer_of_another_end_is_refused() -> None:
    _, tokenizer = loaded("metaclip2")[0].text_side()
    for text in ({"pool_type": "eos", "eos_id": 1}, {}):
        model = tiny.clip(custom=True, text={"context_length": CONTEXT, **text})
        with pytest.raises(ValueError, match=r"reads the token (1|59), and the tokenizer ends a text with 2: they do"):
            assemble.clip_backbone("tiny", model, tokenizer, images={})


def test_facts_name_what_weights_do_not_show() -> None:
    facts = {family: loaded(family)[0].text_side()[0].facts() for family in FAMILIES}
    assert "tokenizer" not in facts["clip"]
    assert facts["siglip"]["tokenizer"] == {"start": (), "end": 1, "pad": 1, "clean": "canonicalize"}
    assert facts["siglip"]["activation"] != facts["siglip2"]["activation"]
    fingerprints = {loaded(family)[0].fingerprint for family in FAMILIES}
    assert len(fingerprints) == len(FAMILIES)
