"""Folders and hub repositories in the layout of open_clip or timm: their weights, their preprocessing, and no code."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.torch import load_file, save_file

from selfprompt.models.backbone import Preprocess
from selfprompt.models.loading.by_name import load_backbone
from tests.models.tiny import images

GOLDEN = Path(__file__).parents[1] / "golden" / "backbones" / "localdir_clip"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32}
PRETRAINED = {
    "tag": "own",
    "classifier": "head",
    "num_classes": 3,
    "input_size": [3, 32, 32],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
    "crop_mode": "squash",
    "hf_hub_id": "somebody/else",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a tiny CLIP in open_clip's layout."""
    return Path(shutil.copytree(GOLDEN / "model", tmp_path / "clip"))


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    """A tiny ViT with a classifier in timm's layout."""
    path = tmp_path / "vit"
    path.mkdir()
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **VIT)
    save_file(model.state_dict(), path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": VIT, "pretrained_cfg": PRETRAINED}
    (path / "config.json").write_text(json.dumps(config))
    return path


def change(path: Path, name: str = CONFIG, **changes: Any) -> None:
    """Change values of a JSON file; "model_cfg.text_cfg.width" is a key inside others, None removes it."""
    config = json.loads((path / name).read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        section = config
        for word in outer:
            section = section.setdefault(word, {})
        section[last] = value
        if value is None:
            del section[last]
    (path / name).write_text(json.dumps(config))


class TestClip:
    @torch.no_grad()
    def test_features_and_preprocessing_are_open_clips(self) -> None:
        backbone = load_backbone(f"open_clip/local-dir:{GOLDEN / 'model'}")
        expected, texts = np.load(GOLDEN / "io.npz"), json.loads((GOLDEN / "expect.json").read_text())["texts"]
        text, tokenizer = backbone.text_side()
        ids = tokenizer(texts)
        assert np.array_equal(ids, expected["ids"])
        np.testing.assert_allclose(
            backbone.vision(torch.from_numpy(expected["images"])), expected["image_features"], atol=1e-5
        )
        np.testing.assert_allclose(text(ids), expected["text_features"], atol=1e-5)
        assert backbone.preprocess == Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")
        assert backbone.scale == pytest.approx(np.exp(2.0))
        assert backbone.note == ""

    def test_a_repository_is_its_files(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / WEIGHTS).rename(folder / "open_clip_pytorch_model.safetensors")
        asked = hub(monkeypatch, folder)
        backbone = load_backbone("open_clip/hf-hub:owner/name")
        assert backbone.name == "open_clip/hf-hub:owner/name"
        assert backbone.fingerprint == load_backbone(f"open_clip/local-dir:{folder}").fingerprint
        names = (CONFIG, WEIGHTS, "open_clip_pytorch_model.safetensors")
        assert list(dict.fromkeys(asked)) == [("owner/name", name) for name in names]
        assert backbone.source == {"name": backbone.name, "revision": folder.name}

    def test_missing_weights_are_not_left_random(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / WEIGHTS).unlink()
        hub(monkeypatch, folder)
        for source in (f"local-dir:{folder}", "hf-hub:owner/name"):
            with pytest.raises(FileNotFoundError, match=rf"must hold its weights as {WEIGHTS} or .* none of these\.$"):
                load_backbone(f"open_clip/{source}")

    def test_incomplete_weights_are_refused(self, folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        state["unused"] = state.pop("ln_final.weight")
        save_file(state, folder / WEIGHTS)
        with pytest.raises(ValueError, match=r"1 missing \(ln_final.weight\); 1 unexpected \(unused\)"):
            load_backbone(f"open_clip/local-dir:{folder}")

    def test_what_a_configuration_asks_for_is_not_run(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mark = tmp_path / "mark"
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
        for name in ("tokenizer_config.json", "config.json"):
            (folder / name).write_text(
                json.dumps({"auto_map": {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own"}})
            )
        monkeypatch.syspath_prepend(folder)
        unsafe = {"trust_remote_code": True, "clean": "lower"}
        change(folder, model_cfg__text_cfg__tokenizer_kwargs=unsafe)
        assert load_backbone(f"open_clip/local-dir:{folder}").text_side()[1](["Cat"]).shape == (1, 24)
        change(folder, model_cfg__text_cfg__hf_tokenizer_name="owner/name")
        with pytest.raises(
            FileNotFoundError, match=r"must hold tokenizer\.json, and there is none; put that of owner/"
        ):
            load_backbone(f"open_clip/local-dir:{folder}")
        change(folder, model_cfg__text_cfg__hf_model_name="owner/name")
        with pytest.raises(FileNotFoundError, match=r"is 'owner/name', whose config\.json is missing"):
            load_backbone(f"open_clip/local-dir:{folder}")
        assert not mark.exists()
        assert "own" not in sys.modules

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"model_cfg": None}, "model_cfg must be an object with options, got 'None'"),
            ({"model_cfg__text_cfg": 3}, "text_cfg must be an object with options, got '3'"),
            ({"model_cfg__text_cfg__width": 1e9}, "width must be at most 16384, got '1000000000.0'"),
            ({"model_cfg__vision_cfg__layers": 10**15}, "layers must be at most 256"),
            ({"model_cfg__vision_cfg__layers": "12;x"}, "layers must be a word without ':' and '/', got '12;x'"),
            ({"model_cfg__vision_cfg__image_size": 4000}, "images of 4000 pixels with patches of 8 are more than 128"),
            ({"model_cfg__vision_cfg__patch_size": 0}, "more than 128 in a row"),
            ({"model_cfg__vision_cfg__head_width": 0}, "does not describe a model"),
            ({"model_cfg__vision_cfg__layers": 200}, r"does not fit .*it holds .* numbers, and the model needs"),
            ({"model_cfg__vision_cfg__width": [[[1]]]}, "width must be a number, a word, or a few of them"),
            ({"model_cfg__vision_cfg__timm_model_name": "hf-hub:a/b"}, "timm_model_name must be a word without ':'"),
            ({"model_cfg__vision_cfg__timm_model_name": "no_vit"}, "timm has no model 'no_vit'"),
            ({"model_cfg__cast_dtype": "x"}, "the option 'cast_dtype' is unknown"),
            ({"model_cfg__text_cfg__hf_model_name": "/etc/passwd"}, "hf_model_name must be a name or org/name"),
            ({"model_cfg__text_cfg__hf_tokenizer_name": "../../x"}, "hf_tokenizer_name must be a name or org/name"),
            ({"model_cfg__multimodal_cfg": {}}, "describes a CoCa"),
            ({"model_cfg__text_cfg__vocab_size": 300}, "must be at least CLIP's 49408 tokens, got 300"),
            ({"preprocess_cfg__std": [1, 1, 0]}, "std must be positive"),
            ({"preprocess_cfg__mean": 0.5}, r"mean must be three numbers, got '0\.5'"),
            ({"preprocess_cfg__resize_mode": "longest"}, "resize_mode must be 'shortest' or 'squash', got 'longest'"),
        ],
    )
    def test_a_configuration_that_is_not_plain_or_sane(
        self, changes: dict[str, Any], reason: str, folder: Path
    ) -> None:
        change(folder, **changes)
        with pytest.raises((ValueError, TypeError), match=reason) as raised:
            load_backbone(f"open_clip/local-dir:{folder}")
        assert str(raised.value).endswith(".")
        assert "\n" not in str(raised.value)

    def test_a_folder_of_transformers_names_its_form(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "clip"}')
        with pytest.raises(FileNotFoundError, match=f"must hold {CONFIG}, and there is none.*file/FOLDER"):
            load_backbone(f"open_clip/local-dir:{tmp_path}")
        with pytest.raises(ValueError, match=r"must name timm's architecture .*file/FOLDER"):
            load_backbone(f"timm/local-dir:{tmp_path}")


class TestVit:
    @torch.no_grad()
    def test_features_and_preprocessing_are_timms(self, vit_folder: Path) -> None:
        backbone = load_backbone(f"timm/local-dir:{vit_folder}")
        model = timm.create_model(f"local-dir:{vit_folder}", pretrained=True, num_classes=0).eval()
        torch.testing.assert_close(backbone.vision(images()), model(images()), atol=1e-5, rtol=1e-5)
        assert backbone.preprocess.size == 32
        assert backbone.preprocess == Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")
        assert backbone.pooling == "native"

    def test_a_masked_autoencoder_pools_patches(self, vit_folder: Path) -> None:
        change(vit_folder, "config.json", pretrained_cfg__tag="mae")
        assert load_backbone(f"timm/local-dir:{vit_folder}").pooling == "avg"

    def test_a_repository_is_its_files(self, vit_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = hub(monkeypatch, vit_folder)
        backbone = load_backbone("timm/hf-hub:owner/name")
        assert backbone.fingerprint == load_backbone(f"timm/local-dir:{vit_folder}").fingerprint
        assert list(dict.fromkeys(asked)) == [("owner/name", "config.json"), ("owner/name", "model.safetensors")]

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"architecture": "no_vit"}, "Unknown backbone"),
            ({"architecture": "hf-hub:a/b"}, "architecture must be a word"),
            ({"model_args__pretrained_cfg": {}}, "the option 'pretrained_cfg' is unknown"),
            ({"model_args__checkpoint_path": "x"}, "the option 'checkpoint_path' is unknown"),
            ({"model_args__depth": 1e6}, "depth must be at most 256"),
            ({"model_args__act_layer": "os.system"}, "does not describe a model"),
            ({"model_args": []}, "model_args must be an object"),
            ({"pretrained_cfg": 1}, "pretrained_cfg must be an object"),
        ],
    )
    def test_a_configuration_that_is_not_plain_or_sane(
        self, changes: dict[str, Any], reason: str, vit_folder: Path
    ) -> None:
        change(vit_folder, "config.json", **changes)
        with pytest.raises(ValueError, match=reason):
            load_backbone(f"timm/local-dir:{vit_folder}")


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, str]]:
    """Let a folder be every repository of the hub, and return the list of what is asked for."""
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str, **_: object) -> str:
        asked.append((repository, name))
        if not os.path.isfile(folder / name):
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


@pytest.mark.parametrize("family", ["open_clip", "timm"])
def test_without_a_network(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("No network.\nMore lines.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(
        RuntimeError, match=rf"^Could not download {family}/hf-hub:a/b: No network\. Instead, use .*\.$"
    ):
        load_backbone(f"{family}/hf-hub:a/b")


@pytest.mark.parametrize("family", ["open_clip", "timm"])
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf-hub:", "is written org/name or org/name@revision, got ''"),
        ("hf-hub:name", "got 'name'"),
        ("hf-hub:org/name@", "got 'org/name@'"),
        ("hf-hub:org/name@../x", r"got 'org/name@\.\./x'"),
        ("hf-hub:../../x", r"got '\.\./\.\./x'"),
        ("local-dir:/no/such\x1b", r"must be followed by a folder, and '/no/such\\x1b' is none"),
    ],
)
def test_sources_that_are_none(family: str, source: str, reason: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        load_backbone(f"{family}/{source}")
