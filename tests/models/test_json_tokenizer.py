"""Tokenizers from tokenizer.json: the ids around the words, the cleaning, and files that are not tokenizers."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest

from selfprompt.models.loading import json_tokenizer as module
from selfprompt.models.loading.json_tokenizer import Kind, json_tokenizer
from selfprompt.models.loading.text_cleaning import CLEANING
from selfprompt.models.text_layout import TextFormat
from tests.models import vocabularies

GOLDEN = Path(__file__).parent.parent / "golden" / "backbones" / "tokenizer_t5"


def test_recorded_ids_of_siglips_tokenizer() -> None:
    expected = json.loads((GOLDEN / "expect.json").read_bytes())
    layout = expected["layout"]
    tokenizer = json_tokenizer(GOLDEN / "tokenizer.json", layout["context"], clean=layout["clean"], kind="siglip")
    assert tokenizer.text_format == TextFormat(tuple(layout["start"]), layout["end"], layout["pad"], layout["clean"])
    for row in expected["rows"]:
        text = row["plain_template"].replace("{}", row["name"])
        assert tokenizer([text])[0].tolist() == row["plain"]


@pytest.mark.parametrize(
    ("vocabulary", "kind", "start", "end", "pad"),
    [
        (vocabularies.gemma, "siglip", (), 1, 0),
        (vocabularies.t5, "siglip", (), 1, 1),
        (vocabularies.t5, "plain", (), 1, 0),
        (vocabularies.xlm, "plain", (0,), 2, 1),
        (vocabularies.wordpiece, "plain", (2,), 3, 0),
        (vocabularies.wordpiece, "clipa", (2,), 0, 0),
    ],
)
def test_the_ids_around_the_words(
    vocabulary: Callable[[Path], Path], kind: Kind, start: tuple[int, ...], end: int, pad: int, tmp_path: Path
) -> None:
    tokenizer = json_tokenizer(vocabulary(tmp_path / "tokenizer.json"), 12, kind=kind)
    assert tokenizer.text_format == TextFormat(start, end, pad, "whitespace")
    ids, words = tokenizer(["a photo of cat", ""]), tokenizer.encode("a photo of cat")
    assert ids.tolist()[1] == [*start, end, *[pad] * (11 - len(start))]
    found = [*start, *words][:11]
    assert ids.tolist()[0] == [*found, end, *[pad] * (11 - len(found))]
    assert not {0, 1, 2}.intersection(words) or vocabulary is vocabularies.xlm


def test_long_texts_are_cut_and_keep_their_end(tmp_path: Path) -> None:
    tokenizer = json_tokenizer(vocabularies.xlm(tmp_path / "tokenizer.json"), 5)
    (row,) = tokenizer("cat cat cat cat cat cat cat").tolist()
    assert (row[0], row[-1]) == (0, 2)
    assert row[1:4] == 3 * [row[1]]
    assert len(tokenizer.encode("cat cat cat cat cat cat cat")) == 7


def test_a_language_stands_before_the_words(tmp_path: Path) -> None:
    path = vocabularies.xlm(tmp_path / "tokenizer.json")
    file: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    file["model"]["vocab"] += [["eng_Latn", 0.0], ["deu_Latn", 0.0]]
    path.write_text(json.dumps(file), encoding="utf-8")
    english, german = (json_tokenizer(path, 8, language=language) for language in ("", "deu_Latn"))
    assert german.text_format.start[0] == english.text_format.start[0] + 1 > 2
    with pytest.raises(ValueError, match="the vocabulary has no token of the language 'fra_Latn'"):
        json_tokenizer(path, 8, language="fra_Latn")


@pytest.mark.parametrize("rule", list(CLEANING))
@pytest.mark.parametrize("text", ["  Jack-o'-lantern_X, «ß»!", "a&amp;amp;b\t\nc", "_", "", "\uff21B e\u0301"])
def test_cleaning_is_open_clips(rule: str, text: str) -> None:
    assert CLEANING[rule](text) == open_clip.tokenizer.get_clean_fn(rule)(text)


def test_what_is_no_tokenizer_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    for text in ("", "{}", '{"model": 3}', "[" * 10000, json.dumps({"version": "1.0", "model": {"type": "BPE"}})):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="is not a tokenizer that the package tokenizers reads: ") as raised:
            json_tokenizer(path, 8)
        assert "\n" not in str(raised.value)
    path = vocabularies.t5(path)
    path.write_text(path.read_text(encoding="utf-8").replace("</s>", "end"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json: the vocabulary needs a token that ends a text \(\[SEP\], "):
        json_tokenizer(path, 8)
    with pytest.raises(ValueError, match="The cleaning of texts must be one of whitespace, lower, canonicalize, got"):
        json_tokenizer(path, 8, clean="none")
    monkeypatch.setattr(module, "LARGEST", 2**20)
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="must have at most 1 MB, and it has 1"):
        json_tokenizer(path, 8)


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"needs the package tokenizers: pip install 'selfprompt\[tokenizers\]'\."):
        json_tokenizer(tmp_path / "tokenizer.json", 8)
