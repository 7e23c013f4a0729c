"""Files in each published layout, written here and loaded back, give the features of their model."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.models.timm_vit import TimmViT
from tests.models.tiny import assert_same, clip, images, resnet_clip, texts, vit

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ENCODER = {"embed_dim": 128, "num_heads": 2}  # heads of 64, as in the published sizes


def _statistics(backbone: Backbone) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return backbone.preprocess.mean, backbone.preprocess.std


@torch.no_grad()
def _check_vit(backbone: Backbone, model: VisionTransformer) -> None:
    """The loaded tower gives the model's features, and does not share its weights."""
    x = images(size=model.patch_embed.img_size)
    assert_same(backbone.vision(x), TimmViT(model)(x))
    assert backbone.text is None
    assert backbone.preprocess.size == model.patch_embed.img_size[0]


@torch.no_grad()
def _check_clip(backbone: Backbone, model: CLIP) -> None:
    x = images(size=backbone.vision.image_size)
    assert_same(backbone.vision(x), model.encode_image(x))
    assert backbone.text is not None
    assert_same(backbone.text(texts()), model.encode_text(texts()))
    assert backbone.scale == pytest.approx(float(model.logit_scale.exp()))


def _encoder(**options: Any) -> VisionTransformer:
    return vit(**{**ENCODER, "num_classes": 0, **options})


# MAE


def test_mae_with_decoder(tmp_path: Path) -> None:
    model = _encoder()
    decoder = {
        "mask_token": torch.zeros(1, 1, 32),
        "decoder_pos_embed": torch.zeros(1, 17, 32),
        "decoder_embed.weight": torch.zeros(32, 128),
        "decoder_blocks.0.norm1.weight": torch.zeros(32),
    }
    arguments = argparse.Namespace(lr=1e-3)
    torch.save({"model": {**model.state_dict(), **decoder}, "args": arguments}, tmp_path / "mae.pth")
    backbone = load_backbone(f"file/{tmp_path}/mae.pth")
    _check_vit(backbone, model)
    assert backbone.pooling == "avg"
    assert _statistics(backbone) == IMAGENET
    assert backbone.note == ""


def test_mae_encoder_alone(tmp_path: Path) -> None:
    model = _encoder()
    torch.save({"model": model.state_dict()}, tmp_path / "mae_pretrain.pth")
    backbone = load_backbone(f"file/{tmp_path}/mae_pretrain.pth")
    _check_vit(backbone, model)
    assert backbone.pooling == "avg"


@torch.no_grad()
def test_mae_average_uses_the_checkpoints_norm(tmp_path: Path) -> None:
    model = _encoder()
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    vision = load_backbone(f"file/{tmp_path}/mae.pth").vision
    x = model.blocks(model._pos_embed(model.patch_embed(images())))
    torch.testing.assert_close(vision(images(), pooling="avg"), model.norm(x[:, 1:].mean(1)), atol=1e-6, rtol=1e-6)


# MoCo v3


def _fixed_positions(model: VisionTransformer) -> None:
    model.pos_embed.data[:, 0] = 0  # the sine-cosine table has no class position


def test_moco_pretraining_file(tmp_path: Path) -> None:
    model = _encoder()
    _fixed_positions(model)
    state = {f"module.base_encoder.{key}": value for key, value in model.state_dict().items()}
    state |= {f"module.momentum_encoder.{key}": value + 1 for key, value in model.state_dict().items()}
    state |= {
        "module.base_encoder.head.0.weight": torch.zeros(4, 128),
        "module.predictor.0.weight": torch.zeros(4, 4),
    }
    torch.save({"epoch": 300, "arch": "vit_base", "state_dict": state}, tmp_path / "vit-b-300ep.pth.tar")
    backbone = load_backbone(f"file/{tmp_path}/vit-b-300ep.pth.tar")
    _check_vit(backbone, model)
    assert _statistics(backbone) == IMAGENET
    assert backbone.pooling == "native"


def test_moco_linear_probe_file(tmp_path: Path) -> None:
    model = _encoder(num_classes=7)
    _fixed_positions(model)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 90, "state_dict": state, "best_acc1": torch.tensor(76.0)}, tmp_path / "linear.pth.tar")
    backbone = load_backbone(f"file/{tmp_path}/linear.pth.tar")
    _check_vit(backbone, model)
    assert _statistics(backbone) == IMAGENET
    assert backbone.note == ""


def test_moco_small_has_twelve_heads(tmp_path: Path) -> None:
    model = _encoder(embed_dim=384, num_heads=12, depth=1)
    state = {f"module.base_encoder.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vit-s.pth.tar")
    _check_vit(load_backbone(f"file/{tmp_path}/vit-s.pth.tar"), model)


