"""Tokenizers of open_clip's configurations: folders of each family, and published names before their weights."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
from safetensors.torch import save_file

from selfprompt.methods.class_texts import encode_template
from selfprompt.models.loading import open_clip_models
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.clip_tokenizers import clip_tokenizer
from tests.models import vocabularies
from tests.models.tiny import assert_same
from tests.models.tiny_texts import CONTEXT, FAMILIES, Family, loaded

VISION = {"layers": 3, "width": 64, "patch_size": 8, "image_size": 32}
WITH_FILES = [name for name, family in FAMILIES.items() if family.vocabulary and not family.encoder]


def never() -> Path:
    raise AssertionError("no file is needed")


def options_of(family: Family) -> dict[str, Any]:
    """The options that open_clip gives the tokenizer of a family."""
    given = dict(family.options or {})
    kind = given.pop("kind", "")
    return given | ({"strip_sep_token": True} if kind == "clipa" else {})


def write_folder(folder: Path, name: str, **tokenizer_options: Any) -> Path:
    """Write the tiny model of a family in open_clip's layout."""
    family, (backbone, model) = FAMILIES[name], loaded(name)
    tokenizer = options_of(family) | tokenizer_options
    text = {"context_length": CONTEXT, "vocab_size": 120, "width": 64, "heads": 1, "layers": 3, **family.text}
    text |= {"hf_tokenizer_name": "org/name", "tokenizer_kwargs": tokenizer}
    config = {"embed_dim": 16, "custom_text": True, "vision_cfg": VISION, "text_cfg": text}
    if backbone.bias:
        config["init_logit_bias"] = 0.0
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    assert family.vocabulary is not None
    family.vocabulary(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize("family", WITH_FILES)
def test_a_folder_of_each_family(family: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", family, trust_remote_code=True)
    backbone, (expected, _) = load_backbone(f"open_clip/local-dir:{folder}"), loaded(family)
    assert backbone.text_side()[1].text_format == expected.text_side()[1].text_format
    assert backbone.fingerprint == expected.fingerprint
    names = ["cat", "Great-White dog"]
    assert_same(*(encode_template(one, "a photo of a {}.", names) for one in (backbone, expected)))


def test_the_file_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "siglip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["vocab_size"] = 20
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"tokenizer\.json must have at most the 20 ids of open_clip/local-dir.*, got"):
        load_backbone(f"open_clip/local-dir:{folder}")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json, and there is none; put that of org/name"):
        load_backbone(f"open_clip/local-dir:{folder}")


@pytest.mark.parametrize("clean", ["lower", "canonicalize"])
def test_clips_own_tokenizer(clean: str) -> None:
    tokenizer: Any = clip_tokenizer("x", {"context_length": 20}, "", {"clean": clean}, never)
    assert tokenizer(["A-b_c."]).equal(open_clip.SimpleTokenizer(context_length=20, clean=clean)(["A-b_c."]))
    assert (getattr(tokenizer, "text_format", None) is None) == (clean == "lower")
    with pytest.raises(ValueError, match="texts of x must be one of whitespace, lower, canonicalize, got 'none'"):
        clip_tokenizer("x", {}, "", {"clean": "none"}, never)


def test_the_tokenizer_comes_before_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def refuse(repository: str, file: str, **_: Any) -> str:
        asked.append((repository, file))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    for name, source in (("ViT-B-16-SigLIP/webli", "timm/ViT-B-16-SigLIP"), ("ViT-L-14-CLIPA/random", "bert-base-unc")):
        message = rf"Could not download the tokenizer of open_clip/{name}: no network\. Instead, use a copy .*{source}"
        with pytest.raises(RuntimeError, match=message):
            load_backbone(f"open_clip/{name}")
    with pytest.raises(ValueError, match="Unknown backbone 'open_clip/ViT-B-16-SigLIP/laion'"):
        load_backbone("open_clip/ViT-B-16-SigLIP/laion")
    assert asked == [("timm/ViT-B-16-SigLIP", "tokenizer.json"), ("bert-base-uncased", "tokenizer.json")]


@pytest.mark.parametrize(
    ("model", "vocabulary", "start", "end", "pad", "context"),
    [
        ("ViT-B-16-SigLIP", vocabularies.t5, (), 1, 1, 64),
        ("ViT-B-16-SigLIP-i18n-256", vocabularies.t5, (), 1, 1, 64),
        ("ViT-B-16-SigLIP2", vocabularies.gemma, (), 1, 0, 64),
        ("ViT-SO400M-14-SigLIP", vocabularies.t5, (), 1, 1, 16),
        ("ViT-L-14-CLIPA", vocabularies.wordpiece, (2,), 0, 0, 32),
        ("ViT-H-14-worldwide", vocabularies.xlm, (0,), 2, 1, 77),
        ("ViT-L-14-worldwide", vocabularies.t5, (), 1, 0, 77),
    ],
)
def test_published_models_have_the_format_of_their_family(
    model: str,
    vocabulary: Any,
    start: tuple[int, ...],
    end: int,
    pad: int,
    context: int,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    path = vocabulary(tmp_path / "tokenizer.json")
    monkeypatch.setattr(open_clip_models, "fetch_tokenizer", lambda *_: path)
    tokenizer: Any = open_clip_models._tokenizer(f"open_clip/{model}/x", model, print)
    around = tokenizer.text_format
    assert (around.start, around.end, around.pad, tokenizer.context) == (start, end, pad, context)
    assert around.clean == ("canonicalize" if "SigLIP" in model or model == "ViT-L-14-worldwide" else "whitespace")
