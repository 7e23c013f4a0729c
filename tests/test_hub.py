"""Publishing classifiers on the hub and loading them, over HTTP against a local stand-in for it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import selfprompt
from selfprompt.inference.artifact import CARD, CONFIG, TENSORS
from selfprompt.models.loading.by_name import load_backbone
from tests.hub_server import HubState, hub_server

VIT = Path(__file__).parent / "golden" / "backbones" / "vit_base"
DATA = "Photos of colours, made by a test.\n\nFree to use."


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubState]:
    """A hub, and a user who is logged in and has an empty cache."""
    from huggingface_hub import constants

    with hub_server() as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{state.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # Git LFS, which the stand-in speaks
        monkeypatch.setenv("HF_TOKEN", state.token)
        yield state


def test_what_is_published_is_loaded_by_its_name(hub: HubState, linear: Path, run) -> None:
    said = run("push", linear, "me/colours", "--license", "cc-by-4.0", "--data", DATA)
    (_, _), (commit, files) = hub.repositories["me/colours"]
    assert (said.status, said.out.strip()) == (0, f"{hub.url}/me/colours/commit/{commit}")
    assert sorted(files) == sorted([".gitattributes", CONFIG, TENSORS, CARD])
    assert files[TENSORS] == (linear / TENSORS).read_bytes()
    lines: list[str] = []
    loaded = selfprompt.load("me/colours", say=lines.append)
    assert loaded.origin == f"me/colours@{commit}"
    assert loaded.classes == selfprompt.load(linear).classes
    for name, tensor in selfprompt.load(linear).method.adapter_state_dict().items():
        assert torch.equal(loaded.method.adapter_state_dict()[name], tensor)
    assert [line.partition(" (")[0].split()[0] for line in lines] == ["downloading"]


def test_a_revision_is_pinned_in_what_is_stored(hub: HubState, linear: Path, coop: Path, tmp_path: Path) -> None:
    first = selfprompt.push(linear, "me/model", license="other", data=DATA).rpartition("/")[2]
    second = selfprompt.push(coop, "me/model", license="other", data=DATA).rpartition("/")[2]
    assert selfprompt.load("me/model").method.name == "coop"
    old = selfprompt.load(f"hf-hub:me/model@{first}")
    assert (old.method.name, old.origin) == ("linear", f"me/model@{first}")
    old.save(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / CONFIG).read_text())["origin"] == f"me/model@{first}"
    assert selfprompt.load(tmp_path / "copy").origin == f"me/model@{first}"
    assert selfprompt.load("me/model@main").origin == f"me/model@{second}"


def test_the_card_has_the_result_the_licence_and_the_data(hub: HubState, linear: Path) -> None:
    selfprompt.push(linear, "me/colours", license="apache-2.0", data=DATA)
    _, header, text = hub.repositories["me/colours"][-1][1][CARD].decode().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "selfprompt",
        "pipeline_tag": "image-classification",
        "license": "apache-2.0",
        "tags": ["few-shot", "prompt-tuning"],
    }
    tuned = json.loads((linear / "result.json").read_text(encoding="utf-8"))["tuned"]
    for said in ("# me/colours\n", f"## Data\n\n{DATA}\n", 'load("me/colours")', f"| {tuned['accuracy']:.1f} % |"):
        assert said in text


def test_paths_and_names_of_files_are_not_published(hub: HubState, linear: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(linear, tmp_path / "classifier"))
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config["recipe"]["class_names"] = "/home/anna/classes.txt"
    config["results"]["notes"].append("1 training image is a copy: anna at the sea.jpg.")
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    selfprompt.push(folder, "me/colours", license="other", data=DATA)
    files = hub.repositories["me/colours"][-1][1]
    assert b"anna" not in files[CONFIG] + files[CARD]
    assert selfprompt.load("me/colours").recipe["class_names"] is None


def test_a_backbone_in_a_file_is_pointed_out(hub: HubState, linear: Path, tmp_path: Path) -> None:
    classifier, lines = selfprompt.load(linear), list[str]()
    object.__setattr__(classifier.method.backbone, "name", "file/vit.safetensors")
    classifier.save(tmp_path / "classifier")
    selfprompt.push(tmp_path / "classifier", "me/colours", license="other", data=DATA, private=True, say=lines.append)
    assert lines == [
        "file/vit.safetensors is a file of this machine: others need it to load the classifier, with --backbone."
    ]
    assert hub.created[-1]["visibility"] == "private"
    with pytest.raises(ValueError, match="a local file or a repository, which is used only if you name it"):
        selfprompt.load("me/colours")
    assert selfprompt.load("me/colours", backbone="embedded/mae").origin.startswith("me/colours@")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"repository": "colours"}, "repository must be written owner/name, got 'colours'"),
        ({"license": "Apache 2.0"}, "license must be an identifier of the hub such as apache-2.0"),
        ({"license": "x\n- y"}, "license must be an identifier"),
        ({"data": " "}, "data must describe the training images in 1 to 20,000 letters"),
        ({"folder": "tests"}, "tests is not a saved classifier: it has no config.json"),
    ],
)
def test_wrong_arguments_publish_nothing(changes: dict[str, str], reason: str, hub: HubState, linear: Path) -> None:
    arguments = {"folder": str(linear), "repository": "me/colours", "license": "other", "data": DATA, **changes}
    with pytest.raises(ValueError, match=reason):
        selfprompt.push(**arguments)
    assert hub.requests == []


def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: HubState, linear: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    def said(repository: str) -> str:
        ran = run("push", linear, repository, "--license", "other", "--data", DATA)
        assert ran.status == 1
        return " ".join(ran.err.split())

    assert "stranger/colours could not be published" in (error := said("stranger/colours"))
    assert error.endswith("Use a token that may write there, or another owner.")
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert said("me/colours").endswith("Log in with `hf auth login`, or set HF_TOKEN to a token that may write.")
    assert "me/colours" not in hub.repositories


def test_without_a_terminal_the_questions_are_options(hub: HubState, linear: Path, run) -> None:
    ran = run("push", linear, "me/colours", "--license", "other")
    assert (ran.status, hub.requests) == (2, [])
    assert "--data is needed: what the training images are" in " ".join(ran.err.split())


def test_at_a_terminal_they_are_asked(hub: HubState, linear: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["mit", DATA])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.prompt.Prompt.ask", lambda question: next(answers))
    assert run("push", linear, "me/colours").status == 0
    assert b"license: mit" in hub.repositories["me/colours"][-1][1][CARD]


def test_names_of_nothing_are_said(
    hub: HubState, linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^me/none: there is no such folder, and hf-hub:me/none could not be") as said:
        selfprompt.load("me/none")
    assert "it has no public repository me/none; `hf auth login` shows your own" in str(said.value)
    selfprompt.push(linear, "me/colours", license="other", data=DATA)
    with pytest.raises(ValueError, match="hf-hub:me/colours@v9 could not be downloaded"):
        selfprompt.load("me/colours@v9")
    (tmp_path / "me" / "colour").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub.requests.clear()
    with pytest.raises(ValueError, match=r"Did you mean me/colour\? A repository is written hf-hub:me/colours"):
        selfprompt.load("me/colours")
    assert hub.requests == [], "a misspelt folder fetches nothing"


def test_the_revision_of_a_backbone_is_stored_and_used(hub: HubState, tmp_path: Path, photos: Path) -> None:
    files = {path.name: path.read_bytes() for path in VIT.iterdir()}
    first = hub.add("org/vit", files)
    classifier = selfprompt.tune(photos, method="ridge", backbone="hf/org/vit", calibrate="never")
    assert classifier.method.backbone.source == {"name": "hf/org/vit", "revision": first}
    classifier.save(tmp_path / "classifier")
    hub.add("org/vit", {"model.safetensors": b"something else"})
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ValueError, match="used only if you name it"):
        selfprompt.load(tmp_path / "classifier")
    again = selfprompt.load(tmp_path / "classifier", backbone="hf/org/vit")
    assert again.method.backbone.revision == first, "not the newest, which has changed"
    assert load_backbone(f"hf/org/vit@{first}").name == "hf/org/vit"