# the JAX ViT


def _jax_arrays(model: VisionTransformer, heads: int) -> dict[str, np.ndarray]:
    """A timm ViT with the names and axes of the augreg files."""

    def array(tensor: Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    width = model.embed_dim
    arrays = {
        "embedding/kernel": array(model.patch_embed.proj.weight.permute(2, 3, 1, 0)),
        "embedding/bias": array(model.patch_embed.proj.bias),
        "cls": array(model.cls_token),
        "Transformer/posembed_input/pos_embedding": array(model.pos_embed),
        "Transformer/encoder_norm/scale": array(model.norm.weight),
        "Transformer/encoder_norm/bias": array(model.norm.bias),
        "head/kernel": np.zeros((width, 9), np.float32),
        "head/bias": np.zeros(9, np.float32),
    }
    for index, block in enumerate(model.blocks):
        start = f"Transformer/encoderblock_{index}/"
        attention = start + "MultiHeadDotProductAttention_1/"
        for norm, name in ((block.norm1, "LayerNorm_0"), (block.norm2, "LayerNorm_2")):
            arrays |= {f"{start}{name}/scale": array(norm.weight), f"{start}{name}/bias": array(norm.bias)}
        parts = zip(block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True)
        for name, (weight, bias) in zip(("query", "key", "value"), parts, strict=True):
            arrays[f"{attention}{name}/kernel"] = array(weight.T.reshape(width, heads, -1))
            arrays[f"{attention}{name}/bias"] = array(bias.reshape(heads, -1))
        arrays[f"{attention}out/kernel"] = array(block.attn.proj.weight.T.reshape(heads, -1, width))
        arrays[f"{attention}out/bias"] = array(block.attn.proj.bias)
        for number, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
            arrays[f"{start}MlpBlock_3/Dense_{number}/kernel"] = array(layer.weight.T)
            arrays[f"{start}MlpBlock_3/Dense_{number}/bias"] = array(layer.bias)
    return arrays


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_jax_vit(tmp_path: Path, prefix: str) -> None:
    model = vit(num_classes=0)  # 3 heads of 16: the arrays say so
    np.savez(tmp_path / "ViT.npz", **{prefix + key: value for key, value in _jax_arrays(model, 3).items()})
    backbone = load_backbone(f"file/{tmp_path}/ViT.npz")
    _check_vit(backbone, model)
    assert _statistics(backbone) == HALF
    assert backbone.note == ""


def test_jax_vit_deeper_than_the_named_one(tmp_path: Path) -> None:
    model = vit(num_classes=0, embed_dim=192, num_heads=3, img_size=224, patch_size=16, depth=13)
    np.savez(tmp_path / "ViT.npz", **_jax_arrays(model, 3))
    with pytest.raises(ValueError, match=r"ViT.npz does not fit.*'depth': 13.*'depth': 12"):
        load_backbone(f"timm/vit_tiny_patch16_224@{tmp_path}/ViT.npz")


def test_npz_of_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="no 'embedding/kernel'"):
        load_backbone(f"file/{tmp_path}/other.npz")


# OpenAI CLIP


