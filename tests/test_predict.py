"""Predictions over many images: streamed, listed, in shards that survive a kill, by several processes."""

import csv
import io
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest

import selfprompt
from selfprompt.data.loading.prefetch import BATCHES_AHEAD, batched, prefetch
from selfprompt.engines.work import EngineError
from selfprompt.inference.image_paths import image_paths
from tests.conftest import COLOURS, photo, started, write_photos


@pytest.fixture
def tuned(linear):
    """A classifier with small batches."""
    loaded = selfprompt.load(linear, device="cpu")
    loaded.batch_size = 3
    return loaded


@pytest.fixture
def small(tuned, tmp_path):
    """The same one in a folder."""
    tuned.save(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def pile(tmp_path):
    """Ten photos, one of which is broken, in folders."""
    root = write_photos(tmp_path / "pile", {"dark_red": 4, "blue": 5})
    (root / "blue" / "2b.png").write_bytes(b"no image")
    return root


class TestStream:
    def test_gives_what_predict_gives(self, tuned, pile):
        paths = [str(path) for path in sorted(pile.rglob("*.png"))]
        batches = list(tuned.stream(iter(paths), top=2))
        assert [len(batch) for batch in batches] == [3, 3, 3, 1]
        assert list(chain.from_iterable(batches)) == tuned.predict(paths, top=2)
        assert [p.image for p in chain.from_iterable(batches) if p.error] == [str(pile / "blue" / "2b.png")]

    def test_threads_change_nothing(self, tuned, pile):
        paths = sorted(pile.rglob("*.png")) * 3
        assert list(tuned.stream(paths, workers=4)) == list(tuned.stream(paths))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_images_are_taken_as_they_are_needed(self, tuned, pile, workers):
        taken = 0

        def endless():
            nonlocal taken
            for path in repeat(pile / "blue" / "0.png"):
                taken += 1
                yield path

        stream = tuned.stream(endless(), workers=workers)
        for number in range(1, 6):
            assert len(next(stream)) == 3
            assert taken <= 3 * (number + BATCHES_AHEAD)

    def test_memory_does_not_grow(self, tuned, pile):
        large = replace(tuned, preprocess=replace(tuned.preprocess, size=256), batch_size=20)
        large.logits = lambda images: images.new_zeros(len(images), 4)
        stream = large.stream(repeat(pile / "blue" / "0.png"), workers=2)
        memory = []
        for _ in range(2):
            for _ in range(20):
                next(stream)
            memory.append(resident())
        stream.close()
        assert memory[1] - memory[0] < 40e6, "the pixels of these 400 images are 79 MB"

    def test_wrong_numbers_are_refused_at_once(self, tuned):
        with pytest.raises(ValueError, match="top must be at least 1, got 0"):
            tuned.stream([], top=0)
        with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
            tuned.stream([], workers=-1)


def resident() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_error_in_a_thread_reaches_the_caller():
    def divide(number):
        return 1 / number

    results = prefetch(divide, batched([1, 2, 0, 4], 2), workers=2)
    assert next(results) == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


class TestPaths:
    def test_folders_are_listed_as_their_paths_are_ordered(self, tmp_path):
        names = [
            "b/x.png",
            "b.png",
            "b-c/y.JPG",
            "a/b/z.gif",
            "a/.hidden.png",
            "a/notes.txt",
            ".c/w.png",
            "d/e/f/v.tif",
        ]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        wanted = sorted(tmp_path / name for name in names if "hidden" not in name and "notes" not in name)
        assert [Path(path) for path in image_paths([str(tmp_path)])] == wanted

    def test_a_list_follows_what_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "list.txt").write_bytes(b"one.png\r\n\n two.png \ncaf\xe9.png")
        for name in (b"first.png", b" two.png ", b"caf\xe9.png"):
            open(os.fsencode(tmp_path) + b"/" + name, "wb").close()
        monkeypatch.chdir(tmp_path)
        paths = list(image_paths(["./first.png"], "list.txt"))
        assert paths == ["first.png", "one.png", " two.png ", os.fsdecode(b"caf\xe9.png")]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    def test_lists_of_any_program_are_read(self, tmp_path, monkeypatch, encoding):
        mark = "\ufeff" if encoding == "utf-16-le" else ""
        lines = ["éa.png", "", "# a comment", '"two words.png"', "three.png  ", "#4.png", "gone.png"]
        (tmp_path / "list.txt").write_bytes((mark + "\r\n".join(lines)).encode(encoding))
        for name in ("éa.png", "two words.png", "three.png", "#4.png"):
            (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path)
        wanted = ["éa.png", "two words.png", "three.png", "#4.png", "gone.png"]
        assert list(image_paths([], "list.txt")) == wanted

    @pytest.mark.parametrize("content", [b"a.png\ncaf\xe9.png\n", "a.png\nb.png".encode("utf-16-le"), b"a.png\0b.png"])
    def test_a_list_in_another_encoding_is_refused(self, tmp_path, monkeypatch, content):
        (tmp_path / "list.txt").write_bytes(content)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=r"list\.txt, line \d .*UTF-8"):
            list(image_paths([], "list.txt"))

    def test_a_list_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"none\.txt cannot be read as a list of images: No such file"):
            list(image_paths([], str(tmp_path / "none.txt")))


