"""The documentation is true: its Python examples run, its links and options exist."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfprompt.methods import list_methods
from selfprompt.recipes.recipe import AUTO, recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the pages speak of: two classes of 6 images that differ in brightness."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(level - 30, level + 30, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_python_page(photos: Path) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False, optionflags=flags)
    assert result.attempted > 20
    assert result.failed == 0


def test_api_docstring() -> None:
    from selfprompt.methods import registry

    result = doctest.testmod(registry)
    assert result.attempted
    assert result.failed == 0


def test_every_method_and_recipe_is_on_the_page_of_methods() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    assert not [name for name in (*list_methods(), *recipe_names()) if f"`{name}`" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} names {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_recipes_exist(page: Path) -> None:
    from perf import command as perf
    from selfprompt.cli.main import COMMANDS, MODULES
    from selfprompt.cli.parsing import Parser

    known = {
        "--help",
        "--method",
        "--torch-backend",
        "--index-url",
        "--no-header",
        "--no-annotate",
        "--python-version",
        "--extra",
        "--data-binary",
        "--no-deps",
        "--bind",
        "--directory",
    }
    for file in (*(ROOT / "experiments").glob("*.py"), *(ROOT / "pretraining").glob("*.py")):
        known |= set(re.findall(r'"(--[a-z-]+)"', file.read_text(encoding="utf-8")))
    names = [MODULES.get(name, name) for name in (*COMMANDS, "data_check", "data_get") if name != "data"]
    for command in (*(import_module(f"selfprompt.cli.{name}") for name in names), perf):
        parser = Parser(exit_on_error=False)
        command.add_arguments(parser, [])
        known |= {option.partition(".")[0] for action in parser._actions for option in action.option_strings}
    text = page.read_text()
    for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        assert option in known or option.replace("-", "_").replace("__", "--", 1) in known, f"{page.name}: {option}"
    for name in re.findall(r"--method ([a-z][\w-]*)\b(?![.:_])", text):
        if name not in ("NAME", "RECIPE", "my"):
            assert name in [AUTO, *recipe_names()], f"{page.name}: --method {name}"


FOLDERS = [path for path in (*(ROOT / "src" / "selfprompt").iterdir(), *ROOT.iterdir()) if path.is_dir()]
"""Packages of the library and folders of the repository: where the paths that pages name in backticks begin."""


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    for name in re.findall(r"`([a-z_]+/[\w./*-]*)`", page.read_text(encoding="utf-8")):
        folders = [folder.parent for folder in FOLDERS if folder.name == name.partition("/")[0]]
        assert not folders or any(any(folder.glob(name.rstrip("/"))) for folder in folders), f"{page.name} names {name}"


def test_the_house_has_these_modules() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)/` \| (.*?) \|", text, re.MULTILINE)
    assert len(rows) > 12
    for package, modules in rows:
        named = set(re.findall(r"`(\w+)`", modules))
        there = {path.stem for path in (ROOT / "src" / "selfprompt" / package).glob("*.py")}
        assert named <= there, f"{package}: {named - there}"
        if not re.search(r"and a (file|module)", modules):  # of others the row names only those that are shared
            assert there <= named | {"__init__", "__main__"}, f"{package}: {there - named}"