class _Part(nn.Module):
    """Holds tensors under given names, so that a TorchScript archive has them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = tensor
            else:
                self.register_buffer(first, tensor)
        for name, part in inner.items():
            self.add_module(name, _Part(part))

    def forward(self, x: Tensor) -> Tensor:
        return x


def _openai_state(model: CLIP, dtype: torch.dtype) -> dict[str, Tensor]:
    state = {key: value.to(dtype) for key, value in model.state_dict().items()}
    marks = {"input_resolution": 32, "context_length": 12, "vocab_size": 49408}
    return {**state, **{key: torch.tensor(value) for key, value in marks.items()}}


def _openai_model() -> CLIP:
    model = clip(quick_gelu=True, text={"vocab_size": 49408})
    assert isinstance(model, CLIP)
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_openai_archive(tmp_path: Path) -> None:
    model = _openai_model()
    archive = torch.jit.script(_Part(_openai_state(model, torch.float16)))
    archive.save(tmp_path / "ViT.pt")
    model.half().float()  # what the file's precision leaves
    backbone = load_backbone(f"file/{tmp_path}/ViT.pt")
    _check_clip(backbone, model)
    assert backbone.note == ""
    assert backbone.vision.facts()["activation"] == "QuickGELU"
    assert backbone.preprocess.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert backbone.tokenizer is not None
    assert backbone.tokenizer(["a cat"]).shape == (1, 12)
    assert backbone.vision.patches(images()).dtype == torch.float32


def test_openai_state_dict(tmp_path: Path) -> None:
    model = _openai_model()
    torch.save(_openai_state(model, torch.float32), tmp_path / "ViT.pt")
    _check_clip(load_backbone(f"file/{tmp_path}/ViT.pt"), model)


def test_openai_weights_need_quickgelu(tmp_path: Path) -> None:
    torch.save(_openai_state(_openai_model(), torch.float32), tmp_path / "ViT.pt")
    with pytest.raises(ValueError, match="need QuickGELU"):
        load_backbone(f"open_clip/ViT-S-32@{tmp_path}/ViT.pt")


def test_clip_resnet(tmp_path: Path) -> None:
    model = resnet_clip(vocabulary=49408)
    torch.save(_openai_state(model, torch.float16), tmp_path / "RN.pt")
    backbone = load_backbone(f"file/{tmp_path}/RN.pt")
    state = {key: value.half().float() for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    _check_clip(backbone, model)
    assert backbone.vision.facts()["class"] == "ModifiedResNet"


# the libraries' own state dicts


def _save(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 5},
        {"distilled": True},
        {"reg_tokens": 4, "init_values": 1e-3, "no_embed_class": True},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False},
        {"patch_size": 16, "mlp_ratio": 2.0, "qkv_bias": False},
    ],
)
def test_timm_file(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    model = _encoder(**options)
    _save(model.state_dict(), tmp_path / name)
    backbone = load_backbone(f"file/{tmp_path}/{name}")
    _check_vit(backbone, model)
    assert backbone.pooling == ("cls" if options.get("distilled") else "native")
    assert "does not say how images are normalised" in backbone.note


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"vision": {"no_ln_pre": True, "mlp_ratio": 2.0}}])
def test_open_clip_file(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    model = clip(**{"text": {"vocab_size": 49408}, **options})
    assert isinstance(model, CLIP)
    _save(model.state_dict(), tmp_path / name)
    backbone = load_backbone(f"file/{tmp_path}/{name}")
    _check_clip(backbone, model)
    assert backbone.bias == (pytest.approx(float(model.logit_bias)) if options.get("bias") else 0.0)
    assert "does not say which activation" in backbone.note


def test_training_checkpoint_is_unwrapped(tmp_path: Path) -> None:
    model = clip(text={"vocab_size": 49408})
    assert isinstance(model, CLIP)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
    _check_clip(load_backbone(f"file/{tmp_path}/epoch_3.pt"), model)


# what does not fit


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    state = _encoder().state_dict()
    del state["blocks.1.norm1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["norm.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "odd.pth")
    expected = (
        r"odd.pth does not fit VisionTransformer: 1 missing \(blocks.1.norm1.weight\); "
        r"1 unexpected \(extra.weight\); 1 of another shape \(norm.weight \(7,\) instead of \(128,\)\)"
    )
    with pytest.raises(ValueError, match=expected):
        load_backbone(f"file/{tmp_path}/odd.pth")


def test_unknown_layout(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"none of the known layouts .* its keys begin with conv1\.weight"):
        load_backbone(f"file/{tmp_path}/resnet.pth")


def test_heads_that_cannot_be_inferred(tmp_path: Path) -> None:
    torch.save(vit(num_classes=0).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"cannot be inferred from the width 48; name the architecture: timm/<name>@"):
        load_backbone(f"file/{tmp_path}/narrow.pth")


@pytest.mark.parametrize("options", [{"pre_norm": True}, {"global_pool": "map"}, {"qk_norm": True}])
def test_modules_that_cannot_be_inferred(tmp_path: Path, options: dict[str, Any]) -> None:
    torch.save(_encoder(**options).state_dict(), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="cannot be inferred from the arrays; name the architecture"):
        load_backbone(f"file/{tmp_path}/odd.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz"])
def test_corrupt_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 this is no archive")
    with pytest.raises(ValueError, match=f"{name} "):
        load_backbone(f"file/{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz"])
def test_half_a_download(tmp_path: Path, name: str) -> None:
    model = vit(num_classes=0)
    if name == "a.npz":
        np.savez(tmp_path / name, **_jax_arrays(model, 3))
    else:
        _save(model.state_dict(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{name} "):
        load_backbone(f"file/{tmp_path}/{name}")


def test_pickles_are_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(ValueError, match="a pickle can run code"):
        load_backbone(f"file/{tmp_path}/harmful.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"epoch": 3}, {"state_dict": {}}])
def test_no_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_backbone(f"file/{tmp_path}/odd.pth")
