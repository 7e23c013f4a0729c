"""Training on models in transformers' format, from the command line to a reloaded artifact."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Ran
from tests.models import vocabularies

GOLDEN = Path(__file__).parent.parent / "golden" / "backbones"
pytestmark = pytest.mark.slow
QUICK = ("--epochs", "1", "--workers", "0", "--shots", "2")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded CLIP with the vocabulary and the context of OpenAI's."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    shutil.copytree(GOLDEN / "clip_quickgelu", folder)
    state, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    del state["text_model.embeddings.position_ids"]
    for name, rows in (("token_embedding", 49408), ("position_embedding", 77)):
        state[f"text_model.embeddings.{name}.weight"] = torch.randn(rows, 24, generator=generator)
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    for key in ("vocab_size", "max_position_embeddings"):
        del config["text_config"][key]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded SigLIP with a tokenizer and SigLIP's context."""
    folder = tmp_path_factory.mktemp("models") / "siglip"
    shutil.copytree(GOLDEN / "siglip", folder)
    vocabularies.t5(folder / "tokenizer.json")
    state, name = load_file(folder / "model.safetensors"), "text_model.embeddings.position_embedding.weight"
    state[name] = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    del config["text_config"]["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trains_and_predicts(
    run: Callable[..., Ran], photos: Path, out: Path, method: str, folder: Path, *options: str
) -> None:
    """Train, reload with the folder's name, and be refused without it."""
    backbone = f"file/{folder}"
    done = run("train", photos, "--out", out, "--method", method, "--backbone", backbone, *QUICK, *options)
    assert done.status == 0, done.err
    done = run("predict", out, photos, "--backbone", backbone, "--format", "csv", "--quiet")
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) == 1 + 32
    refused = run("predict", out, photos, "--quiet")
    assert refused.status == 1
    assert "--backbone" in refused.err


@pytest.mark.parametrize("method", ["ridge", "spt-deep"])
@pytest.mark.parametrize("name", ["vit_base", "vit_mae", "dinov2_reg", "dinov3"])
def test_heads_and_prompts_of_vits(
    name: str, method: str, run: Callable[..., Ran], photos: Path, tmp_path: Path
) -> None:
    options = ("--options.prompts", "2") if method == "spt-deep" else ()
    trains_and_predicts(run, photos, tmp_path / "out", method, GOLDEN / name, *options)


@pytest.mark.parametrize("method", ["ridge", "coop", "sep"])
def test_methods_of_a_clip(
    method: str, clip_folder: Path, run: Callable[..., Ran], photos: Path, tmp_path: Path
) -> None:
    trains_and_predicts(run, photos, tmp_path / "out", method, clip_folder)


@pytest.mark.parametrize("method", ["coop", "sep", "spt-deep"])
def test_methods_of_a_siglip(
    method: str, siglip_folder: Path, run: Callable[..., Ran], photos: Path, tmp_path: Path
) -> None:
    options = ("--options.prompts", "2") if method == "spt-deep" else ()
    trains_and_predicts(run, photos, tmp_path / "out", method, siglip_folder, *options)


def test_another_folder_is_recognised(run: Callable[..., Ran], photos: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--method", "ridge", "--backbone", f"file/{GOLDEN / 'vit_base'}", *QUICK)
    assert run("train", photos, "--out", out, *options).status == 0
    refused = run("predict", out, photos, "--backbone", f"file/{GOLDEN / 'vit_mae'}", "--quiet")
    assert refused.status == 1
    assert "fingerprint" in refused.err or "other weights" in refused.err
