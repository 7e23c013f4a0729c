"""Published files of Evas: Meta's names of DINOv3 and of Perception Encoder."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import Tensor

from selfprompt.models.loading.by_name import load_backbone
from tests.models.tiny import shake

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **_: create(name, **SMALL))


def shaken(name: str) -> Eva:
    model = timm.create_model(name)
    shake(model)
    return model


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    for ours, theirs in names.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return state


def of_dinov3(model: Eva, bias: Tensor) -> dict[str, Tensor]:
    """Return the weights as Meta's files name them; they store the biases of q, k and v together."""
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(("q_bias", "v_bias"))}
    state = renamed(state, {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens"})
    for index in range(len(model.blocks)):
        state[f"blocks.{index}.attn.qkv.bias"] = bias
        state[f"blocks.{index}.attn.qkv.bias_mask"] = bias * torch.nan
    return state | {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}


def of_perception_encoder(model: Eva) -> dict[str, Tensor]:
    """Return the weights of an image side as Meta's files name them: those of an open_clip ViT."""
    state = model.state_dict()
    pool = {key: state.pop(key) for key in list(state) if key.startswith("attn_pool.")}
    state = {f".{key}": value for key, value in state.items()}
    inside = {"attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "fc1": "c_fc", "fc2": "c_proj"}
    inside |= {"norm_pre": "ln_pre", ".norm.": ".ln_post.", "norm1": "ln_1", "norm2": "ln_2"}
    outside = {"patch_embed.proj": "conv1", "pos_embed": "positional_embedding", "cls_token": "class_embedding"}
    state = renamed(state, {**inside, **outside, ".blocks": ".transformer.resblocks"})
    pool = renamed(pool, {"latent": "probe", "pool.proj": "pool.attn.out_proj", "fc1": "c_fc", "fc2": "c_proj"})
    pool = renamed(pool, {"pool.norm": "pool.layernorm"})
    for kind in ("weight", "bias"):
        parts = [pool.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        pool[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    state = {key.removeprefix("."): value for key, value in state.items()}
    state["class_embedding"] = state["class_embedding"][0, 0]
    state["positional_embedding"] = state["positional_embedding"][0]
    return state | pool | {"proj": torch.ones(48, 32)}


def assert_equal_weights(backbone: Any, model: Eva) -> None:
    expected = model.state_dict()
    assert all(value.equal(expected[key]) for key, value in backbone.vision.vit.state_dict().items())


@pytest.mark.usefixtures("small")
def test_dinov3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shaken("vit_small_patch16_dinov3_qkvb")
    attn: Any = model.blocks[0].attn
    bias = torch.cat([attn.q_bias, torch.ones(48), attn.v_bias]).detach()
    with torch.no_grad():
        model.blocks[1].attn.q_bias.copy_(bias[:48])
        model.blocks[1].attn.v_bias.copy_(bias[96:])
    torch.save(of_dinov3(model, bias), tmp_path / "dinov3.pth")
    backbone = load_backbone(f"timm/vit_small_patch16_dinov3_qkvb@{tmp_path}/dinov3.pth")
    assert backbone.pooling == "cls"
    assert_equal_weights(backbone, model)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("small")
def test_biases_of_dinov3_are_left_out_only_if_they_are_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, bias = shaken("vit_small_patch16_dinov3"), torch.ones(144)
    name = f"timm/vit_small_patch16_dinov3@{tmp_path}/dinov3.pth"
    torch.save(of_dinov3(model, bias), tmp_path / "dinov3.pth")
    with pytest.raises(ValueError, match=r"does not fit Eva: its queries and values have biases; .*dinov3_qkvb"):
        load_backbone(name)
    bias[:48], bias[96:] = 0, 0  # that of the keys is masked
    torch.save(of_dinov3(model, bias), tmp_path / "dinov3.pth")
    assert_equal_weights(load_backbone(name), model)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("start", ["visual.", ""])
@pytest.mark.usefixtures("small")
def test_perception_encoder(start: str, tmp_path: Path) -> None:
    model = shaken("vit_pe_core_base_patch16_224")
    state = {f"{start}{key}": value for key, value in of_perception_encoder(model).items()}
    torch.save(state, tmp_path / "pe.pt")
    assert_equal_weights(load_backbone(f"timm/vit_pe_core_base_patch16_224@{tmp_path}/pe.pt"), model)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "eva02_base_patch14_224", "vit_base_patch16_rope_224"])
@pytest.mark.usefixtures("small")
def test_a_file_of_unknown_rotation_needs_a_name(name: str, tmp_path: Path) -> None:
    torch.save(shaken(name).state_dict(), tmp_path / "eva.pth")
    with pytest.raises(ValueError, match=r"name the architecture: timm/<name>@<file>"):
        load_backbone(f"file/{tmp_path}/eva.pth")
