"""Every published name can be found, and what works with its architecture is told without its weights."""

import pytest

from selfprompt.models.loading.aliases import list_aliases
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.models.loading.catalogue import open_clip_tags, search, timm_tags
from selfprompt.models.loading.coverage import Support, architectures, support_of


class TestSearch:
    def test_a_word_finds_every_kind_of_name(self) -> None:
        found = {kind: [entry.name for entry in entries] for kind, entries in search("DINOv2").items()}
        assert "timm/vit_base_patch14_dinov2.lvd142m" in found["recommended"]
        assert "facebook/dinov2-base" in found["names known elsewhere"]
        assert "timm/vit_small_patch14_dinov2.TAG" in found["timm"]

    def test_a_tag_finds_the_models_that_have_it(self) -> None:
        entries = {entry.name: entry.description for entry in search("metaclip_fullcc")["open_clip"]}
        assert entries["open_clip/ViT-B-16-quickgelu/TAG"] == "metaclip_fullcc"

    def test_a_model_shows_all_its_tags(self) -> None:
        entries = {entry.name: entry for entry in search("ViT-B-32")["open_clip"]}
        entry = entries["open_clip/ViT-B-32/TAG"]
        assert entry.description.split(", ") == open_clip_tags()["ViT-B-32"]
        assert entry.model == "open_clip/ViT-B-32"
        assert "mae" in timm_tags()["vit_base_patch16_224"]

    def test_every_alias_of_a_published_model_tells_its_architecture(self) -> None:
        models = {entry.name: entry.model for entry in search("")["names known elsewhere"]}
        for alias in list_aliases():
            assert bool(models[alias.typed]) == (not alias.name.startswith("hf/") and "hf-hub:" not in alias.name)

    def test_an_unknown_word_finds_nothing(self) -> None:
        assert not any(search("no such word").values())


class TestSupport:
    @pytest.mark.parametrize(
        ("model", "support"),
        [
            ("timm/vit_tiny_patch16_224", Support(blocks=True, text=False)),
            ("timm/eva02_tiny_patch14_224", Support(blocks=True, text=False)),
            ("timm/resnet10t", Support(blocks=False, text=False)),
            ("open_clip/ViT-S-32", Support(blocks=True, text=True)),
            ("open_clip/RN50", Support(blocks=False, text=True)),
            ("open_clip/xlm-roberta-base-ViT-B-32", Support(blocks=True, text=True)),
            ("open_clip/nllb-clip-large-siglip", Support(blocks=True, text=True)),
            ("open_clip/mt5-xl-ViT-H-14", Support(blocks=True, text=True)),
        ],
    )
    def test_of_an_architecture(self, model: str, support: Support) -> None:
        assert support_of(model) == support

    def test_it_is_that_of_the_loaded_model(self) -> None:
        for model in ("timm/vit_tiny_patch16_224", "timm/resnet10t"):
            assert load_backbone(f"{model}/random").vision.has_blocks == support_of(model).blocks

    def test_of_one_that_does_not_load(self) -> None:
        support = support_of("timm/vit_base_patch16_sapiens2")
        assert support.refusal.startswith("timm/vit_base_patch16_sapiens2 takes images of 1024 x 768 pixels")

    def test_the_architectures_are_all_of_open_clip_and_the_vits_of_timm(self) -> None:
        counts = architectures()
        assert sum(count for name, count in counts.items() if name.startswith("open_clip/")) == sum(
            map(len, open_clip_tags().values())
        )
        assert counts["timm/vit_base_patch16_224"] == len(timm_tags()["vit_base_patch16_224"])
