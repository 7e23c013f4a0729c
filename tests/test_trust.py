"""Trust in artifacts: an untrusted one runs no code, reads no file of its choice and downloads nothing."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import selfprompt
from selfprompt.inference.artifact import CARD, CONFIG, TENSORS
from selfprompt.inference.classifier import Classifier
from selfprompt.inference.hub import HUB, MAX_BYTES, artifact_folder
from selfprompt.methods.registry import build_method
from selfprompt.models.loading.by_name import Backbone, load_backbone
from selfprompt.recipes.recipe import load_recipe
from selfprompt.utils.trust import check_backbone

HARM = "import pathlib\npathlib.Path({target!r}).touch()\nfrom tests.methods.custom import Bias\n"
CUSTOM = "tests.methods.custom:Bias"


@pytest.fixture
def harmful(tmp_path, monkeypatch) -> tuple[str, Path]:
    """The name of a module on the path that writes a file when it is imported, and that file."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "harmful_helper.py").write_text(HARM.format(target=str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "harmful_helper", tmp_path / "ran"
    sys.modules.pop("harmful_helper", None)


def changed(folder: Path, out: Path, **changes: object) -> Path:
    """A copy of an artifact with other values in its config.json."""
    shutil.copytree(folder, out)
    config = json.loads((out / CONFIG).read_text(encoding="utf-8")) | changes
    (out / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return out


@pytest.fixture
def own(tmp_path) -> Path:
    """An artifact with a custom method."""
    backbone = load_backbone("embedded/mae")
    folder = tmp_path / "own"
    Classifier(build_method(CUSTOM, backbone, ["cat", "dog"]), backbone.preprocess).save(folder)
    return folder


@pytest.mark.parametrize("command", ["predict", "eval", "analyze"])
def test_an_untrusted_method_does_not_run(command, harmful, linear, photos, run, tmp_path):
    module, ran = harmful
    folder = changed(linear, tmp_path / "out", method=f"{module}:Bias", options={})
    given = [folder, "--images", photos] if command == "analyze" else [folder, photos]
    done = run(command, *given)
    assert done.status == 1
    assert f"{folder} cannot be loaded: its method is code, '{module}:Bias'" in done.err
    assert "--trust" in done.err
    assert not ran.exists()
    assert module not in sys.modules


def test_a_custom_method_runs_if_it_is_trusted(own, photos, run):
    with pytest.raises(ValueError, match=r"its method is code.*trust=True"):
        selfprompt.load(own)
    assert selfprompt.load(own, trust=True).method.name == CUSTOM
    done = run("predict", own, photos, "--trust")
    assert done.status == 0, done.err


def test_code_in_the_folder_itself_is_never_imported(own, tmp_path, monkeypatch):
    folder = changed(own, tmp_path / "out", method="planted_helper:Bias")
    (folder / "planted_helper.py").write_text(HARM.format(target=str(tmp_path / "ran")))
    monkeypatch.syspath_prepend(folder)  # as `python -m selfprompt` does with the working folder
    with pytest.raises(ValueError, match="is in the folder itself"):
        selfprompt.load(folder, trust=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    [
        "file/secret.pth",
        "file//etc/passwd",
        "timm/vit_tiny_patch16_224@weights.pth",
        "open_clip/ViT-B-32@weights.pt",
        "open_clip/local-dir:folder",
        "open_clip/hf-hub:owner/name",
        "hf/owner/name",
        "timm/../secret",
        "open_clip/a/b/c",
        "embedded/clip\n",
        "elsewhere/model",
    ],
)
def test_a_custom_backbone_is_used_only_if_it_is_named(name, linear, tmp_path, monkeypatch):
    stored = json.loads((linear / CONFIG).read_text(encoding="utf-8"))["backbone"]
    folder = changed(linear, tmp_path / "out", backbone=stored | {"name": name})

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("loaded what a stranger named")

    with monkeypatch.context() as patched:
        patched.setattr("selfprompt.inference.loading.load_backbone", touched)
        with pytest.raises(ValueError, match=r"is used only if you name it: --backbone"):
            selfprompt.load(folder)
        with pytest.raises(ValueError, match=r"is used only if you name it: --backbone"):
            selfprompt.load(folder, trust=True)
    assert selfprompt.load(folder, backbone="embedded/mae").classes == selfprompt.load(linear).classes


@pytest.mark.parametrize(
    "name",
    [
        "embedded/clip",
        "timm/vit_base_patch16_224.augreg_in21k",
        "timm/vit_tiny_patch16_224/random",
        "open_clip/ViT-B-16/openai",
        "open_clip/ViT-B-16-SigLIP/webli",
    ],
)
def test_published_backbones_are_used_as_named(name):
    check_backbone(name)


def test_known_repositories_are_used_as_named(linear, tmp_path, monkeypatch):
    stored = json.loads((linear / CONFIG).read_text(encoding="utf-8"))["backbone"]
    classes, asked = selfprompt.load(linear).classes, []

    def found(name: str, **_: object) -> Backbone:
        asked.append(name)
        return load_backbone("embedded/mae")

    monkeypatch.setattr("selfprompt.inference.loading.load_backbone", found)
    for number, name in enumerate(("open_clip/hf-hub:imageomics/bioclip", "hf/google/vit-base-patch16-224")):
        folder = changed(linear, tmp_path / str(number), backbone=stored | {"name": name})
        assert selfprompt.load(folder).classes == classes
        assert asked[-1] == name


def test_a_moved_backbone_file_is_given_with_the_option(photos, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = replace(load_backbone("embedded/mae"), name="file/own.safetensors")
    Classifier(build_method("linear", backbone, ["cat", "dog"]), backbone.preprocess).save("dogs")
    assert "--backbone" in run("predict", "dogs", photos).err
    assert run("predict", "dogs", photos, "--backbone", "embedded/mae").status == 0


class TestRecipes:
    @pytest.fixture
    def recipe(self, harmful, tmp_path) -> Path:
        path = tmp_path / "theirs.yaml"
        path.write_text(f"method: {harmful[0]}:Bias\nbackbone: embedded/mae\nepochs: 1\nwarmup_epochs: 0\nworkers: 0\n")
        return path

    def test_a_file_that_names_code_is_refused(self, recipe, harmful, photos, run, tmp_path):
        for given in (["--config", recipe], ["--method", recipe]):
            done = run("train", photos, "--out", tmp_path / "out", *given)
            assert done.status != 0
            assert "its method is code" in done.err
            assert f"{harmful[0]}:Bias" in done.err
        assert not harmful[1].exists()
        with pytest.raises(ValueError, match=r"theirs.yaml: its method is code"):
            load_recipe(str(recipe))

    def test_it_runs_when_it_is_trusted(self, recipe, harmful, photos, run, tmp_path):
        assert run("train", photos, "--out", tmp_path / "out", "--config", recipe, "--trust").status == 0
        assert harmful[1].exists()

    def test_what_the_user_types_is_trusted(self, recipe, photos, run, tmp_path):
        given = ["--config", recipe, "--method", CUSTOM]
        assert run("train", photos, "--out", tmp_path / "out", *given).status == 0

    def test_a_bench_asks_too(self, recipe, harmful, run, tmp_path):
        given = ["bench", "few-shot", "--methods", recipe, "--out", tmp_path / "runs", "--list"]
        refused = run(*given)
        assert refused.status != 0
        assert "its method is code" in refused.err
        assert not harmful[1].exists()
        assert run(*given, "--trust").status == 0


class TestHub:
    def test_a_mistyped_folder_is_not_looked_up_elsewhere(self, tmp_path, monkeypatch):
        def fetch(*_: object, **__: object) -> None:
            raise AssertionError("went to the network for a folder's name")

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs" / "dogs2").mkdir(parents=True)
        expected = r"^runs/dogs: there is no such folder\. Did you mean runs/dogs2\? .* is written hf-hub:runs/dogs\.$"
        with pytest.raises(ValueError, match=expected):
            selfprompt.load("runs/dogs")
        (tmp_path / "file").write_text("x")
        with pytest.raises(ValueError, match="file is a file; give the folder"):
            selfprompt.load("file")

    @pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:dogs", "hf-hub:a/b/c", "hf-hub:../../x", "hf-hub:a/b@../c d"])
    def test_names_that_are_none(self, name):
        with pytest.raises(ValueError, match=r"^A repository of the hub is written hf-hub:owner/name"):
            artifact_folder(name)

    def fake(self, monkeypatch, folder: Path, sizes: dict[str, int]) -> list[tuple[object, ...]]:
        """A hub with these files, and a list of the requests."""
        from huggingface_hub.file_download import DryRunFileInfo

        asked: list[tuple[object, ...]] = []

        def fetch(repository: str, *, revision: str | None, allow_patterns: list[str], dry_run: bool = False) -> object:
            asked.append((repository, revision, dry_run))
            assert allow_patterns == [CONFIG, TENSORS, CARD]
            infos = [
                DryRunFileInfo("c" * 40, size, name, str(folder / name), False, True) for name, size in sizes.items()
            ]
            return infos if dry_run else str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        return asked

    def test_what_is_fetched_is_said_before(self, linear, monkeypatch):
        asked = self.fake(monkeypatch, linear, {CONFIG: 1000, TENSORS: 2345})
        said: list[str] = []
        selfprompt.load(f"{HUB}owner/name@v1.0", say=said.append)
        assert asked == [("owner/name", "v1.0", True), ("owner/name", "c" * 40, False)]
        assert said == [f"downloading {CONFIG}, {TENSORS} (3,345 bytes) of owner/name from the Hugging Face hub"]

    def test_what_is_too_large_is_not_fetched(self, linear, monkeypatch):
        asked = self.fake(monkeypatch, linear, {CONFIG: MAX_BYTES[CONFIG] + 1})
        with pytest.raises(ValueError, match=r"hf-hub:owner/name could not be downloaded .*more than the allowed"):
            selfprompt.load(f"{HUB}owner/name")
        assert asked == [("owner/name", None, True)]

    def test_without_a_network_what_was_fetched_earlier_is_used(self, linear, monkeypatch):
        asked: list[object] = []

        def fetch(repository: str, **options: object) -> str:
            from huggingface_hub.errors import DryRunError

            asked.append(options)
            if options.get("dry_run"):
                raise DryRunError("no network")
            assert options["local_files_only"]
            return str(linear)

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        assert selfprompt.load(f"{HUB}owner/name").classes == selfprompt.load(linear).classes
        assert len(asked) == 2

    def test_without_a_network(self):
        with pytest.raises(ValueError, match=r"^hf-hub:owner/none could not be downloaded from the Hugging Face hub: "):
            selfprompt.load(f"{HUB}owner/none")


def test_weights_that_are_fetched_are_said_before(monkeypatch):
    said: list[str] = []

    def create(*_: object, **__: object) -> None:
        assert said, "fetched without a word"
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("timm.create_model", create)
    monkeypatch.setattr("open_clip.create_model", create)
    for name in ("timm/vit_tiny_patch16_224.augreg_in21k", "open_clip/ViT-B-16/openai"):
        said.clear()
        with pytest.raises(RuntimeError, match="no network here"):
            load_backbone(name, say=said.append)
        assert said[0].startswith(f"downloading the weights of {name} from timm/vit_")
    said.clear()
    load_backbone("embedded/mae", say=said.append)
    assert not said


def test_a_link_to_elsewhere_is_read_as_data_only(linear, tmp_path):
    folder = Path(shutil.copytree(linear, tmp_path / "out"))
    (tmp_path / "secret").write_text("root:x:0")
    for name, message in ((TENSORS, "is damaged or belongs to another run"), (CONFIG, "config.json is damaged")):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret")
        with pytest.raises(ValueError, match=message) as raised:
            selfprompt.load(folder)
        assert "root:x" not in str(raised.value)
        shutil.copy(linear / name, tmp_path / "whole")
        (folder / name).unlink()
        shutil.copy(linear / name, folder / name)
    assert selfprompt.load(folder).classes
