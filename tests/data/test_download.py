"""Fetching: broken connections, checksums, archives that would write elsewhere, `selfprompt data get`."""

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from selfprompt.cli import data_get
from selfprompt.data.download import download, find_ending, unpack
from selfprompt.data.suites import load_task, obtain, origins
from selfprompt.data.suites.origins import Download, Origin
from tests.data.roots import draw_split, image_bytes
from tests.data.server import Files, serve

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def files() -> Iterator[Files]:
    with serve() as running:
        running.content["/a.bin"] = CONTENT
        yield running


# --- fetching ---


def test_a_broken_connection_goes_on_where_it_was(files: Files, tmp_path: Path) -> None:
    files.breaks = [100_000, 300_000]
    seen: list[tuple[int, int]] = []
    download(f"{files.url}/a.bin", tmp_path / "new/a.bin", checksum=MD5, wait=0, progress=lambda *at: seen.append(at))
    assert (tmp_path / "new/a.bin").read_bytes() == CONTENT
    assert files.seen == ["", "bytes=100000-", "bytes=400000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert os.listdir(tmp_path / "new") == ["a.bin"]


def test_an_interrupted_command_goes_on_when_repeated(files: Files, tmp_path: Path) -> None:
    files.breaks = [1000, 0]
    with pytest.raises(RuntimeError, match=r"the connection broke\. What has come is kept; repeat the command"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", wait=0, attempts=1)
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").stat().st_size == 1000
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    assert files.seen[-1] == "bytes=1000-"


def test_all_had_come_before_the_interruption(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_of_another_file_is_started_anew(files: Files, tmp_path: Path) -> None:
    files.breaks = [1000, 0]
    with pytest.raises(RuntimeError, match="the connection broke"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", attempts=1, wait=0)
    files.content["/a.bin"] = b"newer"  # the server tells by its tag
    download(f"{files.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"newer"
    (tmp_path / "b.bin.part").write_bytes(b"longer than newer")
    files.content["/b.bin"] = b"newer"
    download(f"{files.url}/b.bin", tmp_path / "b.bin", wait=0)
    assert (tmp_path / "b.bin").read_bytes() == b"newer"


def test_a_server_without_ranges(files: Files, tmp_path: Path) -> None:
    files.ranges, files.breaks = False, [1000]
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5, wait=0)
    assert files.seen == ["", "bytes=1000-"]


def test_refusals(files: Files, tmp_path: Path) -> None:
    files.statuses = [503, 503]
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5, wait=0)
    files.statuses = [503] * 3
    with pytest.raises(RuntimeError, match=r"a\.bin cannot be fetched: 503"):
        download(f"{files.url}/a.bin", tmp_path / "b.bin", attempts=3, wait=0)
    with pytest.raises(RuntimeError, match=r"none\.bin cannot be fetched: 404 Not Found\."):
        download(f"{files.url}/none.bin", tmp_path / "c.bin", wait=0)
    assert len(files.seen) == 7  # a 404 is final
    files.kind = "text/html; charset=utf-8"
    with pytest.raises(RuntimeError, match="answered with a web page instead of the file"):
        download(f"{files.url}/a.bin", tmp_path / "d.bin", wait=0)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".part") == ["a.bin"]


def test_nobody_listens(tmp_path: Path) -> None:
    with serve() as gone:
        pass
    with pytest.raises(RuntimeError, match=r"cannot be fetched: .*refused"):
        download(f"{gone.url}/a.bin", tmp_path / "a.bin", attempts=2, wait=0)


def test_another_file_than_published_is_deleted(files: Files, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(RuntimeError, match=rf"its sha256 is {hashlib.sha256(CONTENT).hexdigest()}, not 0000.*deleted"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=wrong)
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size > 100]


def test_what_exists_is_left_as_it_is(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(FileExistsError, match="is left as it is"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_text() == "mine"


def test_two_processes_do_not_write_one_file(files: Files, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "a.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="Another process is fetching"):
            download(f"{files.url}/a.bin", tmp_path / "a.bin")


# --- archives ---


def make_tar(members: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_zip(members: dict[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, content)
    return buffer.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return change


@pytest.mark.parametrize(("name", "make"), [("a.tar.gz", make_tar), ("a.tgz", make_tar), ("a.zip", make_zip)])
def test_archives_are_unpacked(tmp_path: Path, name: str, make: Callable[[dict[str, bytes]], bytes]) -> None:
    (tmp_path / name).write_bytes(make({"x/images/a.jpg": b"a", "x/read me.txt": b"b"}))
    seen: list[tuple[int, int]] = []
    unpack(tmp_path / name, tmp_path / "out", lambda *at: seen.append(at))
    assert (tmp_path / "out/x/images/a.jpg").read_bytes() == b"a"
    assert seen
    assert find_ending(tmp_path / "out", "images") == tmp_path / "out/x/images"
    assert find_ending(tmp_path / "out", "images/a.jpg") == tmp_path / "out/x/images/a.jpg"
    assert find_ending(tmp_path / "out", "mages") is None


BROKEN: dict[str, tuple[str, bytes]] = {
    "parent": ("a.tar.gz", make_tar({"../evil": b"x"})),
    "parent-later": ("a.tar.gz", make_tar({"x/../../evil": b"x"})),
    "link": ("a.tar.gz", make_tar({"x": b""}, link("../../evil"))),
    "link-absolute": ("a.tar.gz", make_tar({"x": b""}, link("/etc/passwd"))),
    "hard-link": ("a.tar.gz", make_tar({"x": b""}, link("../evil", tarfile.LNKTYPE))),
    "device": ("a.tar.gz", make_tar({"x": b""}, link("", tarfile.CHRTYPE))),
    "zip-parent": ("a.zip", make_zip({"../evil": b"x"})),
    "zip-parent-later": ("a.zip", make_zip({"x/../../evil": b"x"})),
    "zip-absolute": ("a.zip", make_zip({"/evil": b"x"})),
    "zip-drive": ("a.zip", make_zip({"C:/evil": b"x"})),
    "zip-link": ("a.zip", make_zip({"x": b"../evil"}, 0o120777)),
    "no-zip": ("a.zip", b"PK no zip"),
    "no-gzip": ("a.tar.gz", b"\x1f\x8b no gzip"),
    "cut-short": ("a.tar.gz", make_tar({"x": CONTENT})[:-500]),
    "unknown-ending": ("a.rar", b""),
}


# Named: an archive's bytes hold the time it was made, and two workers must collect the same tests.
@pytest.mark.parametrize(("name", "content"), BROKEN.values(), ids=BROKEN)
def test_unsafe_and_broken_archives_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / name).write_bytes(content)
    with pytest.raises(RuntimeError, match=rf"{name} cannot be unpacked: "):
        unpack(inside / name, inside / "out")
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(inside) == [name]


def test_absolute_paths_of_tars_land_inside_or_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "evil"
    (tmp_path / "a.tar.gz").write_bytes(make_tar({str(outside): b"x"}))
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")  # the data filter takes the leading slash away
    assert not outside.exists()


# --- selfprompt data get ---


def get(name: str, root: Path) -> int:
    parser = ArgumentParser(exit_on_error=False)
    given = [name, "--root", str(root)]
    data_get.add_arguments(parser, given)
    return data_get.get(parser.parse_args(given))


@pytest.fixture
def pets(files: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A server that holds a small oxford_pets."""
    split = draw_split(["a", "b"], (2, 1, 1))
    paths = [path for entries in split.values() for path, _, _ in entries]
    images = make_tar({f"images/{path}": image_bytes() for path in paths} | {"annotations/list.txt": b"not wanted"})
    text = json.dumps(split).encode()
    files.content |= {"/images.tar.gz": images, "/split.json": text}
    downloads = (
        Download(f"{files.url}/images.tar.gz", ("images",), f"md5:{hashlib.md5(images).hexdigest()}", "images.tar.gz"),
        Download(
            f"{files.url}/split.json", ("split_zhou_OxfordPets.json",), f"sha256:{hashlib.sha256(text).hexdigest()}"
        ),
    )
    monkeypatch.setitem(origins.ORIGINS, "coop/oxford_pets", Origin("here", "free", downloads))
    return files


def test_get_lays_a_data_set_out_as_its_reader_wants_it(
    pets: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    assert get("oxford_pets", root) == 0
    assert sorted(os.listdir(root)) == ["oxford_pets"]
    assert sorted(os.listdir(root / "oxford_pets")) == ["images", "split_zhou_OxfordPets.json"]
    assert len(load_task("coop/oxford_pets", root).dataset.train) == 4
    said = capsys.readouterr().out
    assert "coop/oxford_pets is from here; terms: free." in said
    assert "coop/oxford_pets: differs" in said

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    asked = len(pets.seen)
    assert get("coop/oxford_pets", root) == 0
    assert "All that can be fetched is in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(pets.seen) == asked


def test_get_adds_what_is_missing_and_leaves_the_rest(pets: Files, tmp_path: Path) -> None:
    own = tmp_path / "OxfordPets/images/0/train-0.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert get("oxford_pets", tmp_path) == 1  # the images that are there are not all that the split lists
    assert own.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path / "OxfordPets")) == ["images", "split_zhou_OxfordPets.json"]
    assert len(pets.seen) == 1
    assert os.listdir(tmp_path) == ["OxfordPets"]


def test_get_leaves_nothing_half_done(pets: Files, tmp_path: Path) -> None:
    whole = pets.content["/images.tar.gz"]
    pets.content["/images.tar.gz"] = whole[:-1] + b"x"
    with pytest.raises(RuntimeError, match=r"images\.tar\.gz is not the published file"):
        get("oxford_pets", tmp_path)
    assert os.listdir(tmp_path) == [obtain.WORK]
    pets.content["/images.tar.gz"] = whole
    pets.statuses = [403]
    with pytest.raises(RuntimeError, match="403"):
        get("oxford_pets", tmp_path)
    assert get("oxford_pets", tmp_path) == 0
    assert os.listdir(tmp_path) == ["oxford_pets"]


def test_an_archive_in_an_archive(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = make_tar({"101_ObjectCategories/accordion/a.jpg": image_bytes()})
    files.content["/c.zip"] = make_zip({"caltech-101/101.tar.gz": inner, "__MACOSX/101_ObjectCategories": b""})
    item = Download(f"{files.url}/c.zip", ("101_ObjectCategories",), archive="c.zip", inner="101.tar.gz")
    monkeypatch.setitem(origins.ORIGINS, "coop/caltech101", Origin("here", "free", (item,), "Add the split."))
    assert get("caltech101", tmp_path) == 1  # still without its split
    assert (tmp_path / "caltech-101/101_ObjectCategories/accordion/a.jpg").is_file()
    files.content["/c.zip"] = make_zip({"other.tar.gz": inner})
    with pytest.raises(RuntimeError, match=r"c\.zip from .* holds no 101\.tar\.gz: get the data set from its home"):
        get("caltech101", tmp_path / "elsewhere")


def test_what_only_a_person_can_get(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get("nabirds", tmp_path / "data") == 1
    assert "By hand, in" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match=r"Unknown data set 'oxford_pet'\. Did you mean oxford_pets"):
        get("oxford_pet", tmp_path)


def test_every_name_of_the_table_resolves() -> None:
    for key in origins.ORIGINS:
        assert obtain.resolve(key)[0] == key
    assert obtain.resolve("stanford_cars")[0] == "coop/stanford_cars"
    assert obtain.resolve("cub")[0] == "fgvc/cub"
    assert obtain.resolve("vtab/kitti") == obtain.resolve("vtab")
    addresses = [item.url for origin in origins.ORIGINS.values() for item in origin.downloads]
    assert all(address.startswith(("https://", "http://")) for address in addresses)
