"""Backbones by name are reproducible; wrong names list the known ones."""

import hashlib
import json
import logging
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.loading import embedded, open_clip_models, timm_models
from selfprompt.models.loading.assemble import clip_backbone
from selfprompt.models.loading.by_name import list_backbones, load_backbone
from selfprompt.models.open_clip_vit import clip_towers
from selfprompt.models.timm_vit import TimmViT
from tests.models.tiny import assert_same, clip, images, vit

PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _backbone(**options: bool) -> Backbone:
    vision, text = clip_towers(clip(**options))
    return Backbone("tiny", vision, text, None, 10.0, PREPROCESS)


def test_fingerprint_is_of_weights_and_architecture() -> None:
    first, again = _backbone(), _backbone()
    assert first.fingerprint == again.fingerprint
    assert len(first.fingerprint) == 64
    assert _backbone(quick_gelu=True).fingerprint != first.fingerprint
    assert again.text is not None
    changed = _backbone()
    changed.vision.visual.proj.data[0, 0] += 1e-3
    assert changed.fingerprint != first.fingerprint
    assert '"activation": "GELU"' in first.architecture


def test_fingerprint_does_not_depend_on_the_name() -> None:
    first, second = (Backbone(name, TimmViT(vit()), None, None, 1.0, PREPROCESS) for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint


def test_to_moves_and_keeps_the_fingerprint() -> None:
    backbone = _backbone()
    before = backbone.fingerprint
    assert backbone.to("cpu") is backbone
    assert backbone.fingerprint == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_to_cuda() -> None:
    before = _backbone().fingerprint
    backbone = _backbone().to("cuda")
    assert backbone.vision(images().cuda()).is_cuda
    assert backbone.fingerprint == before


@torch.no_grad()
def test_embedded_clip() -> None:
    backbone = load_backbone("embedded/clip")
    assert backbone.text is not None
    assert backbone.tokenizer is not None
    ids = backbone.tokenizer(["a photo of a cat", "a dog"])
    assert ids.shape == (2, 32)
    assert backbone.text(ids).shape == (2, 128)
    assert backbone.vision(images(size=(64, 64))).shape == (2, 128)
    assert (backbone.vision.depth, backbone.vision.width) == (6, 128)
    assert (backbone.text.depth, backbone.text.width) == (4, 128)
    assert backbone.note.startswith("embedded/clip: ")
    assert backbone.fingerprint == load_backbone("embedded/clip").fingerprint


@torch.no_grad()
def test_embedded_mae() -> None:
    backbone = load_backbone("embedded/mae")
    assert backbone.pooling == "avg"
    assert backbone.vision(images(size=(64, 64))).shape == (2, 128)
    assert backbone.text is backbone.tokenizer is None
    assert backbone.note.startswith("embedded/mae: ")


@pytest.mark.parametrize("name", ["clip", "mae"])
def test_embedded_weights_are_those_of_the_manifest(name: str) -> None:
    path = embedded.weights_file(name)
    entry = json.loads((path.parent / "manifest.json").read_text())[name]
    data = path.read_bytes()
    assert len(data) == entry["bytes"] <= 10_000_000
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    backbone = load_backbone(f"embedded/{name}")
    stored = load_file(path)
    weight = backbone.vision.visual.conv1.weight if name == "clip" else backbone.vision.vit.patch_embed.proj.weight
    assert weight.dtype == torch.float32
    assert weight.equal(stored["visual.conv1.weight" if name == "clip" else "patch_embed.proj.weight"].float())


def test_open_clip_reads_the_embedded_architecture_and_weights() -> None:
    folder = embedded.weights_file("clip").parent
    open_clip.add_model_config(folder / "clip.json")
    model = open_clip.create_model("clip", pretrained=str(folder / "clip.safetensors")).eval()
    backbone = load_backbone("embedded/clip")
    text, tokenizer = backbone.text_side()
    theirs = clip_backbone("clip", model, tokenizer, images={})
    assert (theirs.fingerprint, theirs.preprocess) == (backbone.fingerprint, backbone.preprocess)
    pixels, ids = images(size=(64, 64)), tokenizer(["a photo of a cat.", "tiger", ""])
    with torch.no_grad():
        assert_same(backbone.vision(pixels), model.encode_image(pixels))
        assert_same(text(ids), model.encode_text(ids))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(backbone.vision(pixels), theirs.vision(pixels))
            assert torch.equal(text(ids), theirs.text_side()[0](ids))


def test_loading_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    load_backbone("embedded/mae")
    assert torch.equal(torch.get_rng_state(), before)


def test_timm_random() -> None:
    backbone = load_backbone("timm/vit_tiny_patch16_224/random")
    assert backbone.preprocess == Preprocess(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert backbone.note == "timm/vit_tiny_patch16_224/random: random weights: for trying only, not for results"
    assert backbone.fingerprint == load_backbone("timm/vit_tiny_patch16_224/random").fingerprint


def test_distilled_pools_its_class_token() -> None:
    assert load_backbone("timm/deit_tiny_distilled_patch16_224/random").pooling == "cls"


def test_timm_with_a_file(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "tiny.pth")
    backbone = load_backbone(f"timm/vit_tiny_patch16_224@{tmp_path}/tiny.pth")
    assert backbone.note == ""
    assert torch.equal(backbone.vision.vit.norm.weight, model.norm.weight)
    assert torch.equal(backbone.vision.vit.pos_embed, model.pos_embed)


def test_timm_mae_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **small, **options))
    model = timm.create_model("vit_base_patch16_224.mae", num_classes=0)
    torch.save({"model": model.state_dict()}, tmp_path / "mae.pth")
    for name in ("vit_base_patch16_224.mae", "vit_base_patch16_224"):
        backbone = load_backbone(f"timm/{name}@{tmp_path}/mae.pth")
        assert backbone.pooling == "avg"
        assert backbone.preprocess.mean == (0.485, 0.456, 0.406)
        assert type(backbone.vision.vit.norm) is not torch.nn.Identity


