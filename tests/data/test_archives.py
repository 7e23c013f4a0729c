"""Published archives are unpacked; those that would write outside of the folder or fill the disk are refused."""

import os
import shutil
import stat
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from selfprompt.data.suites import archives
from selfprompt.data.suites.archives import find_path_ending, unpack
from tests.data.archives import entry, make_tar, make_zip, tar_of

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.mark.parametrize(("name", "make"), [("a.tar.gz", make_tar), ("a.tgz", make_tar), ("a.zip", make_zip)])
def test_archives_are_unpacked(tmp_path: Path, name: str, make: Callable[[dict[str, bytes]], bytes]) -> None:
    (tmp_path / name).write_bytes(make({"./x/images/a.jpg": b"a", "x/read me.txt": b"b", "x/caf\xe9.txt": CONTENT}))
    seen: list[tuple[int, int]] = []
    unpack(tmp_path / name, tmp_path / "out", lambda *at: seen.append(at))
    assert (tmp_path / "out/x/images/a.jpg").read_bytes() == b"a"
    assert (tmp_path / "out/x/caf\xe9.txt").read_bytes() == CONTENT
    assert len(seen) == 3
    assert find_path_ending(tmp_path / "out", "images") == tmp_path / "out/x/images"
    assert find_path_ending(tmp_path / "out", "images/a.jpg") == tmp_path / "out/x/images/a.jpg"
    assert find_path_ending(tmp_path / "out", "mages") is None


def test_compression_of_a_tar_is_detected_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(make_tar({"a.jpg": b"a"}, mode="w"))  # as ImageNetV2 has it
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    (tmp_path / "b.tar").write_bytes(make_tar({"a.jpg": b"a"}))
    unpack(tmp_path / "b.tar", tmp_path / "other")
    assert (tmp_path / "out/a.jpg").read_bytes() == (tmp_path / "other/a.jpg").read_bytes() == b"a"


def test_no_filter_of_the_standard_library_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in dir(tarfile) if name.endswith("_filter")]:  # Python 3.11.2 has none
        monkeypatch.delattr(tarfile, name)
    test_archives_are_unpacked(tmp_path, "a.tar.gz", make_tar)


def test_permissions_and_owners_are_not_restored(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([(entry("run", mode=0o6777), b"x"), (entry("none", mode=0), b"x")]))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    for name in ("run", "none"):
        mode = (tmp_path / "out" / name).stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
        assert mode & stat.S_IRUSR


@pytest.mark.parametrize(("name", "make"), [("a.tar", make_tar), ("a.zip", make_zip)])
def test_of_two_members_with_one_name_the_later_wins(tmp_path: Path, name: str, make: Callable[..., bytes]) -> None:
    with warnings.catch_warnings(action="ignore"):
        (tmp_path / name).write_bytes(make([("a.jpg", b"first"), ("a.jpg", b"last")]))
    unpack(tmp_path / name, tmp_path / "out")
    assert (tmp_path / "out/a.jpg").read_bytes() == b"last"


def through_a_link(kind: bytes) -> bytes:
    """Return a link, then a file of its name: writing through the link would change its target."""
    return tar_of([(entry("x", kind, "../evil"), b""), (entry("x"), b"changed")])


def nested_links() -> bytes:
    """CVE-2025-4517: a chain of links longer than any valid path hides its target."""
    long, steps = "d" * 200, "abcdefghijklmnop"
    members, at = [], ""
    for step in steps:
        members += [(entry(f"{at}{long}", tarfile.DIRTYPE), b""), (entry(f"{at}{step}", tarfile.SYMTYPE, long), b"")]
        at += f"{long}/"
    chain = "/".join(steps) + "/" + "l" * 254
    members += [(entry(chain, tarfile.SYMTYPE, "../" * len(steps)), b"")]
    members += [(entry("escape", tarfile.SYMTYPE, f"{chain}/../evil"), b""), (entry("escape"), b"changed")]
    return tar_of(members)


