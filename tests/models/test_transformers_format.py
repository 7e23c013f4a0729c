"""Models in transformers' format give what transformers gives, and files that cannot be read say what to type."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfprompt.models.backbone import Backbone, Preprocess
from selfprompt.models.block import activation_name
from selfprompt.models.loading.assemble import HALF, IMAGENET, OPENAI, clip_backbone
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.tokens import Tokens
from selfprompt.models.tower import VisionTower
from tests.models import vocabularies
from tests.models.tiny import clip

GOLDEN = Path(__file__).parent.parent / "golden" / "backbones"
CLIPS = ("clip_quickgelu", "siglip", "siglip2_naflex")
PLAIN = ("dinov2_gated", "dinov3_gated")
"""Recorded without prompts."""
VITS = ("vit_base", "vit_mae", "dinov2", "dinov2_reg", "dinov3")
AFTER_THE_CONFIGURATION = ("preprocessor_config.json", "tokenizer.json", "model.safetensors")
TOLERANCE = 1e-5  # of float32, as recorded


def load(folder: Path) -> Backbone:
    return load_backbone(f"file/{folder}")


def arrays(name: str) -> dict[str, Tensor]:
    """The recorded inputs and outputs of a folder."""
    return {key: torch.from_numpy(array) for key, array in np.load(GOLDEN / name / "io.npz").items()}


def changed(name: str, folder: Path, *, rename: Callable[[str], str] = str, **settings: Any) -> Path:
    """A copy of a recorded folder with other settings; None leaves one out."""
    shutil.copytree(GOLDEN / name, folder)
    config = json.loads((folder / "config.json").read_bytes()) | settings
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Change the tensors of a folder in place."""
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Insert:
    """Prompts behind the prefix of an image."""

    values: Tensor  # (P, D)

    def start(self, tokens: Tokens) -> Tokens:
        return tokens.insert(self.values)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return block(tokens)


@dataclass(frozen=True)
class WriteOver:
    """Prompts in place of the tokens from a position of a text on."""

    values: Tensor  # (P, D)
    position: int

    def start(self, tokens: Tokens) -> Tokens:
        x = tokens.x.clone()
        x[:, self.position : self.position + len(self.values)] = self.values
        return tokens._replace(x=x)

    def layer(self, index: int, block: Callable[..., Tokens], tokens: Tokens) -> Tokens:
        return block(tokens)


def final_tokens(vision: VisionTower, images: Tensor, prompts: Tensor | None = None) -> Tensor:
    """All tokens behind the final norm."""
    tokens = vision.embed(images)
    tokens = vision.enter(tokens if prompts is None else tokens.insert(prompts))
    for index in range(vision.depth):
        tokens = vision.block(index, tokens)
    result: Tensor = vision.vit.norm(tokens.x)
    return result


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