def test_timm_with_a_file_of_another_size(tmp_path: Path) -> None:
    torch.save(vit(num_classes=0).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(ValueError, match=r"narrow.pth does not fit VisionTransformer: .*of another shape"):
        load_backbone(f"timm/vit_tiny_patch16_224@{tmp_path}/narrow.pth")


def test_pretrained_mae_pools_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def create(name: str, **options: object) -> VisionTransformer:
        asked[name] = options
        return vit(num_classes=0)

    monkeypatch.setattr(timm, "create_model", create)
    assert load_backbone("timm/vit_base_patch16_224.mae").pooling == "avg"
    assert asked == {"vit_base_patch16_224.mae": {"pretrained": True, "num_classes": 0}}


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224.augreg_in21k", "open_clip/ViT-B-16/openai"])
def test_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub.\nMore lines.")

    monkeypatch.setattr(timm, "create_model", fail)
    monkeypatch.setattr(open_clip, "create_model", fail)
    with pytest.raises(RuntimeError, match=rf"Could not download the weights of {name}: We couldn't .*@<file>\.$"):
        load_backbone(name)


def test_openai_tag_asks_for_quickgelu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def create(name: str, **options: object) -> None:
        asked[name] = options
        raise OSError("offline")

    monkeypatch.setattr(open_clip, "create_model", create)
    for tag, quick in (("openai", True), ("laion2b_s34b_b88k", False)):
        with pytest.raises(RuntimeError):
            load_backbone(f"open_clip/ViT-B-16/{tag}")
        assert asked["ViT-B-16"] == {"pretrained": tag, "force_quick_gelu": quick}


@pytest.mark.slow
def test_open_clip_random_and_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        backbone = load_backbone("open_clip/ViT-S-32/random")
    assert "No pretrained weights" not in caplog.text
    assert backbone.note.startswith("open_clip/ViT-S-32/random: random weights")
    model = open_clip.create_model("ViT-S-32")
    model.logit_scale.data = model.logit_scale.data.reshape(1)  # some files store a list of one
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}},
        tmp_path / "a.pt",
    )
    loaded = load_backbone(f"open_clip/ViT-S-32@{tmp_path}/a.pt")
    assert torch.equal(loaded.vision.visual.proj, model.visual.proj)
    assert loaded.note == ""
    assert loaded.preprocess.size == 224