WRONG = {
    "no folder for processes": (["x.png", "--jobs", "2"], "--jobs and --engine need --out"),
    "no folder for Parquet": (["x.png", "--format", "parquet"], "--format parquet needs --out"),
    "no processes": (["x.png", "--jobs", "0"], "--jobs must be at least 1, got 0."),
    "no shards": (["x.png", "--out", "o", "--shards", "0"], "--shards must be at least 1, got 0."),
    "negative threads": (["x.png", "--workers", "-1"], "--workers must be at least 0, got -1."),
    "tables in shards": (
        ["x.png", "--out", "o", "--format", "table"],
        "--out writes csv, jsonl or parquet, got --format",
    ),
    "a shard from 0": (
        ["x.png", "--out", "o", "--shard", "0/3"],
        "from 1, and the number of shards, such as 3/64, got",
    ),
    "a shard too far": (
        ["x.png", "--out", "o", "--shard", "4/3"],
        "from 1, and the number of shards, such as 3/64, got",
    ),
    "two numbers": (["x.png", "--out", "o", "--shard", "1/3", "--shards", "4"], "give two numbers of shards"),
    "merging one": (["x.png", "--out", "o", "--shard", "1/3", "--merge"], "--merge needs all shards"),
    "too many processes": (["x.png", "--out", "o", "--jobs", "1000", "--device", "cpu"], "--jobs must be at most "),
    "an empty list": (["--list", os.devnull], "lists no images"),
    "no images and no job": (["--out", "o"], "o holds no job: name the images, or give a list of them with --list"),
}
FAILS = ("an empty list", "no images and no job")