class TestRecordedOutputs:
    @pytest.mark.parametrize("name", [*VITS, *PLAIN])
    @torch.no_grad()
    def test_tokens_of_images(self, name: str) -> None:
        recorded = arrays(name)
        close(final_tokens(load(GOLDEN / name).vision, recorded["images"]), recorded["tokens"])

    @pytest.mark.parametrize("name", VITS)
    @torch.no_grad()
    def test_tokens_of_images_with_prompts(self, name: str) -> None:
        vision, recorded = load(GOLDEN / name).vision, arrays(name)
        prompted = final_tokens(vision, recorded["images"], recorded["image_prompts"])
        close(prompted, recorded["prompted_tokens"])

    @pytest.mark.parametrize("name", VITS)
    @torch.no_grad()
    def test_class_tokens_from_the_whole_tower(self, name: str) -> None:
        vision, recorded = load(GOLDEN / name).vision, arrays(name)
        close(vision(recorded["images"], pooling="cls"), recorded["tokens"][:, 0])
        prompted = vision(recorded["images"], Insert(recorded["image_prompts"]), pooling="cls")
        close(prompted, recorded["prompted_tokens"][:, 0])

    @pytest.mark.parametrize("name", [*CLIPS, "chinese_clip"])
    @torch.no_grad()
    def test_features_and_logits(self, name: str) -> None:
        backbone, recorded = load(GOLDEN / name), arrays(name)
        assert backbone.text is not None
        images, texts = backbone.vision(recorded["images"]), backbone.text(recorded["ids"])
        close(images, recorded["image_features"])
        close(texts, recorded["text_features"])
        cosines = nn.functional.normalize(images, dim=-1) @ nn.functional.normalize(texts, dim=-1).T
        close(backbone.scale * cosines + backbone.bias, recorded["logits"])

    @pytest.mark.parametrize("name", ["clip_quickgelu", "siglip", "chinese_clip"])
    @torch.no_grad()
    def test_prompts_among_patches(self, name: str) -> None:
        recorded = arrays(name)
        features = load(GOLDEN / name).vision(recorded["images"], Insert(recorded["image_prompts"]))
        close(features, recorded["prompted_image_features"])

    @pytest.mark.parametrize(
        ("name", "position"), [("clip_quickgelu", 1), ("siglip", 0), ("siglip2_naflex", 0), ("chinese_clip", 1)]
    )
    @torch.no_grad()
    def test_prompts_among_words(self, name: str, position: int) -> None:
        text, recorded = load(GOLDEN / name).text, arrays(name)
        assert text is not None
        features = text(recorded["ids"], WriteOver(recorded["text_prompts"], position))
        close(features, recorded["prompted_text_features"])


def test_poolings() -> None:
    assert [load(GOLDEN / name).pooling for name in VITS] == ["native", "avg", "native", "native", "cls"]


@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("name", CLIPS)
@torch.no_grad()
def test_image_sides_alone(name: str, prefix: str, tmp_path: Path) -> None:
    def image_side(state: dict[str, Tensor]) -> dict[str, Tensor]:
        side = {key: x for key, x in state.items() if key.startswith(("vision_model.", "visual_projection."))}
        return {key.replace("vision_model.", prefix): x for key, x in side.items()}

    config = json.loads((GOLDEN / name / "config.json").read_bytes())
    settings = {**config["vision_config"], "projection_dim": 20, "vision_config": None, "text_config": None}
    backbone = load(with_tensors(changed(name, tmp_path / "model", **settings), image_side))
    recorded = arrays(name)
    close(backbone.vision(recorded["images"]), recorded["image_features"])
    assert backbone.text is backbone.tokenizer is None


def test_chinese_clip_reads_texts_by_either_file_of_its_tokenizer(tmp_path: Path) -> None:
    folder = changed("chinese_clip", tmp_path / "model")
    backbone = load(folder)
    assert "it has no tokenizer.json, so class names cannot be read" in backbone.note
    with pytest.raises(ValueError, match=r"put the model's tokenizer\.json beside"):
        backbone.text_side()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "猫", "狗", "一", "张", "photo", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    by_words = load(folder)
    ids = by_words.text_side()[1](["一张猫", "Photos of 狗"])
    assert ids[:, :7].tolist() == [[2, 6, 7, 4, 3, 0, 0], [2, 8, 9, 1, 5, 3, 0]]
    assert ids.shape == (2, 20)
    vocabularies.wordpiece(folder / "tokenizer.json")
    with pytest.raises(ValueError, match="must have at most the 50 ids"):
        load(folder)


def test_an_activation_that_a_bert_cannot_have_is_refused(tmp_path: Path) -> None:
    config = json.loads((GOLDEN / "chinese_clip" / "config.json").read_bytes())["text_config"]
    folder = changed("chinese_clip", tmp_path / "model", text_config=config | {"hidden_act": "quick_gelu"})
    with pytest.raises(ValueError, match=r"'hidden_act' of the text side must be one of gelu, .*, got quick_gelu"):
        load(folder)