def test_siglip_images() -> None:
    record = open_clip_models.images_of("ViT-B-16-SigLIP")
    assert record == {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }


def test_file_of_a_vit_for_a_clip(tmp_path: Path) -> None:
    torch.save({"model": vit(num_classes=0).state_dict()}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="must hold a CLIP, and its layout is 'mae'"):
        load_backbone(f"open_clip/ViT-S-32@{tmp_path}/mae.pth")


def test_oblong_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: vit(img_size=(32, 48), num_classes=0))
    with pytest.raises(ValueError, match="must be square for preprocessing, and this backbone takes 32 x 48"):
        load_backbone("timm/vit_tiny_patch16_224/random")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("embeded/clip", "embedded/clip"),
        ("embedded/clipp", "embedded/clip"),
        ("timm/vit_bas_patch16_224", "timm/vit_base_patch16_224"),
        ("timm/vit_base_patch16_224.augreg_in21", "timm/vit_base_patch16_224.augreg_in21k"),
        ("open_clip/ViT-B16/openai", "open_clip/ViT-B-16/openai"),
        ("open_clip/ViT-B-16/openia", "open_clip/ViT-B-16/openai"),
        ("open_clip/ViT-B-16", "open_clip/ViT-B-16/openai"),
    ],
)
def test_unknown_names(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown backbone '{name}'\. Did you mean .*{nearest}.*\?$"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["", "c", "file/", "timm/", "open_clip/a/b/c"])
def test_names_without_a_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"Unknown backbone .* Forms: .*timm/<name>@<file>"):
        load_backbone(name)


def test_vitamin_is_supported() -> None:
    models = [name for name in open_clip.list_models() if name.startswith("ViTamin")]
    assert len(models) > 10
    for name in models:
        open_clip_models.check_name(f"open_clip/{name}", name)
    assert load_backbone("timm/vitamin_small_224/random").vision.prefix == 0


def test_dinov3_pools_its_class_token_and_eva_does_as_timm() -> None:
    backbone = load_backbone("timm/vit_tiny_patch16_dinov3_qkvb/random")
    assert (backbone.pooling, backbone.vision.prefix, backbone.preprocess.size) == ("cls", 5, 256)
    assert backbone.preprocess.mean == (0.485, 0.456, 0.406)
    backbone = load_backbone("timm/eva02_tiny_patch14_224/random")
    assert (backbone.pooling, backbone.vision.prefix, backbone.preprocess.size) == ("native", 1, 224)


def test_every_eva_is_supported_but_sapiens2() -> None:
    names = timm.list_models(module="eva")
    assert len(names) > 60
    for name in names:
        if not name.endswith("_sapiens2"):
            timm_models.check_name(f"timm/{name}", name)
    with pytest.raises(ValueError, match="takes images of 1024 x 768 pixels, and only square ones are supported; use"):
        load_backbone("timm/vit_base_patch16_sapiens2")
    clips = [name for name in open_clip.list_models() if name.startswith(("EVA", "PE-"))]
    assert len(clips) > 10
    for name in clips:
        open_clip_models.check_name(f"open_clip/{name}", name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("open_clip/coca_roberta-ViT-B-32/random", "CoCa"),
    ],
)
def test_unsupported_families(name: str, reason: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} is not supported: .*{reason}.* Use another model"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["file/{}", "timm/vit_tiny_patch16_224@{}", "open_clip/ViT-S-32@{}"])
def test_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a file, and '.*none\.pth' is none"):
        load_backbone(name.format(tmp_path / "none.pth"))


def test_recommended_names_exist() -> None:
    for name, description in list_backbones():
        assert description
        if "<" not in name and not name.startswith("embedded"):
            family, rest = name.split("/", 1)
            if family == "timm":
                timm_models.check_name(name, rest)
            else:
                open_clip_models.check_name(name, rest.split("/")[0])
                assert rest.split("/")[1] in open_clip.list_pretrained_tags_by_model(rest.split("/")[0])
