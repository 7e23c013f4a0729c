"""Images in tar and Parquet files: what is in them, what is bad in them, and that nothing in them does harm."""

import gzip
import io
import json
import os
import tarfile
from itertools import chain
from pathlib import Path

import pytest

import selfprompt
from selfprompt.data.loading import archived_images
from selfprompt.data.loading.archived_images import Columns, images_in_parquet, images_in_tar, row_ranges
from selfprompt.inference import image_groups
from selfprompt.inference.image_paths import image_paths
from tests.conftest import COLOURS, photo

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def png(seed=0, colour="blue") -> bytes:
    buffer = io.BytesIO()
    photo(COLOURS[colour], seed).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], form=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            add(tar, name, content)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes, **changes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def read(image) -> bytes | str:
    try:
        return image.read()
    except ValueError as error:
        return str(error)


class TestTar:
    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_members_are_images_as_files_in_a_folder_are(self, tmp_path, form):
        members = {
            "./cat/1.png": png(1),
            "cat/1.cls": b"3",
            "1.json": b"{}",
            "no extension": png(2),
            ".hidden.png": png(3),
            "cat/._2.png": b"a resource fork",
            "猫.jpg": b"no image",
            "empty.png": b"",
        }
        if form != tarfile.USTAR_FORMAT:
            members["x" * 300 + ".png"] = png(4)
        path = write_tar(tmp_path / "a.tar", members, form)
        found = list(images_in_tar(path))
        kept = ["cat/1.png", "no extension", "猫.jpg", "empty.png", *(name for name in members if len(name) > 300)]
        assert [image.name for image in found] == [f"{path}/{name}" for name in kept]
        assert found[0].read() == png(1)
        assert found[1].read() == png(2)
        assert all(image.held_bytes == 0 for image in found), "they are read when they are needed"

    def test_links_folders_devices_and_paths_outside_do_nothing(self, tmp_path):
        (tmp_path / "secret.png").write_bytes(png())
        path = tmp_path / "sub" / "a.tar"
        path.parent.mkdir()
        with tarfile.open(path, "w") as tar:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                add(tar, "link.png", b"", type=kind, linkname="../secret.png")
            add(tar, "../../outside.png", png(1))
            add(tar, "/absolute.png", png(2))
        found = list(images_in_tar(path))
        assert [image.name for image in found] == [f"{path}/../../outside.png", f"{path}//absolute.png"]
        assert [image.read() for image in found] == [png(1), png(2)]
        assert sorted(os.listdir(tmp_path)) == ["secret.png", "sub"]

    def test_a_member_that_is_too_large_is_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archived_images, "MAX_IMAGE_BYTES", 1000)
        path = write_tar(tmp_path / "a.tar", {"large.png": bytes(1001), "small.png": png()[:1000]})
        large, small = images_in_tar(path)
        assert read(large) == "it has 1,001 bytes, more than 1,000"
        assert small.read() == png()[:1000]

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
    def test_a_header_that_would_fill_the_memory_is_refused(self, tmp_path, kind):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            add(tar, "1.png", png())
            add(tar, "x", bytes(2 << 20), type=kind)
            add(tar, "2.png", png())
        first, rest = images_in_tar(path)
        assert first.read() == png()
        assert read(rest) == "damaged or compressed: a header of more than 1,048,576 bytes"

    def test_a_cut_or_damaged_file_gives_what_is_whole_and_one_error(self, tmp_path):
        path = write_tar(tmp_path / "a.tar", {f"{number}.png": png(number) for number in range(3)})
        whole = path.read_bytes()
        starts = [image.content.start for image in images_in_tar(path)]
        path.write_bytes(whole[: starts[2] + 10])
        found = list(images_in_tar(path))
        assert [isinstance(read(image), bytes) for image in found] == [True, True, False, False]
        assert read(found[2]) == "the tar file ends in the middle of it"
        path.write_bytes(whole[: starts[2] - 512])  # exactly before a header
        *found, error = images_in_tar(path)
        assert [image.read() for image in found] == [png(0), png(1)]
        assert "no header and no end mark" in read(error)
        path.write_bytes(whole[: starts[1] - 512] + b"garbage" * 512 + whole[starts[1] :])
        first, error = images_in_tar(path)
        assert first.read() == png(0)
        assert "no header and no end mark" in read(error)

    def test_what_is_no_tar_file_says_so(self, tmp_path):
        path = tmp_path / "a.tar"
        for content, reason in ((b"", "empty file"), (gzip.compress(bytes(10_000)), "damaged or compressed")):
            path.write_bytes(content)
            (error,) = images_in_tar(path)
            assert reason in read(error)
        write_tar(path, {"a.txt": b"x"})
        assert [read(image) for image in images_in_tar(path)] == ["the tar file has no images"]
        assert [read(image) for image in images_in_tar(tmp_path / "none.tar")] == ["No such file or directory"]