@torch.no_grad()
def test_an_image_side_without_projection(tmp_path: Path) -> None:
    name = "clip_quickgelu"
    config = json.loads((GOLDEN / name / "config.json").read_bytes())
    settings = {**config["vision_config"], "vision_config": None, "text_config": None}
    kept = changed(name, tmp_path / "model", **settings)
    with_tensors(kept, lambda state: {key: x for key, x in state.items() if key.startswith("vision_model.")})
    images, whole = arrays(name)["images"], load(GOLDEN / name).vision
    close(load(kept).vision(images), whole(images, pooling="unprojected"))


# Names of the same weights


def _as_vit_of_transformers(folder: Path) -> Path:
    """The embedded masked autoencoder under transformers' names."""
    old = load_backbone("embedded/mae").vision.vit.state_dict()
    renamed = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "blocks.": "encoder.layer.",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    state = {}
    for key, tensor in old.items():
        name = f"layernorm.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if "attn.qkv" in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.attention.{part}")] = rows.clone()
        else:
            state[name] = tensor
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    sizes = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    config = {"model_type": "vit", "layer_norm_eps": 1e-6, "image_size": 64, "patch_size": 8, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_one_fingerprint_for_a_vit_by_name_and_by_folder(tmp_path: Path) -> None:
    assert load(_as_vit_of_transformers(tmp_path / "vit")).fingerprint == load_backbone("embedded/mae").fingerprint


def test_biases_of_zero_are_as_good_as_none(tmp_path: Path) -> None:
    """timm publishes DINOv3 without them, transformers with them."""
    biases = [f"layer.{index}.attention.{part}_proj.bias" for index in (0, 1) for part in "qv"]
    zero = changed("dinov3", tmp_path / "zero")
    with_tensors(zero, lambda state: {k: torch.zeros_like(x) if k in biases else x for k, x in state.items()})
    none = changed("dinov3", tmp_path / "none")
    with_tensors(none, lambda state: {k: x for k, x in state.items() if k not in biases})
    assert load(zero).fingerprint == load(none).fingerprint != load(GOLDEN / "dinov3").fingerprint


def test_a_model_without_registers(tmp_path: Path) -> None:
    folder = changed("dinov3", tmp_path / "model", num_register_tokens=None)
    with_tensors(folder, lambda state: {**state, "embeddings.register_tokens": torch.zeros(1, 0, 32)})
    assert load(folder).vision.prefix == 1


def test_another_epsilon_is_another_fingerprint(tmp_path: Path) -> None:
    plain, other = load(GOLDEN / "vit_base"), load(changed("vit_base", tmp_path / "vit", layer_norm_eps=1e-6))
    assert plain.fingerprint != other.fingerprint


def test_one_fingerprint_for_a_clip_of_open_clip_and_a_folder() -> None:
    sizes = {"layers": 2, "mlp_ratio": 2.0}
    image = {**sizes, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
    text = {**sizes, "width": 24, "heads": 4, "context_length": 16, "vocab_size": 64}
    model = clip(quick_gelu=True, vision=image, text=text)
    ours = load(GOLDEN / "clip_quickgelu")
    theirs = clip_backbone("tiny", model, lambda texts: torch.zeros(len(texts), 16), images={})
    facts, expected = json.loads(ours.architecture), json.loads(theirs.architecture)
    assert (facts["vision"], facts["text"]) == (expected["vision"], expected["text"])
    assert ours.vision.state_dict().keys() == theirs.vision.state_dict().keys()
    assert ours.text is not None
    assert theirs.text is not None
    assert ours.text.state_dict().keys() == theirs.text.state_dict().keys()


def test_the_two_kinds_of_gelu_have_two_words(tmp_path: Path) -> None:
    assert activation_name(nn.GELU()) == "GELU"
    assert activation_name(nn.GELU(approximate="tanh")) == "GELUTanh"
    sides = json.loads((GOLDEN / "siglip" / "config.json").read_bytes())
    exact = {key: {**sides[key], "hidden_act": "gelu"} for key in ("vision_config", "text_config")}
    words = []
    for folder in (GOLDEN / "siglip", changed("siglip", tmp_path / "exact", **exact)):
        facts = json.loads(load(folder).architecture)
        words.append([facts[side]["activation"] for side in ("vision", "text")])
    assert words == [["GELUTanh", "GELUTanh"], ["GELU", "GELU"]]


# Files


def test_divided_weights(tmp_path: Path) -> None:
    folder = changed("dinov2", tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {f"model-{number}.safetensors": dict(list(state.items())[number::2]) for number in (0, 1)}
    for file, part in parts.items():
        save_file(part, folder / file)
    places = {key: file for file, part in parts.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert load(folder).fingerprint == load(GOLDEN / "dinov2").fingerprint
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-1\.safetensors, which is missing"):
        load(folder)


@pytest.mark.parametrize(
    "place", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "a\\b.safetensors", 3]
)
def test_an_index_that_names_a_path(place: Any, tmp_path: Path) -> None:
    folder = changed("dinov2", tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(ValueError, match="must name weight files in its own folder"):
        load(folder)


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    folder = changed("dinov2", tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    places = {"a": "model.safetensors", "b": "other.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match="which another file of this model holds"):
        load(folder)


def test_weights_of_torch_save(tmp_path: Path) -> None:
    folder = changed("vit_base", tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load(folder).fingerprint == load(GOLDEN / "vit_base").fingerprint


def test_half_precision(tmp_path: Path) -> None:
    folder = with_tensors(changed("vit_base", tmp_path / "model"), lambda s: {k: x.half() for k, x in s.items()})
    assert {tensor.dtype for tensor in load(folder).vision.state_dict().values()} == {torch.float32}


def test_without_weights(tmp_path: Path) -> None:
    folder = changed("vit_base", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold its weights as model\.safetensors\.index\.json or model\."):
        load(folder)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        del state["layernorm.weight"]
        state["encoder.layer.0.norm1.weight"] = torch.zeros(32)
        state["embeddings.cls_token"] = torch.zeros(1, 1, 16)
        return state

    folder = with_tensors(changed("vit_base", tmp_path / "model"), change)
    with pytest.raises(ValueError, match="does not fit VisionTransformer") as error:
        load(folder)
    assert "1 missing (norm.weight)" in str(error.value)
    assert "1 unexpected (encoder.layer.0.norm1.weight)" in str(error.value)
    assert "1 of another shape (cls_token (1, 1, 16) instead of (1, 1, 32))" in str(error.value)


def test_projections_of_impossible_shapes(tmp_path: Path) -> None:
    key = "encoder.layer.0.attention.attention.key.weight"
    folder = with_tensors(changed("vit_base", tmp_path / "model"), lambda s: {**s, key: torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="its tensors do not form a model"):
        load(folder)


def test_prefixes_and_layers_of_models_for_one_task(tmp_path: Path) -> None:
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {f"vit.{key}": tensor for key, tensor in state.items() if not key.startswith("pooler.")}
        return kept | {"classifier.weight": torch.zeros(5, 32), "classifier.bias": torch.zeros(5)}

    folder = with_tensors(changed("vit_base", tmp_path / "model"), change)
    assert load(folder).fingerprint == load(GOLDEN / "vit_base").fingerprint


def test_a_file_alone_is_not_enough() -> None:
    path = GOLDEN / "siglip" / "model.safetensors"
    with pytest.raises(ValueError, match=rf"under transformers' names.* Load the folder: file/{path.parent}\."):
        load_backbone(f"file/{path}")
    with pytest.raises(ValueError, match="under transformers' names"):
        load_backbone(f"file/{GOLDEN / 'vit_base' / 'model.safetensors'}")


# config.json


def test_absent_values_are_the_defaults_of_the_class(tmp_path: Path) -> None:
    defaults = ("hidden_act", "layer_norm_eps", "num_channels", "qkv_bias", "architectures", "dtype")
    folder = changed("vit_base", tmp_path / "vit", **dict.fromkeys(defaults))
    assert load(folder).fingerprint == load(GOLDEN / "vit_base").fingerprint
    sides = json.loads((GOLDEN / "clip_quickgelu" / "config.json").read_bytes())
    kept = {
        key: {k: v for k, v in sides[key].items() if k not in ("hidden_act", "layer_norm_eps", "projection_dim")}
        for key in ("text_config", "vision_config")
    }
    folder = changed("clip_quickgelu", tmp_path / "clip", **kept)
    assert load(folder).fingerprint == load(GOLDEN / "clip_quickgelu").fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 1 << 40}, "'hidden_size' must be a whole number from 1 to 16384, got 1099511627776"),
        ({"hidden_size": "32"}, "'hidden_size' must be a whole number from 1 to 16384, got '32'"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' must be a whole number"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' must be a whole number from 1 to 256"),
        ({"num_attention_heads": 0}, "'num_attention_heads' must be a whole number from 1 to 256, got 0"),
        ({"num_attention_heads": 5}, "'hidden_size' must be a multiple of 'num_attention_heads', got 32 and 5"),
        ({"image_size": [32, 64]}, r"'image_size' must be a whole number from 1 to 8192, got \[32, 64\]"),
        ({"layer_norm_eps": -1}, "'layer_norm_eps' must be a number"),
        ({"num_channels": 1}, "'num_channels' must be 3, got 1"),
        ({"hidden_act": "relu"}, r"'hidden_act' must be one of gelu, .*, got 'relu'; for another model use its timm/"),
        ({"hidden_act": {"a": 1}}, "'hidden_act' must be one of"),
        ({"hidden_size": 16384, "image_size": 2048}, "does not fit VisionTransformer"),
        ({"image_size": 4096}, "'image_size' must be at most 256 patches, got 4096 pixels with patches of 8"),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(changed("vit_base", tmp_path / "model", **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bert"}, r"must be one of clip, siglip, .*, got 'bert'; for another model use its timm/<name>"),
        ({"model_type": None}, "must be one of clip, siglip, .*, got None"),
        ({"model_type": ["vit"]}, "must be one of clip, siglip"),
        ({"model_type": None, "architecture": "vit_tiny"}, r"in the layout of timm; load it with timm/local-dir:/"),
    ],
)
def test_other_models(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        load(changed("vit_base", tmp_path / "model", **settings))


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold config\.json, .* load it with open_clip/local-dir:/"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": NaN}', "{" * 9, b"\xff\xfe", " " * (1 << 24) + "{}"])
def test_damaged_configurations(content: str | bytes, tmp_path: Path) -> None:
    folder = changed("vit_base", tmp_path / "model")
    (folder / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    code = {"auto_map": {"AutoModel": "own.Model", "AutoConfig": "own.Config"}, "trust_remote_code": True}
    folder = changed("vit_base", tmp_path / "model", **code)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    assert load(folder).fingerprint == load(GOLDEN / "vit_base").fingerprint
    assert not (tmp_path / "mark").exists()


def test_sides_with_different_activations(tmp_path: Path) -> None:
    text = json.loads((GOLDEN / "clip_quickgelu" / "config.json").read_bytes())["text_config"]
    folder = changed("clip_quickgelu", tmp_path / "model", text_config={**text, "hidden_act": "gelu"})
    with pytest.raises(ValueError, match="'hidden_act' must be the same on both sides, got quick_gelu and gelu"):
        load(folder)


@pytest.mark.parametrize(
    ("end", "pool", "positions"), [(2, "argmax", [3, 2]), (63, "argmax", [3, 2]), (7, "eos", [1, 3])]
)
def test_the_token_that_is_pooled(end: int, pool: str, positions: list[int], tmp_path: Path) -> None:
    text = json.loads((GOLDEN / "clip_quickgelu" / "config.json").read_bytes())["text_config"]
    folder = changed("clip_quickgelu", tmp_path / "model", text_config={**text, "eos_token_id": end})
    tower = load(folder).text
    assert tower is not None
    assert tower.facts()["pool"] == pool
    ids = torch.tensor([[1, 7, 2, 63, 7], [1, 2, 63, 7, 7]])
    assert tower.layout.ends(ids).tolist() == positions


# Images


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}, Preprocess(32, *HALF, resize=36)),
        ({"size": 32, "crop_size": 32, "resample": 3}, Preprocess(32, *HALF)),
        ({"size": 32}, Preprocess(32, *HALF, mode="squash")),
        ({"size": 32, "crop_size": 16, "do_center_crop": False}, Preprocess(32, *HALF, mode="squash")),
        ({"size": {"height": 32, "width": 32}, "resample": 2}, Preprocess(32, *HALF, "bilinear", "squash")),
        ({"image_mean": [0.1, 0.2, 0.3]}, Preprocess(32, (0.1, 0.2, 0.3), HALF[1], mode="squash")),
        ({"do_normalize": False}, Preprocess(32, (0, 0, 0), (1, 1, 1), mode="squash")),
        ({"image_processor": {"size": {"shortest_edge": 32}}}, Preprocess(32, *HALF)),
    ],
)
def test_preprocessing(content: dict[str, Any], expected: Preprocess, tmp_path: Path) -> None:
    folder = changed("siglip", tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    assert load(folder).preprocess == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"size": {"height": 32, "width": 64}}, "'size' must be the pixels of a square"),
        ({"size": {"longest_edge": 32}}, "'size' must be the pixels of a square"),
        ({"size": 1 << 20}, "'size' must be the pixels of a square, from 1 to 8192"),
        ({"image_mean": [0.5, 0.5]}, "'image_mean' must be three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "'image_std' must be three numbers from 1e-06 to 10"),
        ({"image_std": "0.5"}, "'image_std' must be three numbers"),
        ({"resample": 1}, "'resample' must be one of 0, 2, 3, got 1"),
    ],
)
def test_preprocessing_out_of_range(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = changed("siglip", tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_preprocessing_without_a_file() -> None:
    expected = {
        "siglip2_naflex": Preprocess(32, *HALF, "bilinear", "squash"),
        "vit_base": Preprocess(32, *HALF, "bilinear", "squash"),
        "vit_mae": Preprocess(32, *IMAGENET, "bilinear", "squash"),
        "dinov2": Preprocess(16, *IMAGENET, resize=18),
    }
    loaded = {name: load(GOLDEN / name) for name in expected}
    assert {name: backbone.preprocess for name, backbone in loaded.items()} == expected
    assert all("it has no preprocessor_config.json" in backbone.note for backbone in loaded.values())
    assert load(GOLDEN / "clip_quickgelu").preprocess == Preprocess(32, *OPENAI)


def test_preprocessing_for_another_size_shows_the_same_part(tmp_path: Path) -> None:
    folder = changed("dinov2_reg", tmp_path / "model")
    content = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    backbone = load(folder)
    assert (backbone.preprocess.size, backbone.preprocess.resize) == (32, 37)
    assert "its images have 32 pixels, and preprocessor_config.json is for 224" in backbone.note


# Tokenizers


def test_a_clip_without_a_tokenizer_still_has_its_towers() -> None:
    backbone = load(GOLDEN / "siglip")
    assert "it has no tokenizer.json, so class names cannot be read" in backbone.note
    with pytest.raises(ValueError, match=r"A tokenizer is needed .* put the model's tokenizer\.json beside"):
        backbone.text_side()


def test_siglip_reads_its_tokenizer(tmp_path: Path) -> None:
    folder = changed("siglip", tmp_path / "model")
    vocabularies.t5(folder / "tokenizer.json")
    text, tokenizer = load(folder).text_side()
    assert (text.layout.start, text.layout.reads, text.layout.cut) == (0, "last", "never")
    ids = tokenizer(["A photo of a cat."])[0].tolist()
    assert (len(ids), ids.index(1), set(ids[ids.index(1) :])) == (16, 5, {1})
    assert tokenizer(["a photo of a cat"])[0].tolist() == ids


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    text = json.loads((GOLDEN / "siglip" / "config.json").read_bytes())["text_config"]
    folder = changed("siglip", tmp_path / "model", text_config={**text, "vocab_size": 30})
    vocabularies.t5(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=r"must have at most the 30 ids of config\.json, got 36; it belongs"):
        load(folder)


def test_the_tokenizer_is_read_before_the_weights(tmp_path: Path) -> None:
    folder = changed("siglip", tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_text("neither")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        load(folder)


# The hub


def cached(cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the hub's cache hold a folder as the repository org/model; returns where its files are."""
    repository = cache / "models--org--model"
    snapshot = repository / "snapshots" / (40 * "a")
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return snapshot


def test_a_cached_repository_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cached(tmp_path, GOLDEN / "siglip", monkeypatch)
    backbone = load_backbone("hf/org/model")
    assert backbone.fingerprint == load(GOLDEN / "siglip").fingerprint
    assert "hf/org/model: it has no tokenizer.json" in backbone.note
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"Could not download hf/org/model: .* Instead, use file/FOLDER with a copy"):
        load_backbone("hf/org/model")


@pytest.mark.parametrize("name", ["hf/model", "hf/org/model/main", "hf/org/mo del", "hf/../model", "hf/org/"])
def test_names_of_no_repository(name: str) -> None:
    with pytest.raises(ValueError, match="is written org/name or org/name@revision"):
        load_backbone(name)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """Let a folder be the repository of the hub; returns a list of what is announced and downloaded, in this order."""

    def serve(folder: Path) -> list[str]:
        log: list[str] = []

        def look_up(url: str) -> SimpleNamespace:
            file = url.rpartition("/")[2]
            if not (folder / file).is_file():
                raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
            return SimpleNamespace(size=(folder / file).stat().st_size)

        def download(repository: str, file: str, revision: str | None) -> str:
            log.append(f"{file} at {revision}")
            return str(folder / file)

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", look_up)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return log

    return serve


def test_downloads_are_announced_and_of_one_revision(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    folder = changed("siglip", tmp_path / "commit")
    vocabularies.t5(folder / "tokenizer.json")
    log = hub(folder)
    load_backbone("hf/org/model", say=lambda line: log.append(line.partition(" (")[0]))
    files = [("config.json", None), *((file, "commit") for file in AFTER_THE_CONFIGURATION)]
    assert log == [line for file, at in files for line in (f"downloading {file}", f"{file} at {at}")]


def test_a_refused_model_costs_no_download(hub: Callable[[Path], list[str]], tmp_path: Path) -> None:
    log = hub(changed("vit_base", tmp_path / "commit", model_type="bert"))
    with pytest.raises(TypeError, match="hf/org/model is not supported"):
        load_backbone("hf/org/model")
    (tmp_path / "commit" / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    with pytest.raises(TypeError, match="load it with timm/hf-hub:org/model"):
        load_backbone("hf/org/model")
    assert log == 2 * ["config.json at None"]


def test_terms_that_were_not_accepted(hub: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise GatedRepoError.__new__(GatedRepoError)

    hub(GOLDEN / "vit_base")
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(RuntimeError, match=r"accept its terms on https://huggingface\.co/org/model, and log in with"):
        load_backbone("hf/org/model")
