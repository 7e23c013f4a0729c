"""Downloads: broken connections, checksums, unsafe URLs, `selfprompt data get`."""

import hashlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from selfprompt.cli import data_get
from selfprompt.data.suites import fetch, load_task, sources
from selfprompt.data.suites.download import download
from selfprompt.data.suites.sources import DatasetSource, Download
from tests.data.archives import make_tar, make_zip
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


def test_a_download_resumes_after_a_broken_connection(files: Files, tmp_path: Path) -> None:
    files.breaks = [100_000, 300_000]
    seen: list[tuple[int, int]] = []
    download(f"{files.url}/a.bin", tmp_path / "new/a.bin", checksum=MD5, wait=0, progress=lambda *at: seen.append(at))
    assert (tmp_path / "new/a.bin").read_bytes() == CONTENT
    assert files.seen == ["", "bytes=100000-", "bytes=400000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert os.listdir(tmp_path / "new") == ["a.bin"]


def test_an_interrupted_command_resumes_when_repeated(files: Files, tmp_path: Path) -> None:
    files.breaks = [1000, 0]
    with pytest.raises(RuntimeError, match=r"the connection broke\. The part received is kept; repeat the command"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", wait=0, attempts=1)
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "a.bin.part").stat().st_size == 1000
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    assert files.seen[-1] == "bytes=1000-"


def test_a_complete_part_is_not_fetched_again(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_of_another_file_is_discarded(files: Files, tmp_path: Path) -> None:
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


def test_error_responses(files: Files, tmp_path: Path) -> None:
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


def test_a_refused_connection_is_reported(tmp_path: Path) -> None:
    with serve() as gone:
        pass
    with pytest.raises(RuntimeError, match=r"cannot be fetched: .*refused"):
        download(f"{gone.url}/a.bin", tmp_path / "a.bin", attempts=2, wait=0)


def test_a_file_with_another_checksum_is_deleted(files: Files, tmp_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    with pytest.raises(RuntimeError, match=rf"its sha256 is {hashlib.sha256(CONTENT).hexdigest()}, not 0000.*deleted"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=wrong)
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size > 100]


def test_existing_files_are_kept(files: Files, tmp_path: Path) -> None:
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


def test_a_planted_link_is_not_written_through(files: Files, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "a.bin.part").symlink_to(mine)
    (tmp_path / ".a.bin.part.tag.part").symlink_to(mine)
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    os.link(mine, tmp_path / "b.bin.part")
    files.content["/b.bin"] = CONTENT
    download(f"{files.url}/b.bin", tmp_path / "b.bin", checksum=MD5)
    assert mine.read_text() == "mine"
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes() == CONTENT
    assert not (tmp_path / "a.bin").is_symlink()


def test_the_id_of_a_git_blob_is_a_checksum(files: Files, tmp_path: Path) -> None:
    files.content["/a.bin"] = b"hello\n"
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum="git:ce013625030ba8dba906f756967f9e9ca394464a")
    with pytest.raises(RuntimeError, match="is not the published file: its git is ce01362"):
        download(f"{files.url}/a.bin", tmp_path / "b.bin", checksum="git:" + "0" * 40)


def test_a_changed_part_is_detected(files: Files, tmp_path: Path) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"other" * 100)
    with pytest.raises(RuntimeError, match="is not the published file"):
        download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
    download(f"{files.url}/a.bin", tmp_path / "a.bin", checksum=MD5)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.bin", "file:///etc/hostname"])
def test_redirects_to_other_schemes_are_not_followed(files: Files, tmp_path: Path, target: str) -> None:
    files.moved["/moved.bin"] = f"{files.url}/a.bin"
    download(f"{files.url}/moved.bin", tmp_path / "a.bin", checksum=MD5)
    files.moved["/moved.bin"] = target
    with pytest.raises(RuntimeError, match=r"moved\.bin cannot be fetched"):
        download(f"{files.url}/moved.bin", tmp_path / "b.bin", attempts=1, wait=0)
    assert not (tmp_path / "b.bin").exists()


