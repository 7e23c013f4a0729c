"""Class texts: positions of placeholders, cutting of padding, and messages about long names."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selfprompt.data.class_names import clean_name
from selfprompt.methods.class_texts import (
    TEMPLATES,
    add_prompts,
    check_template,
    embed_text,
    encode_template,
    fill_template,
    tokenize,
    tokenize_for_tower,
)
from selfprompt.models.loading.embedded import EmbeddedTokenizer
from selfprompt.models.text_layout import TextLayout
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import Prompter
from selfprompt.prompts.static import Scatter
from tests.methods.tiny import backbone, small

NAMES = (
    "cat",
    "X",
    "x x x",
    "lawn mower",
    "fish_tank",
    "2012 Tesla Model S",
    "737-800",
    "jack-o'-lantern",
    "Électricité & gaz",
    "honeycombed",
    "a  cardigan\twelsh corgi",
    "U.S.",
)
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8).filter(clean_name)


def tokenizer() -> Callable[..., Tensor]:
    result = backbone("clip").tokenizer
    assert result is not None
    return result


def written(name: str, count: int, position: str) -> str:
    """A class text with a word in place of each prompt, as the papers' code tokenises it."""
    before = {"end": count, "middle": count // 2, "front": 0}[position]
    return " ".join([*before * ["X"], clean_name(name), *(count - before) * ["X"]]) + "."


def check_text(name: str, count: int, position: str) -> None:
    ids, positions = tokenize(backbone("clip"), add_prompts([name], count, position))
    assert ids.equal(tokenizer()([written(name, count, position)]))
    assert positions.shape == (1, count)
    assert ids.gather(1, positions).eq(tokenizer()(["X"])[0, 1]).all()


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("name", NAMES)
def test_prompts_have_the_ids_and_places_of_words(name: str, position: str) -> None:
    for count in (1, 4, 5):
        check_text(name, count, position)


@given(printable, st.integers(1, 6), st.sampled_from(["end", "middle", "front"]))
def test_prompts_have_the_ids_and_places_of_words_around_any_printable_name(
    name: str, count: int, position: str
) -> None:
    check_text(name, count, position)


def test_positions_of_several_names_differ_only_after_the_name() -> None:
    for position, expected in (
        ("end", [[1, 2, 3, 4], [1, 2, 3, 4]]),
        ("middle", [[1, 2, 4, 5], [1, 2, 5, 6]]),
        ("front", [[2, 3, 4, 5], [3, 4, 5, 6]]),
    ):
        texts = add_prompts(["cat", "stop sign"], 4, position)
        assert tokenize(backbone("clip"), texts)[1].tolist() == expected


def test_prompts_hold_for_the_full_size_tokenizer_too() -> None:
    full = open_clip.SimpleTokenizer(context_length=77)
    clip = replace(backbone("clip"), tokenizer=full)
    for position in ("end", "middle", "front"):
        ids, positions = tokenize(clip, add_prompts(NAMES, 16, position))
        assert ids.equal(full([written(name, 16, position) for name in NAMES]))
        assert ids.gather(1, positions).eq(full(["X"])[0, 1]).all()


def test_a_tokenizer_that_joins_prompts_with_words_is_refused() -> None:
    class Joining(EmbeddedTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace(" ", ""))

    with pytest.raises(ValueError, match=r"keeps the placeholder 'x' apart .* this backbone's does not before 'cat\.'"):
        tokenize(replace(backbone("clip"), tokenizer=Joining()), add_prompts(["cat"], 3))


def test_templates_take_the_cleaned_name_even_with_braces_in_it() -> None:
    assert fill_template("a {} here.", ["fish_tank", "{}"]) == ["a fish tank here.", "a {} here."]
    for template in TEMPLATES.values():
        check_template(template)


@pytest.mark.parametrize("template", ["a photo", "a {} of {}", "a {name}."])
def test_a_template_without_exactly_one_placeholder_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"template must contain \{\} once, for the class name; got "):
        check_template(template)


def test_too_long_texts_are_refused_by_name() -> None:
    fits, long = " ".join(["cat"] * 30), " ".join(["cat"] * 31)  # 32 tokens with SOS and EOT
    assert tokenize(backbone("clip"), [fits])[0].shape == (1, 32)
    with pytest.raises(ValueError, match=rf"The text '{long}' does not fit the model's 32 text tokens; shorten"):
        tokenize(backbone("clip"), ["dog", long])
    with pytest.raises(ValueError, match=r"The text 'cat cat .*\.\.\.' does not fit") as raised:
        tokenize(backbone("clip"), [" ".join(["cat"] * 1000)])
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("method", ["coop", "sep", "zero-shot"])
def test_methods_name_the_class_that_is_too_long(method: str) -> None:
    name = " ".join(["mower"] * 40)
    with pytest.raises(ValueError, match=f"{name}.* does not fit the model's 32 text tokens"):
        small(method, names=["cat", name])


