"""Text sides of Hugging Face's kinds give what transformers gives, and CLIPs with them load from all sources."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfprompt.methods.class_texts import PromptedText, tokenize
from selfprompt.models.hf_text import HfText, HfTextModel, Pooler
from selfprompt.models.loading import downloads, hf_encoders
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.downloads import ModelFolder
from selfprompt.models.loading.hf_encoders import build_clip, encoder_config
from selfprompt.models.text_layout import TextFormat
from tests.models import vocabularies
from tests.models.tiny import Placeholders, assert_same, shake

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones"
KINDS = ("bert", "xlm-roberta", "m2m_100", "mt5")
POOLERS: tuple[tuple[Pooler, str], ...] = (
    ("mean_pooler", "linear"),
    ("cls_pooler", ""),
    ("cls_last_hidden_state_pooler", "mlp"),
)
VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8}
TEXT = {"hf_model_name": "text", "hf_proj_type": "linear", "context_length": 20}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 70}
BERT |= {"intermediate_size": 24, "max_position_embeddings": 24}


def recorded(kind: str, pooler: Pooler, proj: str, folder: Path) -> tuple[HfText, dict[str, Tensor]]:
    """Return the tower of a recorded encoder, and what was recorded of this pooler."""
    arrays = dict(np.load(GOLDEN / "hf_text" / f"{kind}.npz"))
    (folder / "text").mkdir()
    (folder / "text" / "config.json").write_text(str(arrays.pop("config")))
    config = encoder_config("tiny", "text", ModelFolder("tiny", folder))
    found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    model = HfTextModel(config, 6 if proj else 16, found["ids"].shape[1], pooler, proj)
    model.transformer.load_state_dict(
        {n[2:]: x for n, x in found.items() if n.startswith("w.") and (pooler == "cls_pooler" or "pooler" not in n)}
    )
    model.proj.load_state_dict({n.removeprefix(f"{proj}."): x for n, x in found.items() if proj and n.startswith(proj)})
    end = int(found["ids"][0, (found["ids"][0] != config.pad).sum() - 1])
    return HfText(model, TextFormat((int(found["ids"][0, 0]),), end, config.pad, "whitespace")), found


@pytest.mark.parametrize(("pooler", "proj"), POOLERS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_those_of_transformers(kind: str, pooler: Pooler, proj: str, tmp_path: Path) -> None:
    tower, found = recorded(kind, pooler, proj, tmp_path)
    ids, prompter = found["ids"], Placeholders(found["prompts"])
    assert_same(tower(ids), found[f"{pooler}.features"])
    assert_same(tower(ids, prompter), found[f"{pooler}.prompted"])
    shortest = ids[:1, : int(tower.layout.lengths(ids[:1]))]
    assert shortest.shape[1] < ids.shape[1]
    assert_same(tower(shortest, prompter), found[f"{pooler}.prompted"][:1])
    if proj == "linear":
        assert_same(tower(ids, pooling="unprojected") @ tower.projection(), tower(ids))
    else:
        with pytest.raises(ValueError, match="multiplied by one matrix"):
            tower.projection()


@torch.no_grad()
def test_a_folder_of_open_clip_gives_what_open_clip_gives() -> None:
    folder = GOLDEN / "localdir_bert_mean"
    backbone = load_backbone(f"open_clip/local-dir:{folder / 'model'}")
    found = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    texts = json.loads((folder / "expect.json").read_text())["texts"]
    text, tokenizer = backbone.text_side()
    assert tokenizer(texts).equal(found["ids"])
    ids, slots = tokenize(backbone, [PromptedText((3, one)) for one in texts])
    assert slots.tolist() == [[1, 2, 3]] * 5
    assert ids.scatter(1, slots, 4).equal(found["prompted_ids"])
    assert_same(backbone.vision(found["images"]), found["image_features"])
    assert_same(text(ids, Placeholders(found["text_prompts"])), found["prompted_text_features"])
    assert_same(text(found["ids"]), found["text_features"])


def write(folder: Path, *, config: dict[str, Any] | None = None, **text: Any) -> Path:
    """Write a tiny CLIP with a BERT in open_clip's layout; the keys are options of the text side."""
    model = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, "hf_tokenizer_name": "org/words", **text}}
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "config.json").write_text(json.dumps(BERT))
    clip = build_clip(model, encoder_config("tiny", "text", ModelFolder("tiny", folder)))
    shake(clip)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "text" / "config.json").write_text(json.dumps(BERT | (config or {})))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    vocabularies.wordpiece(folder / "tokenizer.json")
    return folder


