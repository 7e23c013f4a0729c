"""Files that are written whole, and never through a link that somebody else put there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import selfprompt
from selfprompt.data.loading.image_files import open_image
from selfprompt.data.readers.read import read_dataset
from selfprompt.inference.image_paths import image_paths
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.recipes.recipe import load_recipe
from selfprompt.utils import files
from selfprompt.utils.files import open_to_append, read_text, write_atomically
from selfprompt.utils.locks import lock_file


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file that nothing else may change."""
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["a.txt", ".a.txt.part"])
def test_writing_does_not_follow_a_link(mine: Path, link, name: str) -> None:
    link(mine, mine.with_name(name))
    write_atomically(mine.with_name("a.txt"), b"new")
    assert mine.read_text() == "mine"
    assert not mine.with_name("a.txt").is_symlink()
    assert mine.with_name("a.txt").read_bytes() == b"new"
    assert sorted(os.listdir(mine.parent)) == ["a.txt", "mine.txt"]


def test_a_link_to_nothing_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.part").symlink_to(tmp_path / "made")
    write_atomically(tmp_path / "a.txt", b"new")
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_appending_does_not_follow_a_link(mine: Path, link) -> None:
    link(mine, mine.with_name("a.part"))
    for _ in range(2):
        with open_to_append(mine.with_name("a.part")) as file:
            file.write(b"new")
    assert mine.read_text() == "mine"
    assert mine.with_name("a.part").read_bytes() == b"newnew"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_appending_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.part")
    with open_to_append(tmp_path / "a.part") as file:
        file.write(b"new")
    assert (tmp_path / "a.part").read_bytes() == b"new"


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_does_not_empty_what_a_link_leads_to(mine: Path, link) -> None:
    link(mine, mine.with_name("a.lock"))
    with lock_file(mine.with_name("a.lock")) as held:
        assert held
        with lock_file(mine.with_name("a.lock")) as again:
            assert not again
    assert mine.read_text() == "mine"


def test_a_text_without_end_is_not_read_to_the_last(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "LARGEST_TEXT", 1000)
    path = tmp_path / "endless.txt"
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"endless\.txt must be .*, but it has more than 1,000 bytes"):
        read_text(path)


LONG = "x" * 5000
"""Longer than any name that a system takes."""


@pytest.mark.parametrize(
    "read",
    [
        lambda: selfprompt.load(LONG),
        lambda: load_backbone(f"file/{LONG}"),
        lambda: load_backbone(f"file/{LONG}#a"),
        lambda: load_recipe(f"{LONG}.yaml"),
        lambda: read_dataset(LONG),
        lambda: read_dataset(f"coop/{LONG}"),
        lambda: list(image_paths([LONG])),
        lambda: open_image(Path("x" * 252)),  # but not with another ending
    ],
)
def test_a_name_too_long_for_the_system_is_a_file_that_is_not_there(read: Callable[[], object]) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match="xxxx"):
        read()
