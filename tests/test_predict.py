"""Predictions over many images: streamed, listed, in parts that survive a kill, by several processes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import pytest

import selfprompt
from selfprompt.data.loading.prefetch import BATCHES_AHEAD, batched, prefetch
from selfprompt.inference.image_paths import image_paths
from selfprompt.inference.jobs import JobSpec, finish_job, merged_file, open_job, run_job
from selfprompt.inference.predictions import Prediction
from selfprompt.utils.locks import lock_file
from tests.conftest import COLOURS, photo, ran, write_photos

ROOT = Path(__file__).parents[1]


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


def job_spec(**changes):
    return JobSpec(**{"classifier": "c0ffee", "classes": ("a", "b"), "top": 1, "form": "csv", "part_size": 2} | changes)


def guesses(paths):
    """Predictions without a model."""
    yield from ([Prediction(path, "a", 0.5, (("a", 0.5),))] for path in paths)


class TestJob:
    def test_another_job_is_refused_in_a_sentence(self, tmp_path):
        open_job(tmp_path, job_spec(), ["x", "y", "z"])
        assert open_job(tmp_path, job_spec(), iter(["x", "y", "z"])).parts == 2
        cases = {
            "its top is 1, not 2": (job_spec(top=2), ["x", "y", "z"]),
            "its form is 'csv', not 'jsonl'": (job_spec(form="jsonl"), ["x", "y", "z"]),
            "its classes are not the same": (job_spec(classes=("a", "c")), ["x", "y", "z"]),
            "its classifier is not the same": (job_spec(classifier="bad"), ["x", "y", "z"]),
            "its count is 3, not 4; its list_sha256 is not the same": (job_spec(), ["x", "y", "z", "z"]),
            "its list_sha256 is not the same": (job_spec(), ["x", "z", "y"]),
            "its guard is False, not True": (job_spec(guard=True), ["x", "y", "z"]),
        }
        for message, (wanted, paths) in cases.items():
            with pytest.raises(ValueError, match=f"{tmp_path} holds another job: {message}"):
                open_job(tmp_path, wanted, paths)

    def test_a_job_from_before_names_were_guarded_resumes(self, tmp_path):
        open_job(tmp_path, job_spec(), ["x", "y", "z"])
        record = json.loads((tmp_path / "job.json").read_text())
        del record["guard"]
        (tmp_path / "job.json").write_text(json.dumps(record))
        assert open_job(tmp_path, job_spec(), ["x", "y", "z"]).parts == 2
        with pytest.raises(ValueError, match="its guard is False, not True"):
            open_job(tmp_path, job_spec(guard=True), ["x", "y", "z"])

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_any_name_of_a_file_is_a_name(self, tmp_path, form):
        names = [
            "fine",
            "two\nlines",
            "end\r",
            "\r\n",
            "\n",
            "#x",
            ' "y" ',
            "a\tb",
            "a,b",
            "猫",
            "\u202e",
            "\udcff",
            "=1",
        ]
        job = open_job(tmp_path, job_spec(form=form, part_size=3), names)
        assert [job.images(number) for number in range(job.parts)] == [names[at : at + 3] for at in range(0, 13, 3)]
        run_job(job, guesses)
        assert finish_job(job, merge=True)["labels"] == {"a": 13, "b": 0}
        with merged_file(job).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]
        assert [row["image"] for row in rows] == [
            name.replace("\udcff", "\\udcff" if form == "csv" else name) for name in names
        ]

    def test_guarded_names_are_counted_as_the_classes_they_are(self, tmp_path):
        job = open_job(tmp_path, job_spec(classes=("=a", "b"), guard=True), ["x", "-y"])
        run_job(job, lambda paths: ([Prediction(path, "=a", 0.5, (("=a", 0.5),))] for path in paths))
        assert job.path(0).read_text().splitlines()[1:] == ["x,1,'=a,0.500000,", "'-y,1,'=a,0.500000,"]
        assert finish_job(job)["labels"] == {"=a": 2, "b": 0}

    def test_no_images_begin_no_job(self, tmp_path):
        with pytest.raises(ValueError, match="There are no images to predict"):
            open_job(tmp_path, job_spec(), [])
        with pytest.raises(ValueError, match="has a zero byte"):
            open_job(tmp_path, job_spec(), ["fine", "not\0fine"])
        assert open_job(tmp_path, job_spec(), ["fine"]).count == 1

    def test_a_damaged_job_is_named(self, tmp_path):
        open_job(tmp_path, job_spec(), ["x"])
        (tmp_path / "job.json").write_text("{}")
        with pytest.raises(ValueError, match=r"job\.json is damaged"):
            open_job(tmp_path, job_spec(), ["x"])

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": "many", "parts": 1, "unreadable": 0}', "[" * 100_000])
    def test_a_damaged_summary_is_named(self, text, tmp_path):
        job = open_job(tmp_path, job_spec(), ["x"])
        run_job(job, guesses)
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(ValueError, match=r"summary\.json is damaged: .*Delete it"):
            finish_job(job)
        (tmp_path / "summary.json").unlink()
        assert finish_job(job)["images"] == 1

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    @pytest.mark.parametrize("content", [b"[1]\n", b"nonsense\nand more\n", b"\xff\n\xff\n", b"[" * 100_000])
    def test_a_damaged_part_is_reported_and_rewritten(self, content, form, tmp_path):
        job = open_job(tmp_path, job_spec(form=form), ["x"])
        run_job(job, guesses)
        whole = job.path(0).read_bytes()
        job.path(0).write_bytes(content)
        if form == "jsonl" or content.count(b"\n") > 1:  # a table of a header alone has no rows
            with pytest.raises(ValueError, match=r"part-00000\.\w+ is damaged\. Delete it"):
                finish_job(job)
        job.path(0).unlink()
        run_job(job, guesses)
        assert job.path(0).read_bytes() == whole

    def test_parts_that_are_there_are_left_alone(self, tmp_path):
        job = open_job(tmp_path, job_spec(), list("uvwxy"))
        job.path(1).write_text("by another process")
        run_job(job, guesses)
        assert job.path(1).read_text() == "by another process"
        assert [len(job.path(number).read_text().splitlines()) for number in (0, 2)] == [3, 2]
        assert job.finished() == 5
        assert not list(tmp_path.glob(".part*")), "neither locks nor pieces stay"

    def test_a_part_that_fails_is_not_there_and_is_made_later(self, tmp_path):
        job = open_job(tmp_path, job_spec(), list("uvwxy"))

        def breaks(paths):
            for batch in guesses(paths):
                if batch[0].image == "x":
                    raise RuntimeError("broke")
                yield batch

        with pytest.raises(RuntimeError, match="broke"):
            run_job(job, breaks)
        assert sorted(path.name for path in tmp_path.glob("*part*.csv")) == ["part-00000.csv"]
        run_job(job, guesses)
        assert job.is_done

    def test_a_claimed_part_is_waited_for(self, tmp_path, monkeypatch):
        job = open_job(tmp_path, job_spec(), list("uvwxy"))
        claim = lock_file(tmp_path / ".part-00001.csv.lock")
        assert claim.__enter__()
        seen = []

        def other_dies(_):
            seen.append(sorted(path.name for path in tmp_path.glob("part*")))
            claim.__exit__(None, None, None)

        monkeypatch.setattr("time.sleep", other_dies)
        run_job(job, guesses)
        assert seen == [["part-00000.csv", "part-00002.csv"]]
        assert job.is_done

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_one_file_holds_all_parts(self, tmp_path, form):
        def some(paths):
            yield [
                Prediction(path, error="cut, off") if path == "w" else Prediction(path, 'a "b"', 0.5, (('a "b"', 0.5),))
                for path in paths
            ]

        job = open_job(tmp_path, job_spec(form=form, classes=('a "b"', "c")), list("uvwxy"))
        run_job(job, some)
        assert finish_job(job, merge=True) == {"images": 5, "parts": 3, "unreadable": 1, "labels": {'a "b"': 4, "c": 0}}
        with merged_file(job).open(newline="") as file:
            rows = list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]
        assert [row["image"] for row in rows] == list("uvwxy")
        assert [bool(row.get("error")) for row in rows] == [False, False, True, False, False]


WRONG = {
    "no folder for processes": (["x.png", "--devices", "2"], "--devices, --part-size and --merge need --out"),
    "no processes": (["x.png", "--devices", "0"], "--devices must be at least 1, got 0."),
    "negative threads": (["x.png", "--workers", "-1"], "--workers must be at least 0, got -1."),
    "tables in parts": (
        ["x.png", "--out", "o", "--format", "table"],
        "--out writes csv or jsonl, got --format table.",
    ),
    "half batches": (
        ["x.png", "--out", "o", "--part-size", "10"],
        "a multiple of the classifier's batch size 3, got 10",
    ),
    "too many processes": (
        ["x.png", "--out", "o", "--devices", "1000", "--device", "cpu"],
        "--devices must be at most ",
    ),
    "an empty list": (["--list", os.devnull], "lists no images"),
}


class TestCommand:
    def test_rows_are_the_same_in_parts_as_without(self, run, small, pile, tmp_path):
        plain = run("predict", small, pile, "--top", "2", "--format", "jsonl")
        assert [json.loads(line)["image"] for line in plain.out.splitlines()] == list(image_paths([str(pile)]))
        options = ["--out", tmp_path / "out", "--part-size", "6", "--top", "2", "--format", "jsonl", "--merge"]
        done = run("predict", small, pile, *options)
        assert (done.status, done.out) == (0, "")
        assert "8 of 9" not in done.err
        assert "9 of 10 images classified" in done.err
        assert "1 cannot be read" in done.err
        assert (tmp_path / "out" / "predictions.jsonl").read_text() == plain.out
        assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == {
            *("job.json", "images.txt", "summary.json", "part-00000.jsonl", "part-00001.jsonl", "predictions.jsonl")
        }

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

    def test_csv_has_a_column_for_errors_in_parts(self, run, small, pile, tmp_path):
        assert run("predict", small, pile, "--out", tmp_path / "out").status == 0
        with (tmp_path / "out" / "part-00000.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["image", "rank", "label", "score", "error"]
        assert {row["error"] for row in rows} == {"", "not an image, or of an unknown format"}

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
        assert not list((tmp_path / "out").glob("part*"))
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
        assert done.status == (1 if case == "an empty list" else 2)
        assert message in done.err

    @pytest.mark.slow
    def test_several_processes_make_what_one_makes(self, run, small, pile, tmp_path):
        assert run("predict", small, pile, "--out", tmp_path / "one", "--part-size", "3", "--device", "cpu").status == 0
        two = ran(
            *("predict", small, pile, "--out", tmp_path / "two", "--part-size", "3"),
            *("--devices", "2", "--device", "cpu"),
        )
        assert two.status == 0, two.err
        assert "ended with status" not in two.err
        for part in (tmp_path / "one").glob("[!.]*"):
            assert (tmp_path / "two" / part.name).read_bytes() == part.read_bytes(), part.name


@pytest.mark.slow
def test_jobs_that_are_killed_or_shared_end_as_one_that_is_not(tuned, tmp_path):
    tuned.batch_size = 5
    tuned.save(tmp_path / "small")
    write_photos(tmp_path / "many", dict.fromkeys(COLOURS, 60))
    done = subprocess.run(
        [sys.executable, "-m", "tests.job_killed", *(str(tmp_path / name) for name in ("small", "many", "jobs"))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["parts"] == 24
    assert told["kills"] == 5
    assert told["rewritten"] == []
    assert told["begun"]["straight"] == told["begun"]["together"] == 24, "two processes make no part twice"
    assert 24 <= told["begun"]["killed"] <= 24 + 5
    assert 24 <= told["begun"]["one_dies"] <= 24 + 1
    straight = {path.name: path.read_bytes() for path in (tmp_path / "jobs" / "straight").glob("[!.]*")}
    assert len(straight) == 24 + 4
    for other in ("killed", "together", "one_dies"):
        found = {path.name: path.read_bytes() for path in (tmp_path / "jobs" / other).glob("[!.]*")}
        assert found == straight, other