def load(folder: Path) -> Any:
    return load_backbone(f"open_clip/local-dir:{folder}")


def test_what_the_weights_do_not_show_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    plain = load(write(tmp_path / "plain"))
    assert plain.fingerprint == load(tmp_path / "plain").fingerprint
    changes: list[dict[str, Any]] = [
        {"config": {"num_attention_heads": 4}},
        {"config": {"layer_norm_eps": 1e-5}},
        {"config": {"hidden_act": "relu"}},
        {"hf_pooler_type": "cls_last_hidden_state_pooler"},
        {"tokenizer_kwargs": {"clean": "lower"}},
    ]
    others = {load(write(tmp_path / str(n), **change)).fingerprint for n, change in enumerate(changes)}
    assert len(others - {plain.fingerprint}) == len(changes)


def test_tensors_that_old_files_have_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip")
    path, plain = folder / "open_clip_model.safetensors", load(folder)
    state = load_file(path)
    state["text.transformer.embeddings.position_ids"] = torch.arange(24)[None]
    state["text.transformer.pooler.dense.weight"] = torch.ones(16, 16)
    save_file(state, path)
    assert load(folder).fingerprint == plain.fingerprint
    save_file({**state, "text.transformer.encoder.layer.0.more": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"1 unexpected \(text\.transformer\.encoder\.layer\.0\.more\)"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model_type": "modernbert"}, TypeError, "must be one of bert, roberta, m2m_100, mt5, xlm-roberta, got 'mod"),
        ({"position_embedding_type": "relative_key"}, TypeError, "position_embedding_type must be 'absolute'"),
        ({"num_attention_heads": 3}, ValueError, "width must be a multiple of the number of heads, got 16 and 3"),
        ({"hidden_act": "selu"}, ValueError, "hidden_act must be one of gelu, .*, got 'selu'"),
        ({"num_hidden_layers": 10**6}, ValueError, "num_hidden_layers must be a number from 1 to 256, got '1000000'"),
        ({"layer_norm_eps": "small"}, ValueError, "layer_norm_eps must be a number from 1e-15 to 0.1"),
        ({"vocab_size": 60}, ValueError, r"tokenizer\.json must have at most the 60 ids of open_clip/local-dir"),
        ({"pad_token_id": 5}, ValueError, "pads texts with the token 0, and the text encoder masks the token 5"),
        ({"max_position_embeddings": 12}, ValueError, "context must be at most 12 tokens, .* got 20"),
    ],
)
def test_an_impossible_text_side_is_refused(
    change: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "clip", config=change)
    with pytest.raises(kind, match=message):
        load(folder)