def write_parquet(path: Path, columns: dict[str, object], **options) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


class TestParquet:
    def test_bytes_and_structs_of_hugging_face_with_names(self, tmp_path):
        structs = [{"bytes": png(1), "path": "../x.png"}, {"bytes": None, "path": "/etc/passwd"}, None]
        columns = {"image": structs, "jpg": [png(2), None, b""], "id": ["a", None, "c/../d"], "n": [5, 6, 7]}
        path = write_parquet(tmp_path / "a.parquet", columns)
        assert row_ranges(path, Columns()) == [(0, 0)]
        found = list(images_in_parquet(path, (0, 0), Columns()))
        assert [image.name for image in found] == [f"{path}/{row}" for row in range(3)]
        assert [read(image) for image in found] == [png(1), "the cell is empty", "the cell is empty"]
        found = list(images_in_parquet(path, (0, 0), Columns("jpg", "id")))
        assert [image.name for image in found] == ["a", f"{path}/1", "c/../d"]
        assert [read(image) for image in found] == [png(2), "the cell is empty", b""]
        assert [image.name for image in images_in_parquet(path, (0, 0), Columns(key="n"))] == ["5", "6", "7"]

    def test_row_groups_are_put_together_to_ranges_and_keep_their_numbers(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archived_images, "ROWS", 4)
        path = write_parquet(tmp_path / "a.parquet", {"image": [bytes([n]) for n in range(11)]}, row_group_size=3)
        ranges = row_ranges(path, Columns())
        assert ranges == [(0, 1), (2, 3)]
        found = [list(images_in_parquet(path, groups, Columns())) for groups in ranges]
        assert [len(images) for images in found] == [6, 5]
        assert [image.name for image in chain(*found)] == [f"{path}/{row}" for row in range(11)]
        assert b"".join(image.read() for image in chain(*found)) == bytes(range(11))

    def test_row_groups_that_are_not_there_take_no_memory(self, tmp_path):
        path = write_parquet(tmp_path / "a.parquet", {"image": [b"x"]})
        (error,) = images_in_parquet(path, (0, 999_999_999), Columns())
        assert read(error) == "damaged: it has 1 row groups, and the list names number 999999999"

    def test_a_cell_that_is_too_large_is_unreadable(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archived_images, "MAX_IMAGE_BYTES", 10)
        path = write_parquet(tmp_path / "a.parquet", {"image": [bytes(11), b"x"]})
        assert [read(image) for image in images_in_parquet(path, (0, 0), Columns())] == [
            "it has 11 bytes, more than 10",
            b"x",
        ]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (Columns("photo"), r"a\.parquet has no column 'photo' \(--image-column\); its columns are: image, n\."),
            (Columns("image", "id"), r"a\.parquet has no column 'id' \(--key-column\)"),
            (Columns("n"), r"the column 'n' must hold the bytes of image files, .* but holds int64"),
        ],
    )
    def test_wrong_columns_are_refused_when_the_list_is_made(self, tmp_path, columns, message):
        path = write_parquet(tmp_path / "a.parquet", {"image": [b"x"], "n": [1]})
        with pytest.raises(ValueError, match=message):
            list(image_paths([str(path)], columns=columns))

    def test_damage_is_one_unreadable_image_or_refused_when_the_list_is_made(self, tmp_path):
        images = [os.urandom(1000) for _ in range(40)]
        path = write_parquet(tmp_path / "a.parquet", {"image": images}, row_group_size=20, compression="zstd")
        content = bytearray(path.read_bytes())
        content[30_000:30_200] = bytes(200)
        path.write_bytes(content)
        found = list(images_in_parquet(path, (0, 1), Columns()))
        assert 20 <= len(found) <= 41
        path.write_bytes(content[:-50])
        (error,) = images_in_parquet(path, (0, 1), Columns())
        assert "damaged: " in read(error)
        with pytest.raises(ValueError, match=r"a\.parquet cannot be read as a Parquet file"):
            list(image_paths([str(path)]))
        (tmp_path / "list").write_text(f"{tmp_path}/none.parquet\n")
        with pytest.raises(ValueError, match=r"none\.parquet: there is no such file of images"):
            list(image_paths([], str(tmp_path / "list")))