def visible(folder):
    """The files of a folder with their content, hidden ones apart."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*.*")}


class TestCommand:
    @pytest.mark.parametrize("form", ["jsonl", "csv"])
    def test_rows_are_the_same_in_shards_as_without(self, run, small, pile, tmp_path, form):
        plain = run("predict", small, pile, "--top", "2", "--format", "jsonl")
        assert [json.loads(line)["image"] for line in plain.out.splitlines()] == list(image_paths([str(pile)]))
        done = run("predict", small, pile, "--out", tmp_path / "out", "--shards", "2", "--top", "2", "--format", form)
        assert (done.status, done.out) == (0, "")
        assert "9 of 10 images classified" in done.err
        assert "1 cannot be read" in done.err
        assert set(visible(tmp_path / "out")) == {
            *("job.json", "images.txt", "images.index", "summary.json"),
            *(f"shard-0000{k}-of-00002.{suffix}" for k in (1, 2) for suffix in (form, "json")),
        }
        merged = run("predict", small, "--out", tmp_path / "out", "--top", "2", "--format", form, "--merge")
        assert merged.status == 0, "without images, the list in the folder counts"
        if form == "jsonl":
            assert (tmp_path / "out" / "predictions.jsonl").read_text() == plain.out
        assert not list((tmp_path / "out").glob(".*")), "no locks, and no pieces"

    def test_shards_one_by_one_in_any_order_make_what_one_command_makes(self, run, small, pile, tmp_path):
        whole = run("predict", small, pile, "--out", tmp_path / "whole", "--shards", "3")
        assert whole.status == 0
        for shard, images in (("3/3", [pile]), ("1/3", []), ("1/3", []), ("2/3", [pile])):
            done = run("predict", small, *images, "--out", tmp_path / "single", "--shard", shard)
            assert done.status == 0, done.err
            assert f"shard-0000{shard[0]}-of-00003.csv" in done.err
        assert not (tmp_path / "single" / "summary.json").exists()
        assert (
            "holds another job: its shards is 3, not 4"
            in run("predict", small, pile, "--out", tmp_path / "single", "--shard", "1/4").err
        )
        photo(COLOURS["blue"], 9).save(pile / "new.png")
        other = run("predict", small, pile, "--out", tmp_path / "single", "--shard", "1/3")
        assert other.status == 1
        assert "its count is 10, not 11" in other.err
        assert run("predict", small, "--out", tmp_path / "single").status == 0
        assert visible(tmp_path / "single") == visible(tmp_path / "whole")

    def test_a_finished_job_is_not_touched(self, run, small, pile, tmp_path):
        command = ["predict", small, pile, "--out", tmp_path / "out"]
        assert run(*command).status == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        again = run(*command)
        assert "9 of 10 images classified" in again.err
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
        photo(COLOURS["blue"], 9).save(pile / "new.png")
        changed = run(*command)
        assert changed.status == 1
        assert "its count is 10, not 11" in changed.err

    def test_csv_has_a_column_for_errors_in_shards(self, run, small, pile, tmp_path):
        assert run("predict", small, pile, "--out", tmp_path / "out").status == 0
        with (tmp_path / "out" / "shard-00001-of-00001.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["image", "rank", "label", "score", "error"]
        assert {row["error"] for row in rows} == {"", "not an image, or of an unknown format"}

    def test_parquet_has_the_rows_of_csv(self, run, small, pile, tmp_path, monkeypatch):
        parquet = pytest.importorskip("pyarrow.parquet")
        for form in ("parquet", "csv"):
            options = ["--out", tmp_path / form, "--shards", "2", "--top", "2", "--format", form, "--merge"]
            assert run("predict", small, pile, *options).status == 0
        found = parquet.read_table(tmp_path / "parquet" / "predictions.parquet").to_pylist()
        with (tmp_path / "csv" / "predictions.csv").open(newline="") as file:
            wanted = list(csv.DictReader(file))
        assert [{**row, "score": row["score"] and f"{row['score']:.6f}"} for row in found] == [
            {name: int(cell) if name == "rank" and cell else cell or None for name, cell in row.items()}
            for row in wanted
        ]
        page = (Path(__file__).parents[1] / "docs" / "large-archives.md").read_text(encoding="utf-8")
        (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "dataset" in block)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "found").symlink_to(tmp_path / "parquet")
        exec(code, names := {})
        assert len(names["best"]) == 9
        summaries = [json.loads((tmp_path / form / "summary.json").read_text()) for form in ("parquet", "csv")]
        assert summaries[0] == summaries[1]

    def test_names_with_line_breaks_do_not_end_a_folder(self, run, small, pile, tmp_path):
        names = ["two\nlines.png", "end.png\r", "bell\a.png", "=1+2.png"]
        for name in names:
            shutil.copy(pile / "blue" / "0.png", pile / "blue" / name)
        done = run("predict", small, pile / "blue", "--format", "csv")
        assert done.status == 0
        rows = list(csv.DictReader(io.StringIO(done.out, newline="")))
        assert {str(pile / "blue" / name) for name in names} <= {row["image"] for row in rows}
        assert run("predict", small, pile / "blue", "--out", tmp_path / "out").status == 0
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 10
        again = run("predict", small, "--list", tmp_path / "out" / "images.txt", "--out", tmp_path / "out")
        assert again.status == 0, "the list that a job wrote stands for its images"

    def test_cells_that_begin_like_formulas_are_guarded_on_request(self, run, small, pile, monkeypatch):
        monkeypatch.chdir(pile / "blue")
        os.rename("0.png", "=1+2.png")
        plain = run("predict", small, "=1+2.png", "--format", "csv")
        assert plain.out.splitlines()[1].startswith("=1+2.png,1,")
        guarded = run("predict", small, "=1+2.png", "--format", "csv", "--csv_guard")
        assert guarded.out.splitlines()[1].startswith("'=1+2.png,1,")

    def test_an_unreadable_image_stops_on_request(self, run, small, pile, tmp_path):
        done = run("predict", small, pile, "--out", tmp_path / "out", "--on-bad-image", "fail")
        assert done.status == 1
        assert "cannot read" in done.err
        assert f"cannot read {pile}/blue/2b.png: not an image" in done.err
        assert not list((tmp_path / "out").glob("shard*"))
        shown = run("predict", small, pile, "--format", "csv", "--on-bad-image", "fail")
        assert shown.status == 1
        assert len(shown.out.splitlines()) == 1 + 3, "the batches before are shown"

    def test_nothing_readable_is_a_failure(self, run, small, tmp_path):
        (tmp_path / "list").write_text("none.png\n")
        assert run("predict", small, "--list", tmp_path / "list", "--out", tmp_path / "out").status == 1
        done = run("predict", small, "--list", tmp_path / "list", "--format", "csv")
        assert (done.status, done.out) == (1, "image,rank,label,score\n")

    @pytest.mark.parametrize("case", WRONG)
    def test_wrong_usage_ends_with_one_sentence(self, case, run, small):
        arguments, message = WRONG[case]
        done = run("predict", small, *arguments)
        assert done.status == (1 if case in FAILS else 2)
        assert message in done.err

    def test_a_shard_that_always_ends_its_worker_is_named_with_its_command(
        self, run, small, pile, tmp_path, monkeypatch
    ):
        def gives_up(*words, **settings):
            raise EngineError("Work ended its worker each time.", (2, 3))

        monkeypatch.setattr("selfprompt.engines.run.run_all", gives_up)
        done = run("predict", small, pile, "--out", tmp_path / "out", "--shards", "3")
        assert done.status == 1
        assert "All shards are done but 2/3, 3/3: each ended its worker several times" in done.err
        command = " ".join(done.err.split()).partition("alone: selfprompt ")[2].removesuffix(".")
        monkeypatch.undo()
        assert run(*command.split()).status == 0
        assert (tmp_path / "out" / "shard-00002-of-00003.json").exists()

    @pytest.mark.slow
    def test_jobs_of_slurm(self, run, small, pile, tmp_path):
        pytest.importorskip("submitit")
        options = ["--shards", "4", "--engine", "slurm", "--engine-options", "{cluster: local}"]
        done = run("predict", small, pile, "--out", tmp_path / "out", *options)
        assert done.status == 0, done.err
        assert "Submitted 1 jobs" in done.err
        assert "9 of 10 images classified" in done.err
        assert run("predict", small, pile, "--out", tmp_path / "one", "--shards", "4").status == 0
        submitted = visible(tmp_path / "out")
        assert submitted.items() >= visible(tmp_path / "one").items()


def children(process):
    """The ids of the processes that a process feeds."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def wait_for_shards(process, folder, count):
    """Until so many shards are done, or the process has ended."""
    while len(list(folder.glob("shard-*.json"))) < count and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.slow
def test_jobs_that_are_killed_end_as_one_that_is_not(tuned, tmp_path, run):
    tuned.batch_size = 5
    tuned.save(tmp_path / "small")
    write_photos(tmp_path / "many", dict.fromkeys(COLOURS, 30))
    command = ["predict", tmp_path / "small", tmp_path / "many", "--shards", "12", "--device", "cpu", "--merge"]
    assert run(*command, "--out", tmp_path / "straight").status == 0
    straight = visible(tmp_path / "straight")
    assert len(straight) == 2 * 12 + 5

    out = tmp_path / "killed"
    process = started(*command, "--out", out, "--devices", "2")
    wait_for_shards(process, out, 2)
    os.kill(children(process)[0], signal.SIGKILL)  # one of those that predict
    wait_for_shards(process, out, 5)
    process.kill()  # the one that feeds them
    said = process.communicate(timeout=200)[1]
    assert "--devices is now called --jobs" in said
    assert "A worker was killed, or ran out of memory; its work is done again." in said
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.json")}
    assert 5 <= len(before) < 12
    assert run(*command, "--out", out).status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done is not done again"
    assert visible(out) == straight
