"""The name that somebody types first loads the model, or the error says what to type instead."""

from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st

import selfprompt
from selfprompt.models.loading import by_name
from selfprompt.models.loading.aliases import Alias, find_alias, list_aliases
from selfprompt.models.loading.by_name import load_backbone

ALIASES = {
    "openai/clip-vit-base-patch32": "open_clip/ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "open_clip/ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "open_clip/ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "open_clip/ViT-L-14-336/openai",
    "ViT-B/32": "open_clip/ViT-B-32/openai",
    "ViT-B/16": "open_clip/ViT-B-16/openai",
    "vit-l/14": "open_clip/ViT-L-14/openai",
    "ViT-L/14@336px": "open_clip/ViT-L-14-336/openai",
    "RN50": "open_clip/RN50/openai",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "open_clip/ViT-bigG-14/laion2b_s39b_b160k",
    "apple/DFN2B-CLIP-ViT-L-14": "open_clip/ViT-L-14-quickgelu/dfn2b",
    "google/siglip2-so400m-patch14-384": "open_clip/ViT-SO400M-14-SigLIP2-378/webli",
    "google/vit-base-patch16-224": "hf/google/vit-base-patch16-224",
    "facebook/vit-mae-base": "timm/vit_base_patch16_224.mae",
    "Facebook/DINOv2-Base": "timm/vit_base_patch14_dinov2.lvd142m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": "timm/vit_huge_plus_patch16_dinov3.lvd1689m",
    "facebook/PE-Core-G14-448": "open_clip/PE-Core-bigG-14-448/meta",
    "imageomics/bioclip": "open_clip/hf-hub:imageomics/bioclip",
    "jienengchen/ViTamin-L-224px": "open_clip/ViTamin-L/datacomp1b",
}


class TestAliases:
    @pytest.mark.parametrize("typed", ALIASES)
    def test_the_name_of_another_place(self, typed: str) -> None:
        alias = find_alias(typed)
        assert alias is not None
        assert alias.name == ALIASES[typed]

    def test_targets_are_published(self) -> None:
        for alias in list_aliases():
            family, rest = alias.name.split("/", 1)
            if family == "timm":
                assert timm.is_model_pretrained(rest), alias
            elif family == "open_clip" and not rest.startswith("hf-hub:"):
                model, tag = rest.split("/")
                assert tag in open_clip.list_pretrained_tags_by_model(model), alias
            else:
                assert family == "hf" or rest == f"hf-hub:{alias.typed}", alias

    def test_where_open_clip_names_the_repository_the_alias_is_its_own(self) -> None:
        for alias in list_aliases():
            if alias.typed.startswith("laion/"):
                model, tag = alias.name.split("/")[1:]
                assert open_clip.get_pretrained_cfg(model, tag)["hf_hub"].strip("/") == alias.typed

    def test_it_is_said_and_the_model_has_the_name_that_loads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alias = Alias("somebody/mae", "embedded/mae", "64 pixels")
        monkeypatch.setattr(by_name, "find_alias", lambda name: alias if name == alias.typed else None)
        said: list[str] = []
        assert load_backbone("somebody/mae", say=said.append).name == "embedded/mae"
        assert said == ["somebody/mae = embedded/mae (64 pixels)"]

    def test_results_and_artifacts_store_the_name_that_loads(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alias = Alias("somebody/mae", "embedded/mae")
        monkeypatch.setattr(by_name, "find_alias", lambda name: alias if name == alias.typed else None)
        tuned = selfprompt.tune(
            photos, method="linear", backbone="somebody/mae", out=tmp_path / "out", epochs=1, workers=0, holdout=0
        )
        assert tuned.results["backbone"]["name"] == "embedded/mae"
        assert "somebody" not in (tmp_path / "out" / "config.json").read_text()
        assert "backbone: embedded/mae" in (tmp_path / "out" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("facebook/vit-mae-base", "cc-by-nc-4.0, not for commercial use"),
        ("timm/vit_base_patch16_224.mae", "cc-by-nc-4.0, not for commercial use"),
        ("timm/vit_small_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("facebook/metaclip-b16-fullcc2.5b", "cc-by-nc-4.0, not for commercial use"),
        ("open_clip/ViT-B-16/dfn2b", "a licence of Apple"),
        ("timm/vit_base_patch16_224.augreg_in21k", ""),
        ("timm/vit_base_patch16_224.mae/random", ""),
        ("open_clip/ViT-B-16/openai", ""),
    ],
)
def test_a_binding_licence_is_said(name: str, licence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    said: list[str] = []
    with pytest.raises(RuntimeError, match="no weights here"):
        load_backbone(name, say=said.append)
    lines = [line for line in said if "the weights of" in line and "are under" in line]
    assert [f"are under {licence};" in line for line in lines] == [True] * bool(licence)


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be built or fetched."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no weights here")

    for module, name in ((timm, "create_model"), (open_clip, "create_model"), (huggingface_hub, "hf_hub_download")):
        monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"),
        ("timm/ViT_Base_Patch16_224.MAE", "timm/vit_base_patch16_224.mae"),
        ("timm/vit-base-patch16-224.mae", "timm/vit_base_patch16_224.mae"),
        ("timm:vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"),
        ("hf_hub:timm/vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"),
        ("ViT-B-16/openai", "open_clip/ViT-B-16/openai"),
        ("openclip/vit-b-16/OpenAI", "open_clip/ViT-B-16/openai"),
        ("open_clip/openai/ViT-B-16", "open_clip/ViT-B-16/openai"),
        ("open_clip:ViT-B-16:openai", "open_clip/ViT-B-16/openai"),
        ("timm/ViT-B-16/openai", "open_clip/ViT-B-16/openai"),
        ("ViT-B-16", "open_clip/ViT-B-16/openai"),
        ("'ViT-B-16/openai'", "open_clip/ViT-B-16/openai"),
        ("laion/CLIP-ViT-g-14-laion2B-s12B-b42K", "open_clip/ViT-g-14/laion2b_s12b_b42k"),
        ("https://huggingface.co/facebook/dinov2-base", "facebook/dinov2-base"),
        ("https://huggingface.co/facebook/dinov2-base/tree/main", "facebook/dinov2-base"),
        ("facebook/dinov2_base", "facebook/dinov2-base"),
        ("https://huggingface.co/somebody/model", "hf/somebody/model (in the layout of transformers)"),
        ("somebody/model", "open_clip/hf-hub:somebody/model or timm/hf-hub:somebody/model"),
        ("hf-hub:somebody/model", "hf/somebody/model"),
        ("local-dir:/models/clip", "'open_clip/local-dir:/models/clip'"),
        ("embeded/clip", "embedded/clip"),
        ("TIMM/vit_tiny_patch16_224/random", "timm/vit_tiny_patch16_224/random"),
        ("timm/vit_base_patch16_224.", "timm/vit_base_patch16_224"),
        ("clip-ViT-B-32", "open_clip/ViT-B-32/openai"),
        ("facebook/dinov2-bass", "facebook/dinov2-base? A repository"),
        ("dinov2", "selfprompt backbones dinov2"),
        ("timm/dinov2_vits14", "selfprompt backbones dinov2"),
        ("\x1b[31mx\u202e", "Forms: embedded/clip, "),
    ],
)
def test_the_error_says_what_to_type(typed: str, suggested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    with pytest.raises(ValueError, match=r"^Unknown backbone ") as raised:
        load_backbone(typed)
    assert suggested in str(raised.value)
    assert str(raised.value).isprintable()


def test_a_path_names_its_form(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ValueError, match=rf"A local file or folder is loaded with 'file/{tmp_path}/weights\.pth'\.$"):
        load_backbone(f"{tmp_path}/weights.pth")


def test_errors_quote_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "two\nlines.pth").touch()
    with pytest.raises(ValueError, match=r"two\\nlines\.pth is empty"):
        load_backbone(f"file/{tmp_path}/two\nlines.pth")


