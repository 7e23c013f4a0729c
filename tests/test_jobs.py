"""Prediction jobs in folders: shards partition the list, are done once, and whatever is damaged is named."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfprompt.inference.jobs import JobSpec, open_job, shard_range
from selfprompt.inference.predictions import Prediction
from selfprompt.inference.shards import (
    done_shards,
    finish_job,
    merged_file,
    read_counts,
    run_job,
    write_shard,
)


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 80))
def test_shards_partition_any_list_into_whole_batches(count, step, shards):
    ranges = [shard_range(count, step, number, shards) for number in range(1, shards + 1)]
    assert [at for part in ranges for at in part] == list(range(count))
    assert all(part.start % step == 0 for part in ranges if part)
    assert all(one.stop == other.start for one, other in pairwise(ranges))
    sizes = [-(-len(part) // step) for part in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("number", [0, 4])
def test_there_is_no_other_shard(number):
    with pytest.raises(ValueError, match=f"A shard must have a number from 1 to 3, got {number}"):
        shard_range(10, 2, number, 3)


def job_spec(**changes):
    return JobSpec(**{"classifier": "c0ffee", "classes": ("a", "b"), "batch": 2} | changes)


def guesses(groups):
    """Predictions without a model."""
    yield from ([Prediction(path, "a", 0.5, (("a", 0.5),))] for group in groups for path in group)


def test_another_job_is_refused_in_a_sentence(tmp_path):
    open_job(tmp_path, job_spec(), ["x", "y", "z"], 2)
    assert open_job(tmp_path, job_spec(), iter(["x", "y", "z"])).shards == 2
    assert open_job(tmp_path, job_spec()).count == 3
    cases = {
        "its top is 1, not 2": (job_spec(top=2), ["x", "y", "z"]),
        "its form is 'csv', not 'jsonl'": (job_spec(form="jsonl"), ["x", "y", "z"]),
        "its classes are not the same": (job_spec(classes=("a", "c")), ["x", "y", "z"]),
        "its classifier is not the same": (job_spec(classifier="bad"), ["x", "y", "z"]),
        "its count is 3, not 4; its list_sha256 is not the same": (job_spec(), ["x", "y", "z", "z"]),
        "its list_sha256 is not the same": (job_spec(), ["x", "z", "y"]),
        "its guard is False, not True": (job_spec(guard=True), ["x", "y", "z"]),
        "its unknown is None, not 0.05": (job_spec(unknown=0.05), None),
        "its key_column is None, not 'id'": (job_spec(key_column="id"), None),
    }
    for message, (wanted, paths) in cases.items():
        with pytest.raises(ValueError, match=f"{tmp_path} holds another job: {message}"):
            open_job(tmp_path, wanted, paths)
    with pytest.raises(ValueError, match="its shards is 2, not 3"):
        open_job(tmp_path, job_spec(), shards=3)


def test_a_list_that_has_changed_in_the_folder_is_damaged(tmp_path):
    job = open_job(tmp_path, job_spec(), ["x", "y", "z"], 2)
    (tmp_path / "images.index").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"images\.index is damaged"):
        run_job(job, guesses)
    (tmp_path / "images.txt").write_text("x\n")
    for paths in (None, ["x", "y", "z"]):
        with pytest.raises(ValueError, match=r"images\.txt is damaged"):
            open_job(tmp_path, job_spec(), paths)


@pytest.mark.parametrize(("count", "shards"), [(3, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_a_shard_has_about_a_thousand_images_by_default(tmp_path, count, shards):
    assert open_job(tmp_path, job_spec(), map(str, range(count))).shards == shards


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_any_name_of_a_file_is_a_name(tmp_path, form):
    names = ["fine", "two\nlines", "end\r", "\r\n", "\n", "#x", ' "y" ', "a\tb", "a,b", "猫", "\u202e", "\udcff", "=1"]
    job = open_job(tmp_path, job_spec(form=form, batch=3), names, 5)
    assert [list(job.entries(number)) for number in range(1, 6)] == [names[at : at + 3] for at in range(0, 13, 3)]
    run_job(job, guesses)
    assert finish_job(job, merge=True)["labels"] == {"a": 13, "b": 0}
    if form == "parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(merged_file(job)).to_pylist()
    else:
        with merged_file(job).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]
    assert [row["image"] for row in rows] == [
        name.replace("\udcff", "\udcff" if form == "jsonl" else "\\udcff") for name in names
    ]


def test_guarded_names_are_counted_as_the_classes_they_are(tmp_path):
    job = open_job(tmp_path, job_spec(classes=("=a", "b"), guard=True), ["x", "-y"])
    run_job(job, lambda groups: ([Prediction(path, "=a", 0.5, (("=a", 0.5),))] for group in groups for path in group))
    assert job.path(1).read_text().splitlines()[1:] == ["x,1,'=a,0.500000,", "'-y,1,'=a,0.500000,"]
    assert finish_job(job)["labels"] == {"=a": 2, "b": 0}


def test_no_images_begin_no_job(tmp_path):
    with pytest.raises(ValueError, match="There are no images to predict"):
        open_job(tmp_path, job_spec(), [])
    with pytest.raises(ValueError, match="has a zero byte"):
        open_job(tmp_path, job_spec(), ["fine", "not\0fine"])
    with pytest.raises(ValueError, match="holds no job"):
        open_job(tmp_path, job_spec())
    assert open_job(tmp_path, job_spec(), ["fine"]).count == 1


@pytest.mark.parametrize("change", [{}, {"format": 1}, {"batch": "2"}, {"shards": 0}, {"new": 1}])
def test_a_damaged_job_is_named(tmp_path, change):
    open_job(tmp_path, job_spec(), ["x"])
    record = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps(record | change if change else {}))
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        open_job(tmp_path, job_spec(), ["x"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": "many", "shards": 1, "unreadable": 0}', "[" * 100_000])
def test_a_damaged_summary_is_named(text, tmp_path):
    job = open_job(tmp_path, job_spec(), ["x"])
    run_job(job, guesses)
    finish_job(job)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"summary\.json is damaged: .*Delete it"):
        finish_job(job)
    (tmp_path / "summary.json").unlink()
    assert finish_job(job)["images"] == 1


def test_a_shard_of_another_size_is_done_again(tmp_path):
    job = open_job(tmp_path, job_spec(), list("uvwxy"))
    run_job(job, guesses)
    whole = job.path(1).read_bytes()
    for content in (whole[:-3], b""):
        job.path(1).write_bytes(content)
        assert read_counts(job, 1) is None
        with pytest.raises(ValueError, match=r"is not done\. Repeat the command"):
            finish_job(job)
        run_job(job, guesses)
        assert job.path(1).read_bytes() == whole
    job.path(1).unlink()
    run_job(job, guesses)
    assert job.path(1).read_bytes() == whole


def test_a_changed_shard_is_reported_and_rewritten(tmp_path):
    job = open_job(tmp_path, job_spec(), list("uvwxy"))
    run_job(job, guesses)
    whole = job.path(1).read_bytes()
    job.path(1).write_bytes(whole.replace(b"a", b"b"))
    with pytest.raises(ValueError, match=r"shard-00001-of-00001\.csv is damaged\. Delete it"):
        finish_job(job)
    job.path(1).unlink()
    run_job(job, guesses)
    assert finish_job(job)["images"] == 5


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"job": 1}', "[" * 100_000])
def test_a_shard_without_a_whole_marker_is_not_done(tmp_path, text):
    job = open_job(tmp_path, job_spec(), list("uvwxy"))
    counts = write_shard(job, 1, guesses)
    assert read_counts(job, 1) == counts
    marker = json.loads(job.marker(1).read_text())
    for wrong in (text, json.dumps(marker | {"job": "another"}), json.dumps(marker | {"labels": {"a": "x"}})):
        job.marker(1).write_text(wrong)
        assert done_shards(job) == {}
    assert write_shard(job, 1, guesses) == counts
    assert done_shards(job) == {1: counts}


def test_shards_that_are_done_are_left_alone(tmp_path):
    job = open_job(tmp_path, job_spec(), list("uvwxy"), 3)
    write_shard(job, 2, guesses)
    before = job.path(2).stat().st_mtime_ns
    run_job(job, guesses)
    assert job.path(2).stat().st_mtime_ns == before
    assert [len(job.path(number).read_text().splitlines()) for number in (1, 2, 3)] == [3, 3, 2]
    assert len(done_shards(job)) == 3


def test_a_shard_that_fails_is_not_there_and_is_made_later(tmp_path):
    job = open_job(tmp_path, job_spec(), list("uvwxy"), 3)

    def breaks(groups):
        for batch in guesses(groups):
            if batch[0].image == "x":
                raise RuntimeError("broke")
            yield batch

    with pytest.raises(RuntimeError, match="broke"):
        run_job(job, breaks)
    assert list(done_shards(job)) == [1]
    assert sorted(path.name for path in tmp_path.glob("*shard*.csv*")) == ["shard-00001-of-00003.csv"]
    run_job(job, guesses)
    assert len(done_shards(job)) == 3


def test_a_shard_done_many_times_at_once_is_one_whole_shard(tmp_path):
    job = open_job(tmp_path, job_spec(), map(str, range(200)))
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: write_shard(job, 1, guesses), range(16)))
    assert set(map(repr, counts)) == {repr(counts[0])}
    assert finish_job(job)["images"] == 200
    assert not list(tmp_path.glob(".*"))


def test_jobs_started_at_once_are_one_job(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: open_job(tmp_path, job_spec(), map(str, range(300))), range(8)))
    assert set(map(repr, jobs)) == {repr(jobs[0])}


def test_the_pieces_of_killed_processes_are_taken_away_at_the_end(tmp_path):
    job = open_job(tmp_path, job_spec(), list("uvwxy"))
    (tmp_path / ".shard-00001-of-00001.csv.0123.part").write_text("half")
    run_job(job, guesses)
    finish_job(job)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_one_file_holds_all_shards(tmp_path, form):
    def some(groups):
        for group in groups:
            yield [
                Prediction(path, error="cut, off") if path == "w" else Prediction(path, 'a "b"', 0.5, (('a "b"', 0.5),))
                for path in group
            ]

    job = open_job(tmp_path, job_spec(form=form, classes=('a "b"', "c")), list("uvwxy"), 3)
    run_job(job, some)
    assert finish_job(job, merge=True) == {"images": 5, "shards": 3, "unreadable": 1, "labels": {'a "b"': 4, "c": 0}}
    with merged_file(job).open(newline="") as file:
        rows = list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]
    assert [row["image"] for row in rows] == list("uvwxy")
    assert [bool(row.get("error")) for row in rows] == [False, False, True, False, False]