def cheap_giant() -> bytes:
    """Return a tar whose only member claims to be larger than any disk; its content is missing."""
    info = entry("x")
    info.size = 1 << 50
    return info.tobuf(tarfile.GNU_FORMAT)


def giant_header() -> bytes:
    """Return a tar whose first header claims gigabytes of attributes."""
    info = entry("x", tarfile.XHDTYPE)
    info.size = 1 << 32
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)


def headers_of_headers() -> bytes:
    """Return a tar of nested headers, each for the next one."""
    info = entry("x", tarfile.GNUTYPE_LONGNAME)
    info.size = 1
    return (info.tobuf(tarfile.GNU_FORMAT) + b"x" + bytes(511)) * 3000


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "parent": ("a.tar.gz", make_tar({"../evil": b"x"}), "points outside"),
    "parent-later": ("a.tar.gz", make_tar({"x/../../evil": b"x"}), "points outside"),
    "parent-inside": ("a.tar.gz", make_tar({"x/../evil": b"x"}), "points outside"),
    "parent-backslash": ("a.tar.gz", make_tar({"..\\evil": b"x"}), "points outside"),
    "absolute": ("a.tar.gz", make_tar({"/evil": b"x"}), "points outside"),
    "absolute-folder": ("a.tar.gz", tar_of([(entry("/evil", tarfile.DIRTYPE), b"")]), "points outside"),
    "drive": ("a.tar", make_tar({"C:\\evil": b"x"}), "points outside"),
    "drive-later": ("a.tar", make_tar({"x/c:evil": b"x"}), "points outside"),
    "link": ("a.tar.gz", tar_of([(entry("x", LINK, "../../evil"), b"")]), "is a link"),
    "link-inside": ("a.tar.gz", tar_of([(entry("y"), b""), (entry("x", LINK, "y"), b"")]), "is a link"),
    "link-absolute": ("a.tar.gz", tar_of([(entry("x", LINK, "/etc/passwd"), b"")]), "is a link"),
    "hard-link": ("a.tar.gz", tar_of([(entry("x", HARD, "../evil"), b"")]), "is a link"),
    "through-link": ("a.tar", through_a_link(LINK), "is a link"),
    "through-hard-link": ("a.tar", through_a_link(HARD), "is a link"),
    "nested-links": ("a.tar.gz", nested_links(), "is a link"),
    "device": ("a.tar.gz", tar_of([(entry("x", tarfile.CHRTYPE), b"")]), "neither a file nor a folder"),
    "pipe": ("a.tar.gz", tar_of([(entry("x", tarfile.FIFOTYPE), b"")]), "neither a file nor a folder"),
    "unknown-kind": ("a.tar.gz", tar_of([(entry("x", b"Q"), b"")]), "neither a file nor a folder"),
    "no-name": ("a.tar.gz", make_tar({"": b"x"}), "without a name"),
    "dot": ("a.tar.gz", make_tar({".": b"x"}), "without a name"),
    "escape": ("a.tar.gz", make_tar({"a\x1b[2Jb": b"x"}), r"'a\\x1b\[2Jb' has control characters"),
    "line-break": ("a.tar.gz", make_tar({"a\nb": b"x"}), "has control characters"),
    "long-name": ("a.tar.gz", make_tar({"x" * 300: b"x"}), "too long a name"),
    "many-folders": ("a.tar.gz", make_tar({"x/" * 900 + "y": b"x"}), "too long a name"),
    "file-as-folder": ("a.tar.gz", make_tar({"x": b"x", "x/y": b"y"}), "collides with another"),
    "folder-as-file": ("a.tar.gz", make_tar({"x/y": b"x", "x": b"y"}), "collides with another"),
    "giant": ("a.tar", cheap_giant(), "grow to more than"),
    "giant-header": ("a.tar", giant_header(), "headers would take 4,294,967,296 bytes"),
    "headers": ("a.tar", headers_of_headers(), ""),
    "zip-parent": ("a.zip", make_zip({"../evil": b"x"}), "points outside"),
    "zip-parent-later": ("a.zip", make_zip({"x/../../evil": b"x"}), "points outside"),
    "zip-parent-backslash": ("a.zip", make_zip({"x\\..\\..\\evil": b"x"}), "points outside"),
    "zip-absolute": ("a.zip", make_zip({"/evil": b"x"}), "points outside"),
    "zip-drive": ("a.zip", make_zip({"C:/evil": b"x"}), "points outside"),
    "zip-link": ("a.zip", make_zip({"x": b"../evil"}, 0o120777), "is a link"),
    "zip-device": ("a.zip", make_zip({"x": b""}, 0o020777), "neither a file nor a folder"),
    "zip-no-name": ("a.zip", make_zip({"": b"x"}), "without a name"),
    "zip-slash": ("a.zip", make_zip({"/": b""}), "points outside"),
    "zip-null": ("a.zip", make_zip({"a.jpg\0.exe": b"x"}), "has control characters"),
    "zip-encrypted": ("a.zip", make_zip({"a.jpg": b"x"}, flags=1), "is encrypted"),
    "zip-many-folders": ("a.zip", make_zip({"x/" * 900 + "y": b"x"}), "too long a name"),
    "no-zip": ("a.zip", b"PK no zip", "not a zip"),
    "empty-zip": ("a.zip", b"", "not a zip"),
    "zip-cut-short": ("a.zip", make_zip({"x": CONTENT})[:-500], "not a zip"),
    "zip-damaged": ("a.zip", make_zip({"x": CONTENT}).replace(make_zip({"x": CONTENT})[60:90], bytes(30)), ""),
    "no-gzip": ("a.tar.gz", b"\x1f\x8b no gzip", ""),
    "no-tar": ("a.tar", b"no tar", ""),
    "cut-short": ("a.tar.gz", make_tar({"x": CONTENT})[:-500], ""),
    "damaged": ("a.tar.gz", (lambda whole: whole[:600] + bytes(600) + whole[1200:])(make_tar({"x": CONTENT})), ""),
    "unknown-ending": ("a.rar", b"", r"must end in \.zip"),
}


