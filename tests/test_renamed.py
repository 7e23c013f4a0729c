"""Options that were renamed: what was written under the former names still works, and says once what changed."""

import json
import logging

import pytest
import torch

import selfprompt
from selfprompt.benchmarks.protocols import make_cell
from selfprompt.benchmarks.rows import parse_row
from selfprompt.data.dataset import Dataset
from selfprompt.inference.artifact import CONFIG
from selfprompt.inference.classifier import Classifier
from selfprompt.methods.registry import build_method, find_method, make_options
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.recipes import renamed
from selfprompt.recipes.recipe import load_recipe
from selfprompt.recipes.renamed import RENAMED, with_former_names, with_present_names
from selfprompt.training.identity import run_identity

NAMES = ["cat", "dog"]
FORMER = {
    "coop": {"words": "a photo", "position": "front"},
    "kgcoop": {"words": "a photo", "position": "middle"},
    "sep": {"words": "a photo", "text_prompts": 2},
    "spt": {"authors": True, "prompts": 2},
}
BACKBONES = {"spt": "embedded/mae"}


@pytest.fixture(autouse=True)
def _nothing_logged_before(caplog: pytest.LogCaptureFixture) -> None:
    renamed._log_once.cache_clear()
    caplog.set_level(logging.WARNING, renamed.logger.name)


def lines(method: str) -> list[str]:
    present = RENAMED[method]
    return sorted(
        f"The option {name!r} of {method} is now called {present[name]!r}."
        for name in FORMER[method]
        if name in present
    )


@pytest.mark.parametrize("method", RENAMED)
def test_present_names_are_options_and_former_ones_are_not(method):
    assert set(RENAMED[method].values()) <= set(find_method(method).Options.__dataclass_fields__)
    assert not set(RENAMED[method]) & set(find_method(method).Options.__dataclass_fields__)


@pytest.mark.parametrize("method", FORMER)
def test_an_old_recipe_file_is_read(method, tmp_path, caplog):
    path = tmp_path / "old.yaml"
    path.write_text(f"method: {method}\noptions: {json.dumps(FORMER[method])}\n")
    recipe = load_recipe(str(path))
    assert recipe.options.items() >= with_present_names(method, FORMER[method]).items()
    assert not set(recipe.options) & set(RENAMED[method])
    make_options(find_method(method), recipe.options)
    assert sorted(caplog.messages) == lines(method)


@pytest.mark.parametrize("method", FORMER)
def test_an_old_artifact_is_loaded(method, tmp_path, caplog):
    backbone = load_backbone(BACKBONES.get(method, "embedded/clip"))
    before = Classifier(build_method(method, backbone, NAMES, **FORMER[method]), backbone.preprocess)
    before.save(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert not set(config["options"]) & set(RENAMED[method])
    config["options"] = with_former_names(method, config["options"])  # as version 0.1.0 wrote it
    assert set(config["options"]) & set(RENAMED[method])
    (tmp_path / CONFIG).write_text(json.dumps(config))
    renamed._log_once.cache_clear()
    caplog.clear()
    after = selfprompt.load(tmp_path)
    assert after.method.options == before.method.options
    pictures = torch.linspace(-2, 2, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    assert torch.equal(after.logits(pictures), before.logits(pictures))
    assert set(lines(method)) <= set(caplog.messages)
    assert len(set(caplog.messages)) == len(caplog.messages)


@pytest.mark.parametrize("method", ["coop", "spt-authors"])
def test_former_names_are_taken_from_python(method, caplog):
    name = load_recipe(method).method
    backbone = load_backbone(BACKBONES.get(name, "embedded/clip"))
    former, present = FORMER[name], with_present_names(name, FORMER[name])
    assert (
        build_method(method, backbone, NAMES, **former).options
        == build_method(method, backbone, NAMES, **present).options
    )
    assert sorted(caplog.messages) == lines(name)


def test_both_names_at_once_are_refused():
    with pytest.raises(ValueError, match="coop has the option 'words' under its present name, 'init_text', too"):
        build_method("coop", load_backbone("embedded/clip"), NAMES, words="a", init_text="b")


@pytest.mark.parametrize(
    ("former", "present", "identifier"),
    [
        ("coop", "coop", "d120cc05f2fd3ef6"),
        (
            "coop[options.words=]",
            "coop[options.init_text=]",
            "20031a7cdd0e9a09",
        ),
        (
            "coop[options.words='a, b',options.position=middle]",
            "coop[options.init_text='a, b',options.class_token_position=middle]",
            "665487d5cba77c05",
        ),
        ("spt-authors", "spt-authors", "0ef8207ac93bb986"),
        (
            "spt-deep[options.authors=true]",
            "spt-deep[options.released=true]",
            "70069d9a2e38b01e",
        ),
    ],
)
def test_cells_keep_their_ids(former, present, identifier):
    """The ids (their first 16 digits) are those of version 0.1.0, whose options had the former names."""
    cells = [make_cell("few-shot", "embedded", "animals", parse_row(row), 1, 16, {}) for row in (former, present)]
    assert [cell.id[:16] for cell in cells] == [identifier] * 2


def test_checkpoints_of_old_runs_are_resumed():
    """A checkpoint says which run it belongs to, options included."""
    recipe = load_recipe("spt-authors")
    method = build_method("spt-authors", load_backbone("embedded/mae"), NAMES)
    options = run_identity(method, Dataset("", tuple(NAMES), (), (), ()), recipe)["options"]
    assert options["authors"] is True
    assert "released" not in options