def test_more_prompts_than_the_context_holds_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="does not fit the model's 32 text tokens; shorten the name or description, or use fewer prompts",
    ):
        small("coop", prompts=30)


def test_prompts_that_read_beyond_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="The prompts read 33 text positions, the model has 32; use fewer"):
        small("sep", text_prompts=16)


def test_embeddings_of_a_text_are_rows_of_the_table() -> None:
    clip = backbone("clip")
    assert clip.text is not None
    ids = tokenizer()(["a photo of a"])
    rows = clip.text.embed(ids).x[0, 1:5]
    result = embed_text(clip, "a photo of a")
    assert result.equal(rows)
    assert not result.requires_grad


def test_a_text_to_embed_must_have_tokens() -> None:
    with pytest.raises(ValueError, match="init_text must hold at least one word"):
        embed_text(backbone("clip"), "  ")


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 12))
def test_a_text_is_cut_behind_its_end_or_what_prompts_read(ends: list[int], min_length: int) -> None:
    ids = torch.zeros(len(ends), 14, dtype=torch.long)
    for row, end in enumerate(ends):
        ids[row, : end + 1] = torch.tensor([98] + [5] * (end - 1) + [99])
    assert TextLayout().lengths(ids, min_length).tolist() == [max(end + 1, min_length) for end in ends]


def test_encoded_templates_have_length_one_and_do_not_depend_on_the_other_names() -> None:
    both = encode_template(backbone("clip"), "a photo of a {}.", ["cat", "very long class name indeed"])
    assert both.norm(dim=-1).sub(1).abs().max() < 1e-6
    alone = encode_template(backbone("clip"), "a photo of a {}.", ["cat"])
    assert (both[:1] - alone).abs().max() < 1e-5  # another length: float32 in another order


@dataclass(frozen=True)
class Perturbed:
    """A prompter whose embeddings are changed at some positions before the first block."""

    inner: Prompter
    positions: slice
    needs_all_outputs: bool = False

    def start(self, tokens: Tokens) -> Tokens:
        tokens = self.inner.start(tokens)
        x = tokens.x.clone()
        x[:, self.positions] += torch.linspace(-1, 1, x.shape[-1])  # a LayerNorm takes a shift of all channels away
        return tokens._replace(x=x)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return self.inner.layer(index, block, tokens)


def encode(method: object, monkeypatch: pytest.MonkeyPatch, ids: Tensor, positions: slice | None) -> Tensor:
    """SEP's class texts from given ids, with embeddings changed at some positions."""
    forward = type(method.text).forward

    def changed(tower: torch.nn.Module, _: Tensor, prompter: Prompter, **__: object) -> Tensor:  # no shared prefix
        return forward(tower, ids, prompter if positions is None else Perturbed(prompter, positions))

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(type(method.text), "forward", changed)
        return method.prompted_texts()


@pytest.mark.parametrize("count", [2, 6, 9])
@pytest.mark.parametrize("axis", ["tokens", "batch"])
def test_a_text_matters_up_to_its_useful_length_only(count: int, axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cat", "lawn mower", "stop sign"]
    method = small("sep", names=names, text_prompts=count, fusion_axis=axis)
    ids, _ = tokenize_for_tower(backbone("clip"), add_prompts(names, count), min_length=1 + 2 * count)
    full = tokenize(backbone("clip"), add_prompts(names, count))[0]
    end = int(full.argmax(dim=1).max())
    length = max(end + 1, 1 + 2 * count)
    assert ids.equal(full[:, :length])
    assert method.ids.equal(ids)
    plain = encode(method, monkeypatch, full, None)
    assert encode(method, monkeypatch, full, slice(length, None)).equal(plain)  # bit for bit
    for position in range(length):
        moved = encode(method, monkeypatch, full, slice(position, position + 1))
        assert (moved - plain).abs().max() > 1e-4, f"position {position} of {length} has no influence"
    with torch.no_grad():
        cut = method.prompted_texts()
    assert (cut - plain).abs().max() < 1e-5  # float32 in another order of summation


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_cutting_texts_does_not_change_coop(position: str) -> None:
    names = ["cat", "lawn mower", "jack-o'-lantern"]
    method = small("coop", names=names, class_token_position=position)
    full = tokenize(backbone("clip"), add_prompts(names, 4, position))[0]
    assert method.ids.shape[1] == int(full.argmax(dim=1).max()) + 1 < full.shape[1]
    with torch.no_grad():
        whole = method.text(full, Scatter(method.context, method.slots))
        assert (method.encode_classes() - whole / whole.norm(dim=-1, keepdim=True)).abs().max() < 1e-5