class TestLists:
    def test_patterns_stand_for_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for number in range(8, 12):
            write_tar(tmp_path / f"a-{number:03d}.tar", {"1.png": png()})
        wanted = [f"a-{number:03d}.tar" for number in range(8, 12)]
        assert list(image_paths(["a-{008..011}.tar"])) == wanted
        Path("list").write_text("a-{008..011}.tar\n")
        assert list(image_paths([], "list")) == wanted
        assert list(image_groups.expand("{0..1}/{8..10}.tar")) == [f"{a}/{b}.tar" for a in (0, 1) for b in (8, 9, 10)]
        assert list(image_groups.expand("{0..1}.png")) == ["{0..1}.png"]
        Path("b{1..2}.tar").write_bytes(b"")
        assert list(image_groups.expand("b{1..2}.tar")) == ["b{1..2}.tar"]
        for pattern in ("{5..4}.tar", "{0..9999999999}.tar", "{0..9999}{0..9999}.tar"):
            with pytest.raises(ValueError, match="must stand for 1 to 1,000,000 files"):
                list(image_groups.expand(pattern))
        with pytest.raises(ValueError, match=r"a-012\.tar: there is no such file"):
            list(image_paths(["a-{011..012}.tar"]))

    def test_a_batch_holds_few_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(image_groups, "MAX_HELD_BYTES", 1000)
        path = write_parquet(tmp_path / "a.parquet", {"image": [bytes(400)] * 7})
        (entry,) = image_paths([str(path)])
        groups = [len(list(group)) for group in image_groups.image_groups([entry], Columns())]
        assert sum(groups) == 7
        assert max(groups) <= 3


@pytest.fixture
def archives(tmp_path):
    """Two tar files and a Parquet file of three and four photos; one of each is broken."""
    root = tmp_path / "archives"
    root.mkdir()
    for number in range(2):
        names = ["a.png", "b.png", "c.png"]
        write_tar(root / f"t{number}.tar", {name: png(number) if name != "b.png" else b"x" for name in names})
    write_parquet(root / "p.parquet", {"image": [png(1), b"x", png(2), png(3)], "id": list("wxyz")}, row_group_size=2)
    return root


class TestCommand:
    def test_images_in_archives_are_predicted_as_files_are(self, run, linear, archives, tmp_path):
        done = run("predict", linear, archives / "t{0..1}.tar", archives / "p.parquet", "--format", "jsonl")
        assert done.status == 0
        rows = [json.loads(line) for line in done.out.splitlines()]
        names = [f"t{n}.tar/{name}.png" for n in range(2) for name in "abc"] + [f"p.parquet/{row}" for row in range(4)]
        assert [row["image"] for row in rows] == [f"{archives}/{name}" for name in names]
        assert ["error" in row for row in rows] == [False, True, False] * 2 + [False, True, False, False]
        (tmp_path / "1.png").write_bytes(png(1))
        alone = selfprompt.load(linear, device="cpu").predict(tmp_path / "1.png")[0]
        assert rows[3]["label"] == rows[6]["label"] == alone.label
        assert rows[6]["score"] == pytest.approx(alone.score, rel=1e-4)

    def test_a_job_gives_the_same_in_any_number_of_shards(self, run, linear, archives, tmp_path, monkeypatch):
        monkeypatch.setattr(archived_images, "ROWS", 2)
        merged = []
        for shards in ("1", "2", "4", "9"):
            options = [
                "--out",
                tmp_path / shards,
                "--shards",
                shards,
                "--merge",
                "--key-column",
                "id",
                "--format",
                "jsonl",
            ]
            done = run("predict", linear, archives / "t{0..1}.tar", archives / "p.parquet", *options)
            assert done.status == 0, done.err
            assert "7 of 10 images classified" in done.err
            merged.append((tmp_path / shards / "predictions.jsonl").read_text())
        assert merged == merged[:1] * 4
        assert [json.loads(line)["image"] for line in merged[0].splitlines()][6:] == list("wxyz")
        by_default = run("predict", linear, archives / "t0.tar", archives / "p.parquet", "--out", tmp_path / "default")
        assert by_default.status == 0
        assert json.loads((tmp_path / "default" / "summary.json").read_text())["shards"] == 3
        other = run("predict", linear, "--out", tmp_path / "2", "--format", "jsonl", "--key-column", "image")
        assert "its key_column is 'id', not 'image'" in other.err

    def test_files_and_archives_do_not_mix_in_a_job(self, run, linear, archives, tmp_path):
        (tmp_path / "1.png").write_bytes(png())
        done = run("predict", linear, tmp_path / "1.png", archives / "t0.tar", "--out", tmp_path / "out")
        assert done.status == 1
        assert "t0.tar: put image files and archives of images into two jobs" in done.err
        assert not (tmp_path / "out" / "job.json").exists()
        plain = run("predict", linear, tmp_path / "1.png", archives / "t0.tar", "--format", "csv")
        assert plain.status == 0
        assert len(plain.out.splitlines()) == 4

    def test_an_archive_that_is_not_there_begins_nothing(self, run, linear, tmp_path):
        done = run("predict", linear, tmp_path / "none-{0..3}.tar", "--out", tmp_path / "out")
        assert done.status == 1
        assert "none-0.tar: there is no such file of images" in done.err
        assert not list((tmp_path / "out").glob("*"))