def test_redirects_from_https_to_http_are_not_followed(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serve(context) as secure:
        assert secure.url.startswith("https:")
        secure.content["/a.bin"] = CONTENT
        download(f"{secure.url}/a.bin", tmp_path / "a.bin", checksum=MD5)
        secure.moved["/b.bin"] = f"{files.url}/a.bin"
        with pytest.raises(
            RuntimeError, match=r"b\.bin cannot be fetched: it redirects to http://.*not safe to follow"
        ):
            download(f"{secure.url}/b.bin", tmp_path / "b.bin", checksum=MD5)


# --- selfprompt data get ---


def get(name: str, root: Path) -> int:
    parser = ArgumentParser(exit_on_error=False)
    given = [name, "--root", str(root)]
    data_get.add_arguments(parser, given)
    return data_get.get(parser.parse_args(given))


@pytest.fixture
def pets(files: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Serve a small oxford_pets."""
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
    monkeypatch.setitem(sources.SOURCES, "coop/oxford_pets", DatasetSource("here", "free", downloads))
    return files


def test_get_writes_the_layout_of_the_reader(pets: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "Everything that can be downloaded is already in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(pets.seen) == asked


def test_get_adds_missing_files_and_keeps_the_rest(pets: Files, tmp_path: Path) -> None:
    own = tmp_path / "OxfordPets/images/0/train-0.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert get("oxford_pets", tmp_path) == 1  # the images that are there are not all that the split lists
    assert own.read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path / "OxfordPets")) == ["images", "split_zhou_OxfordPets.json"]
    assert len(pets.seen) == 1
    assert os.listdir(tmp_path) == ["OxfordPets"]


def test_get_leaves_nothing_incomplete(pets: Files, tmp_path: Path) -> None:
    whole = pets.content["/images.tar.gz"]
    pets.content["/images.tar.gz"] = whole[:-1] + b"x"
    with pytest.raises(RuntimeError, match=r"images\.tar\.gz is not the published file"):
        get("oxford_pets", tmp_path)
    assert os.listdir(tmp_path) == [fetch.WORK_FOLDER]
    pets.content["/images.tar.gz"] = whole
    pets.statuses = [403]
    with pytest.raises(RuntimeError, match="403"):
        get("oxford_pets", tmp_path)
    assert get("oxford_pets", tmp_path) == 0
    assert os.listdir(tmp_path) == ["oxford_pets"]


def test_an_archive_in_an_archive(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = make_tar({"101_ObjectCategories/accordion/a.jpg": image_bytes()})
    files.content["/c.zip"] = make_zip({"caltech-101/101.tar.gz": inner, "__MACOSX/101_ObjectCategories": b""})
    item = Download(f"{files.url}/c.zip", ("101_ObjectCategories",), archive="c.zip", inner_archive="101.tar.gz")
    monkeypatch.setitem(sources.SOURCES, "coop/caltech101", DatasetSource("here", "free", (item,), "Add the split."))
    assert get("caltech101", tmp_path) == 1  # still without its split
    assert (tmp_path / "caltech-101/101_ObjectCategories/accordion/a.jpg").is_file()
    files.content["/c.zip"] = make_zip({"other.tar.gz": inner})
    with pytest.raises(RuntimeError, match=r"c\.zip from .* holds no 101\.tar\.gz: get the data set from its home"):
        get("caltech101", tmp_path / "elsewhere")


def test_manual_steps_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get("nabirds", tmp_path / "data") == 1
    assert "Manual steps, in" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match=r"Unknown data set 'oxford_pet'\. Did you mean oxford_pets"):
        get("oxford_pet", tmp_path)


def test_every_source_resolves_by_name() -> None:
    for key in sources.SOURCES:
        assert fetch.resolve_dataset(key)[0] == key
    assert fetch.resolve_dataset("stanford_cars")[0] == "coop/stanford_cars"
    assert fetch.resolve_dataset("cub")[0] == "fgvc/cub"
    assert fetch.resolve_dataset("vtab/kitti") == fetch.resolve_dataset("vtab")


NO_CHECKSUM = {
    "classnames.txt": "on Google Drive; the reader compares its 1000 ids with the folders of images",
    "UCF-101-midframes.zip": "on Google Drive; the split file lists the images",
    "stanford_cars.zip": "on the hub at a fixed revision",
    "imagenet-sketch.zip": "on the hub at a fixed revision",
    "imagenet-adversarial.zip": "on the hub at a fixed revision",
    "imagenet-rendition.zip": "on the hub at a fixed revision",
    "vtab-1k.zip": "on the hub, without revisions",
}
"""Downloads without a published checksum, and the reason or substitute."""


def test_every_source_is_https_and_has_a_checksum() -> None:
    for source in [*sources.SOURCES.values(), sources.VTAB_SOURCE]:
        for item in source.downloads:
            assert item.url.startswith("https://")
            name = item.archive or item.keep[0]
            kind, _, digits = item.checksum.partition(":")
            assert (name in NO_CHECKSUM) == (item.checksum == ""), name
            assert len(digits) == {"": 0, "md5": 32, "sha256": 64, "git": 40}[kind], name


def test_without_a_checksum_later_downloads_must_equal_the_first(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files.content["/c.zip"] = make_zip({"images/a.jpg": image_bytes()})
    item = Download(f"{files.url}/c.zip", ("images",), archive="c.zip")
    monkeypatch.setitem(sources.SOURCES, "coop/oxford_pets", DatasetSource("here", "free", (item,)))
    get("oxford_pets", tmp_path)
    assert "No checksum is published" in capsys.readouterr().out
    digest = hashlib.sha256(files.content["/c.zip"]).hexdigest()
    assert (tmp_path / "oxford_pets" / fetch.CHECKSUM_FILE).read_text() == f"{digest}  c.zip\n"
    shutil.rmtree(tmp_path / "oxford_pets/images")
    get("oxford_pets", tmp_path)
    shutil.rmtree(tmp_path / "oxford_pets/images")
    files.content["/c.zip"] = make_zip({"images/a.jpg": b"other"})
    with pytest.raises(RuntimeError, match=rf"differs from the file downloaded before: .* not {digest}"):
        get("oxford_pets", tmp_path)
    assert not (tmp_path / "oxford_pets/images").exists()


def test_an_archive_left_by_an_earlier_call_is_verified(pets: Files, tmp_path: Path) -> None:
    left = tmp_path / fetch.WORK_FOLDER / "coop-oxford_pets/images.tar.gz"
    left.parent.mkdir(parents=True)
    left.write_bytes(make_tar({"images/0/train-0.jpg": b"not theirs"}))
    with pytest.raises(RuntimeError, match="is not the published file"):
        get("oxford_pets", tmp_path)
    assert get("oxford_pets", tmp_path) == 0