def test_an_unknown_pooler_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_pooler_type"] = "max_pooler"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"hf_pooler_type must be one of mean_pooler, .*, got 'max_pooler'"):
        load(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold tokenizer\.json, and there is none"):
        load(folder)
    (folder / "text" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"'text', whose config\.json is missing; put that file into FOLDER"):
        load(folder)


def test_code_of_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "clip", tokenizer_kwargs={"trust_remote_code": True})
    plain = load(write(tmp_path / "plain")).fingerprint
    mark = tmp_path / "mark"
    for name in ("tokenizer_config.json", "text/config.json"):
        path = folder / name
        config = json.loads(path.read_text()) if path.exists() else {}
        config |= {"auto_map": {"AutoTokenizer": ["own.Own", None], "AutoModel": "own.Own", "AutoConfig": "own.Own"}}
        path.write_text(json.dumps(config))
    for path in (folder / "own.py", folder / "text" / "own.py"):
        path.write_text(f"open({str(mark)!r}, 'w').close()")
    assert load(folder).fingerprint == plain
    assert not mark.exists()


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The name "tiny-bert" among open_clip's; returns the folder with its files."""
    folder = write(tmp_path / "clip")
    model = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, "hf_tokenizer_name": "org/words"}}

    def own(function: str, value: Any) -> None:
        original = getattr(open_clip, function)
        given = lambda name, *rest: deepcopy(value) if name == "tiny-bert" else original(name, *rest)  # noqa: E731
        monkeypatch.setattr(open_clip, function, given)

    own("get_model_config", model)
    own("list_pretrained_tags_by_model", ["own"])
    own("get_pretrained_cfg", {"mean": [0.5] * 3, "interpolation": "bilinear", "hf_hub": "org/tiny/"})
    monkeypatch.setitem(hf_encoders.KNOWN, "text", BERT)
    return folder


def test_names_of_open_clip_load(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repository: str, file: str, **options: Any) -> str:
        assert (repository, file) == ("org/words", "tokenizer.json")
        return str(named / file)

    weights = named / "open_clip_model.safetensors"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda record: str(weights))
    pretrained = load_backbone("open_clip/tiny-bert/own")
    assert pretrained.fingerprint == load_backbone(f"open_clip/tiny-bert@{weights}").fingerprint
    assert pretrained.fingerprint == load(named).fingerprint
    assert pretrained.preprocess.mean == (0.5, 0.5, 0.5)
    assert pretrained.preprocess.interpolation == "bilinear"
    random = load_backbone("open_clip/tiny-bert/random")
    assert random.fingerprint == load_backbone("open_clip/tiny-bert/random").fingerprint != pretrained.fingerprint
    assert "random weights" in random.note


def test_the_tokenizer_is_asked_for_before_the_weights(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "download_pretrained", lambda record: pytest.fail("downloaded weights"))
    with pytest.raises(ValueError, match="Did you mean open_clip/tiny-bert/own or open_clip/tiny-bert/random"):
        load_backbone("open_clip/tiny-bert/owm")
    with pytest.raises(RuntimeError, match=r"the tokenizer of open_clip/tiny-bert/own.*hf download org/words"):
        load_backbone("open_clip/tiny-bert/own")


def test_a_repository_may_name_a_text_model_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = write(tmp_path / "clip"), []
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"text"', '"org/text"'))

    def fetch(self: ModelFolder, file: str) -> Path:
        asked.append((self.repository, file))
        return folder / ("text" if self.repository == "org/text" else "") / file

    monkeypatch.setattr(downloads.ModelFolder, "_fetch", fetch)
    backbone = load_backbone("open_clip/hf-hub:org/clip")
    files = [("org/clip", "open_clip_config.json"), ("org/text", "config.json")]
    files += [("org/clip", "tokenizer.json"), ("org/clip", "open_clip_model.safetensors")]
    assert list(dict.fromkeys(asked)) == files, "in this order"
    with pytest.raises(FileNotFoundError, match=r"put that file into FOLDER/org/text/ of a local copy"):
        load(folder)
    (folder / "org").mkdir()
    (folder / "text").rename(folder / "org" / "text")
    assert load(folder).fingerprint == backbone.fingerprint


def test_every_text_side_of_open_clips_models_is_known() -> None:
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    text_models = {config["text_cfg"].get("hf_model_name") for config in configs.values()} - {None}
    assert text_models <= set(hf_encoders.KNOWN)
    for one in hf_encoders.KNOWN:
        config = encoder_config("any", one)
        assert config.inner % config.heads == 0
