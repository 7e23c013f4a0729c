"""Files that are written whole, and never through a link that somebody else put there."""

import os
from pathlib import Path

import pytest

from selfprompt.claims import claimed
from selfprompt.files import open_to_append, write_atomically


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
    with claimed(mine.with_name("a.lock")) as held:
        assert held
        with claimed(mine.with_name("a.lock")) as again:
            assert not again
    assert mine.read_text() == "mine"