def test_a_file_that_must_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(by_name, "read_checkpoint", refuse)
    with pytest.raises(RuntimeError, match=r"^A file of 'file/secret\.pth' cannot be read: Permission denied\.$"):
        load_backbone("file/secret.pth")


NO_FILES = ["timm/vit_tiny_patch16_224@", "open_clip/ViT-B-32@", "timm/local-dir:", "file/~nobody-here/x"]


@pytest.mark.parametrize("name", NO_FILES)
def test_what_names_no_file_is_not_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable(monkeypatch)
    with pytest.raises(FileNotFoundError, match="must be"):
        load_backbone(name)


def test_a_name_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^A backbone's name must be text, got PosixPath\.$"):
        load_backbone(tmp_path)  # type: ignore[arg-type]


def _names() -> list[str]:
    names = ["embedded/clip", "open_clip/hf-hub:org/name", "timm/local-dir:/x", "https://hf.co/org/name", "file/~x/y"]
    names += [alias.typed for alias in list_aliases()]
    names += [f"timm/{name}" for name in timm.list_pretrained("vit_*")[:30]]
    return names + [f"open_clip/{model}/{tag}@x" for model, tag in open_clip.list_pretrained()[::9]]


def _changed(name: str, place: float, text: str, keep: int) -> str:
    at = int(place * len(name))
    return name[:at] + text + name[at + keep :]


SOURCES = ("timm/hf-hub:", "open_clip/hf-hub:", "timm/local-dir:", "open_clip/local-dir:")
ANY = st.text(st.characters(exclude_categories=()), max_size=30)
TYPED = st.one_of(
    ANY,
    st.builds("{}/{}".format, st.sampled_from(("timm", "open_clip", "file", "hf", "embedded")), ANY),
    st.builds("{}{}".format, st.sampled_from(SOURCES), ANY),
    st.builds(_changed, st.deferred(lambda: st.sampled_from(_names())), st.floats(0, 1), ANY, st.integers(0, 5)),
)


@settings(max_examples=150)
@given(typed=TYPED)
def test_any_text_loads_or_is_refused_in_one_readable_sentence(typed: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        unreachable(monkeypatch)
        try:
            load_backbone(typed)
        except (ValueError, TypeError, FileNotFoundError, RuntimeError) as error:
            message = str(error)
            assert message.isprintable(), "safe for a terminal, in one line"
            assert 10 < len(message) < 1000
            assert message[-1] in ".?"