# Named: an archive's bytes hold the time it was made, and two workers must collect the same tests.
@pytest.mark.parametrize("case", HOSTILE)
def test_unsafe_and_broken_archives_are_refused(tmp_path: Path, case: str) -> None:
    name, content, reason = HOSTILE[case]
    inside, evil = tmp_path / "inside", tmp_path / "evil"
    inside.mkdir()
    evil.write_text("untouched")
    (inside / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"{name} cannot be unpacked: .*{reason}"):
        unpack(inside / name, inside / "out")
    assert evil.read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["evil", "inside"]
    assert os.listdir(inside) == [name]


@pytest.mark.parametrize(("name", "make"), [("a.tar.gz", make_tar), ("a.zip", make_zip)])
def test_an_archive_that_expands_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[dict[str, bytes]], bytes]
) -> None:
    monkeypatch.setattr(archives, "GROWTH_ALLOWANCE", 1 << 22)
    (tmp_path / name).write_bytes(make({f"{number}.bin": bytes(1 << 20) for number in range(8)}))
    with pytest.raises(RuntimeError, match=rf"{name} cannot be unpacked: it would grow to more than 30 times its size"):
        unpack(tmp_path / name, tmp_path / "out")
    assert os.listdir(tmp_path) == [name]


def test_files_without_content_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "GROWTH_ALLOWANCE", 1 << 18)
    (tmp_path / "a.tar.gz").write_bytes(make_tar({f"{number}": b"" for number in range(2000)}))
    with pytest.raises(RuntimeError, match="it would grow to more than 30 times its size"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 19))
    (tmp_path / "a.zip").write_bytes(make_zip({"x": CONTENT}))
    with pytest.raises(RuntimeError, match=r"there is not enough disk space.*Free disk space"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
