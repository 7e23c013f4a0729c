"""Running cells: the right images and classes, once each, whatever dies or breaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfprompt.benchmarks.protocols import build_grid
from selfprompt.benchmarks.results import read_results
from selfprompt.benchmarks.rows import parse_rows
from selfprompt.benchmarks.runner import RunCache, run_grid
from selfprompt.models.loading.by_name import load_backbone
from selfprompt.utils.locks import lock_folder
from tests.benchmarks.drawn_suite import CLASSES, TEMPLATE, draw_suite

ROOT = Path(__file__).parents[2]
QUICK, FRAGILE = "tests.benchmarks.journal_methods:Quick", "tests.benchmarks.journal_methods:Fragile"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_suite(tmp_path_factory.mktemp("suite"), ("animals", "food"))


@pytest.fixture
def journal(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_TEST", str(tmp_path))
    return tmp_path / "journal"


def bench(root, out, rows, protocol="base-to-new", retry=False, **changed):
    """Run a grid; returns states by row, and the results."""
    settings = {"seeds": (1,), "shots": (2,), "overrides": {"epochs": 1}, "datasets": ("animals",)} | changed
    names = settings.pop("datasets")
    cells = build_grid(protocol, "embedded", parse_rows(rows), names, **settings)
    outcomes = list(run_grid(cells, out, RunCache(root), retry_failed=retry))
    assert len(outcomes) == len(cells)
    files = {cell.row: out / cell.folder / "result.json" for cell in cells}
    results = {row: json.loads(file.read_text()) for row, file in files.items() if file.exists()}
    return {outcome.cell.row: outcome.state for outcome in outcomes}, results


def counted(root, classes, template=TEMPLATE, part="test", name="animals"):
    """Right answers of zero-shot among some classes, counted one image at a time."""
    from selfprompt.inference.classifier import Classifier
    from selfprompt.methods.registry import build_method

    backbone = load_backbone("embedded/clip")
    method = build_method("zero-shot", backbone, classes, template=template)
    classifier = Classifier(method, backbone.preprocess)
    files = [(word, file) for word in classes for file in sorted((root / name / part / word).glob("*.png"))]
    return sum(classifier.predict(file)[0].label == word for word, file in files), len(files)


def test_halves_by_hand(root, tmp_path):
    states, results = bench(root, tmp_path, "zero-shot,coop,linear")
    assert set(states.values()) == {"done"}
    evaluations = results["zero-shot"]["evaluations"]
    assert (evaluations["base"]["correct"], evaluations["base"]["total"]) == counted(root, CLASSES[:3])
    assert (evaluations["new"]["correct"], evaluations["new"]["total"]) == counted(root, CLASSES[3:])
    assert list(evaluations["new"]["per_class"]) == ["grey", "pink"]
    assert results["linear"]["evaluations"]["new"] is None, "its head belongs to the base classes"
    assert results["coop"]["evaluations"]["new"]["total"] == 4
    assert results["coop"]["images"] == {"train": 6, "val": 3}
    split = json.loads(next(tmp_path.glob("*/*/coop/*/split.json")).read_text())
    assert split["classes"] == list(CLASSES[:3])
    assert sorted(label for _, label in split["train"]) == [0, 0, 1, 1, 2, 2]
    assert all(path.startswith("animals/train/") for path, _ in split["train"])
    for row in ("trainable_parameters", "train_seconds", "peak_memory", "recipe", "versions", "backbone", "seconds"):
        assert results["coop"][row], row
    assert results["zero-shot"]["recipe"]["options"]["template"] == TEMPLATE
    assert not list(tmp_path.rglob("checkpoint*"))


def test_domains_and_data_sets(root, tmp_path):
    targets = {"animals": ("dark",)}
    _, results = bench(root, tmp_path, "zero-shot,linear", "domain-generalization", targets=targets)
    evaluations = results["zero-shot"]["evaluations"]
    assert (evaluations["dark"]["correct"], evaluations["dark"]["total"]) == counted(root, CLASSES[1:], part="dark")
    assert (evaluations["source"]["correct"], evaluations["source"]["total"]) == counted(root, CLASSES)
    assert (results["linear"]["restricted"], results["zero-shot"]["restricted"]) == (["dark"], [])
    assert list(results["linear"]["evaluations"]["dark"]["per_class"]) == list(CLASSES[1:])
    _, results = bench(root, tmp_path, "zero-shot,linear", "cross-dataset", targets={"animals": ("food",)})
    evaluations = results["zero-shot"]["evaluations"]
    assert (evaluations["food"]["correct"], evaluations["food"]["total"]) == counted(root, CLASSES, name="food")


def test_each_task_brings_its_template_unless_the_user_does(root, tmp_path):
    row = "zero-shot[options.template='{}']"
    _, results = bench(root, tmp_path, row)
    metrics = results[row]["evaluations"]["new"]
    assert results[row]["recipe"]["options"]["template"] == "{}"
    assert (metrics["correct"], metrics["total"]) == counted(root, CLASSES[3:], template="{}")


def test_a_failed_cell_is_kept_apart_and_retried_on_request(root, tmp_path, journal):
    (tmp_path / "broken").touch()
    rows = f"{FRAGILE},{QUICK}"
    assert bench(root, tmp_path, rows)[0] == {FRAGILE: "failed", QUICK: "done"}
    (error,) = tmp_path.rglob("error.txt")
    assert error.read_text().rstrip().endswith("ValueError: it is broken today")
    (tmp_path / "broken").unlink()
    assert bench(root, tmp_path, rows)[0] == {FRAGILE: "failed", QUICK: "skipped"}
    assert bench(root, tmp_path, rows, retry=True)[0] == {FRAGILE: "done", QUICK: "skipped"}
    assert not list(tmp_path.rglob("error.txt"))


def test_a_cell_with_a_damaged_result_runs_again(root, tmp_path, journal):
    bench(root, tmp_path, QUICK)
    (file,) = tmp_path.rglob("result.json")
    before = json.loads(file.read_text())
    file.write_text(file.read_text()[:100])
    states, results = bench(root, tmp_path, QUICK)
    assert states == {QUICK: "done"}
    assert results[QUICK]["evaluations"] == before["evaluations"]


@pytest.mark.slow
def test_killed_at_any_moment_finished_cells_are_neither_lost_nor_repeated(root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.kill_and_resume", str(root), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "BENCH_TEST": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] >= 3
    assert counts["rewritten"] == []
    assert counts["finished"] == counts["cells"]


def three_cells(root, out, method, *options):
    """The command line for three seeds of a method of journal_methods."""
    row = f"tests.benchmarks.journal_methods:{method}[backbone=embedded/mae]"
    words = ["bench", "base-to-new", "--root", root, "--datasets", "animals", "--shots", 2, "--epochs", 1]
    return [*words, "--methods", row, "--trust", "--out", out, "--workers", 0, *options]


@pytest.mark.slow
def test_processes_one_of_them_killed(root, tmp_path, journal, run):
    (tmp_path / "deadly").touch()
    done = run(*three_cells(root, tmp_path / "out", "Deadly", "--jobs", 2))
    assert done.status == 0, done.out + done.err
    assert "A worker was killed, or ran out of memory; its work is done again." in done.out
    assert "3/3" in done.out
    assert len(list(tmp_path.rglob("result.json"))) == 3
    assert not list(tmp_path.rglob(".lock"))


@pytest.mark.slow
def test_jobs_of_slurm_under_their_former_names(root, tmp_path, journal, run):
    pytest.importorskip("submitit")
    options = ["--cluster", "slurm", "--cluster-options", "{cluster: local}"]
    done = run(*three_cells(root, tmp_path / "out", "Quick", *options))
    assert done.status == 0, done.out + done.err
    assert "--cluster is now called --engine" in done.err
    assert "Submitted 1 jobs" in done.out
    assert len(journal.read_text().split()) == len(list(tmp_path.rglob("result.json"))) == 3


def test_two_commands_on_one_folder(root, tmp_path, journal, run):
    with lock_folder(tmp_path):
        done = run(*three_cells(root, tmp_path, "Quick"))
        assert done.status == 1
        assert "Another command runs a benchmark in" in done.err
    assert not list(tmp_path.rglob("result.json"))


def test_rows_may_have_image_sizes_of_their_own(root, tmp_path):
    rows = "zero-shot[backbone=embedded/clip],zero-shot[backbone=embedded/clip,image_size=32]"
    _, results = bench(root, tmp_path, rows)
    own, small = (result["backbone"] for result in results.values())
    assert ("image_size" in own, small["image_size"]) == (False, 32)
    assert own["fingerprint"] != small["fingerprint"]
    assert not any("different weights" in note for note in read_results(tmp_path).notes)


def test_the_command_line(root, tmp_path, run):
    """Grid, run, skip and tables, as a user types them."""
    rows = "zero-shot,coop[options.prompts=2]"
    words = ["bench", "base-to-new", "--suite", "embedded", "--root", root, "--datasets", "animals", "--seeds", "1,2"]
    words += ["--methods", rows, "--shots", 2, "--epochs", 1, "--out", tmp_path]
    done = run(*words, "--list")
    assert (done.status, list(tmp_path.iterdir())) == (0, [])
    assert "embedded-animals/zero-shot/seed1-" in done.out
    assert "backbone embedded/clip" in done.out, "settings are printed"
    done = run(*words)
    assert done.status == 0, done.err
    assert "3/3" in done.out
    done = run(*words)
    assert "3 cells, 3 already done" in done.out
    assert "2/3" not in done.out
    (file,) = tmp_path.glob("*/*/zero-shot/*/result.json")
    evaluations = json.loads(file.read_text())["evaluations"]
    base, new = counted(root, CLASSES[:3]), counted(root, CLASSES[3:])
    assert (evaluations["base"]["correct"], evaluations["new"]["correct"]) == (base[0], new[0])
    b, n = 100 * base[0] / base[1], 100 * new[0] / new[1]
    h = 2 * b * n / (b + n) if b + n else 0.0
    done = run("report", tmp_path)
    (line,) = [line for line in done.out.splitlines() if "zero-shot" in line and "0.0" in line and "│" in line][:1]
    assert [f"{number:.2f}" for number in (b, n, h)] == [cell.strip() for cell in line.split("│")[2:5]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vtab", "--suite", "coop"], "vtab is defined for the suites vtab, got 'coop'"),
        (["base-to-new", "--datasets", "cats"], "has no task 'cats'"),
        (["base-to-new", "--seeds", "one"], "--seeds must be whole numbers"),
        (["base-to-new", "--methods", "sepp"], "Did you mean 'sep'"),
        (["base-to-new", "--epochs", "0"], "epochs must be at least 1"),
        (["base-to-new"], "--out is needed"),
        (["base-to-new", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["base-to-new", "--jobs", "1000"], "--jobs must be at most "),
        (["base-to-new", "--engine-options", "{a: 1}"], "--engine-options are for --engine slurm and ray"),
        (
            ["base-to-new", "--methods", "coop[options.class_token_position=back]", "--out", "nowhere"],
            "class_token_position must be one of",
        ),
    ],
)
def test_wrong_command_lines(root, words, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root_option = [] if "vtab" in words else ["--root", root]
    names = [] if "--datasets" in words or "vtab" in words else ["--datasets", "animals"]
    done = run("bench", *words, *root_option, *names)
    assert done.status
    assert message in done.err
    assert not list(tmp_path.iterdir())
